"""Parts of keys, and folders of many, at all stores: read by ranges, listed, uploaded, copied within the store."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from cluster.storage import LocalStorage, RemoteStorage, Storage, open_ranges

# Parts of a key ----------------------------------------------------------------------------------------------


def test_a_part_of_a_key_is_read(storage: Storage) -> None:
    storage.write("a/data", bytes(range(100)))
    assert storage.size("a/data") == 100
    assert storage.read_range("a/data", 10, 3) == bytes([10, 11, 12])
    assert storage.read_range("a/data", 95, 50) == bytes(range(95, 100))
    assert storage.read_range("a/data", 0, 0) == b""
    for missing in (lambda: storage.size("a/none"), lambda: storage.read_range("a/none", 0, 5)):
        with pytest.raises(FileNotFoundError):
            missing()


def test_a_key_is_a_file_of_which_only_what_is_read_is_fetched(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"".join(b"line %06d\n" % n for n in range(100_000))
    storage.write("a/lines", data)
    asked: list[int] = []
    read_range = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *part: asked.append(part[2]) or read_range(*part))
    with open_ranges(storage, "a/lines") as file:
        file.seek(600_000)
        assert file.readline() == b"line 050000\n" and file.readline() == b"line 050001\n"
        assert file.seek(-12, io.SEEK_END) == len(data) - 12 and file.read() == b"line 099999\n"
        file.seek(0)
        assert [next(file) for _ in range(3)] == data[:36].splitlines(keepends=True)
    assert sum(asked) <= 3 << 16
    asked.clear()
    with open_ranges(storage, "a/lines") as file:
        assert [file.read(size) for size in (10, 100_000, 1_000_000)] == [
            data[:10],
            data[10:100_010],
            data[100_010:1_100_010],
        ]
        assert file.read() == data[1_100_010:]
    assert len(asked) <= 8, "blocks grow while it is read on"


# Folders ----------------------------------------------------------------------------------------------------


def fill(folder: Path) -> dict[str, bytes]:
    files = {"config.json": b"{}", "deep/down/weights.bin": bytes(range(256)) * 500, "deep/empty": b"", "zero.pt": b"z"}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_goes_up_and_comes_down(storage: Storage, tmp_path: Path) -> None:
    files = fill(tmp_path / "model")
    keys = storage.upload_folder(tmp_path / "model", "students/a/final")
    assert sorted(keys) == sorted(f"students/a/final/{name}" for name in files)
    assert {key: storage.read(key) for key in keys} == {f"students/a/final/{n}": d for n, d in files.items()}
    storage.download_folder("students/a/final", tmp_path / "back")
    assert content(tmp_path / "back") == files


def test_upload_replaces_and_download_adds(storage: Storage, tmp_path: Path) -> None:
    files = fill(tmp_path / "model")
    storage.write("final/config.json", b"old and longer")
    storage.upload_folder(tmp_path / "model", "final")
    storage.write("final-2/other", b"a neighbour whose name begins the same")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mine").write_bytes(b"kept")
    storage.download_folder("final", tmp_path / "back")
    assert content(tmp_path / "back") == {**files, "mine": b"kept"}


def test_download_of_a_missing_folder_is_file_not_found(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.download_folder("absent", tmp_path / "back")


# Listings and copies ------------------------------------------------------------------------------------------


def test_a_listing_tells_sizes_and_times_at_any_depth(storage: Storage) -> None:
    storage.write("parts/g0/b.parquet", b"12345")
    storage.write("parts/a", b"")
    storage.write("other", b"x")
    found = storage.listing("parts")
    assert [(f.key, f.bytes) for f in found] == [("parts/a", 0), ("parts/g0/b.parquet", 5)]
    assert all(abs(f.modified - time.time()) < 60 for f in found)
    assert storage.listing("nothing") == []


def test_files_of_a_folder_tell_when_a_key_was_made_anew(storage: Storage) -> None:
    """With other bytes of the same length, also where only a whole second passed as S3 counts them."""
    storage.write("log/1", b"first")
    storage.write("log/2", b"other")
    storage.write("log/deep/3", b"below")
    before = {f.key: f.version for f in storage.files("log")}
    assert before.keys() == {"log/1", "log/2"} and all(before.values())
    storage.delete("log/1")
    time.sleep(0.02)  # a local file system counts in ticks of some milliseconds
    storage.create("log/1", b"again")
    after = {f.key: f.version for f in storage.files("log")}
    assert after["log/1"] != before["log/1"] and after["log/2"] == before["log/2"]
    assert {f.key: f.version for f in storage.listing("log")}.items() >= after.items()
    assert list(storage.files("nothing")) == []


def test_a_listing_of_several_pages(storage: Storage) -> None:
    """S3 answers 1,000 keys at a time."""
    keys = [f"log/{i:08d}" for i in range(1003)]
    if isinstance(storage, RemoteStorage):
        filesystem, base = storage.arrow_filesystem("")
        filesystem.handler.fs.pipe({f"{base}{key}": b"x" for key in keys})
    else:
        for key in keys:
            storage.write(key, b"x")
    storage.write("log/repairs/1", b"x")
    assert storage.keys("log") == keys
    assert sorted(f.key for f in storage.files("log")) == keys
    assert [f.key for f in storage.listing("log")] == [*keys, "log/repairs/1"]


def test_a_folder_is_copied_within_the_store(storage: Storage, tmp_path: Path) -> None:
    files = fill(tmp_path / "model")
    storage.upload_folder(tmp_path / "model", "students/a/final")
    storage.write("students/a/final-2/other", b"a neighbour whose name begins the same")
    storage.write("exports/a/config.json", b"of an older export")
    keys = storage.copy_folder("students/a/final", "exports/a")
    assert sorted(keys) == sorted(f"exports/a/{name}" for name in files)
    assert {key: storage.read(key) for key in keys} == {f"exports/a/{n}": d for n, d in files.items()}
    storage.write("exports/a/config.json", b"changed")
    assert storage.read("students/a/final/config.json") == b"{}"
    with pytest.raises(FileNotFoundError):
        storage.copy_folder("absent", "exports/b")


def test_a_large_object_is_copied_by_the_server(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, on S3; in the kernel, or where that cannot, as any file."""
    from s3fs import core

    monkeypatch.setattr(core, "MANAGED_COPY_THRESHOLD", 5 << 20)
    data = bytes(range(251)) * (11 << 12)
    storage.write("final/model.safetensors", data)
    if isinstance(storage, RemoteStorage):
        monkeypatch.setattr(storage, "read", None)
    storage.copy_folder("final", "exports/a")
    monkeypatch.undo()
    assert storage.read("exports/a/model.safetensors") == data


def test_a_copy_in_place_of_one_that_the_kernel_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.copy_file_range", refuse, raising=False)
    storage = LocalStorage(tmp_path)
    storage.write("final/a", b"weights")
    storage.copy_folder("final", "exports/a")
    assert storage.read("exports/a/a") == b"weights"


def test_folders_right_below_are_listed_by_name_alone(storage: Storage) -> None:
    assert storage.folders("") == [] == storage.folders("nothing")
    for key in ("a/x/1", "a/x/y/2", "a/z/3", "a/file", "b/4", "top"):
        storage.write(key, b"")
    assert storage.folders("") == ["a", "b"]
    assert storage.folders("a") == ["x", "z"] == storage.folders("a/")
    assert storage.folders("a/x") == ["y"] and storage.folders("b") == []
