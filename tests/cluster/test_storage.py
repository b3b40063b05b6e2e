"""One contract for all stores: a local folder, and S3 at two servers on this machine (moto, SeaweedFS)."""

from __future__ import annotations

import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.servers.s3_servers import reached_at

from cluster.storage import (
    LocalStorage,
    RemoteStorage,
    Storage,
    check_writable,
    free_bytes,
    join,
    open_ranges,
    open_storage,
)

WRITERS = 16


@pytest.fixture
def s3(moto_endpoint: str) -> Iterator[str]:
    """A prefix of its own, empty."""
    with reached_at(moto_endpoint) as bucket:
        yield join(bucket, uuid.uuid4().hex)


@pytest.fixture(params=["local", "moto", "seaweed"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """Every kind of store, empty."""
    if request.param == "local":
        yield open_storage(str(tmp_path / "store"))
        return
    with reached_at(request.getfixturevalue(f"{request.param}_endpoint")) as bucket:
        yield open_storage(join(bucket, uuid.uuid4().hex, "runs", "one"))


def at_once(writers: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(i)` returns in each of many threads that start together."""
    gate, results = threading.Barrier(writers), [None] * writers

    def run(i: int) -> None:
        gate.wait()
        results[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


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


# Commits ----------------------------------------------------------------------------------------------------


def test_create_makes_an_absent_key_once(storage: Storage) -> None:
    assert storage.create("log/1.json", b"first") is True
    assert storage.create("log/1.json", b"other") is False
    assert storage.read("log/1.json") == b"first"


def test_create_of_identical_content_is_a_success(storage: Storage) -> None:
    """A retried request may meet its own first try."""
    assert storage.create("log/1.json", b"same") is True
    assert storage.create("log/1.json", b"same") is True


def test_create_does_not_replace_what_write_made(storage: Storage) -> None:
    storage.write("log/1.json", b"written")
    assert storage.create("log/1.json", b"created") is False
    assert storage.read("log/1.json") == b"written"


def test_create_of_an_empty_value_is_a_commit_too(storage: Storage) -> None:
    assert storage.create("mark", b"") is True
    assert storage.create("mark", b"x") is False
    assert storage.read("mark") == b""


def test_one_of_many_racing_writers_wins(storage: Storage) -> None:
    """One race; test_commit_races.py runs many."""
    contents = [bytes([65 + i]) * 4096 for i in range(WRITERS)]
    won = at_once(WRITERS, lambda i: storage.create("log/0.json", contents[i]))
    assert won.count(True) == 1
    assert storage.read("log/0.json") == contents[won.index(True)]
    assert storage.keys("log") == ["log/0.json"]


def test_racing_writers_of_the_same_content_all_succeed(storage: Storage) -> None:
    assert all(at_once(WRITERS, lambda i: storage.create("log/1.json", b"the same unit, captured twice")))


# Keys and bytes ---------------------------------------------------------------------------------------------


def test_write_replaces(storage: Storage) -> None:
    for data in (b"old and long", b"new", b""):
        storage.write("a/b", data)
        assert storage.read("a/b") == data
    assert storage.keys("a") == ["a/b"]


def test_readers_see_the_old_bytes_or_the_new_ones(storage: Storage) -> None:
    versions = [bytes([65 + i]) * 100_000 for i in range(4)]
    storage.write("state", versions[0])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for data in versions:
                storage.write("state", data)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = [storage.read("state") for _ in range(30)]
    finally:
        stop.set()
        writer.join()
    assert all(data in versions for data in seen)


def test_a_local_reader_in_the_middle_of_a_file_keeps_its_version(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("state", b"old" * 1000)
    with (tmp_path / "state").open("rb") as reader:
        begun = reader.read(3)
        storage.write("state", b"new")
        assert begun + reader.read() == b"old" * 1000
    assert storage.read("state") == b"new"


def test_keys_are_the_files_directly_below_a_folder_in_order(storage: Storage) -> None:
    for key in ("log/b", "log/a", "log/10", "log/9", "log/deep/c", "logs/d", "e"):
        storage.write(key, b"x")
    assert storage.keys("log") == ["log/10", "log/9", "log/a", "log/b"]
    assert storage.keys("log/deep") == ["log/deep/c"]
    assert storage.keys("nothing") == []


def test_keys_see_what_another_process_wrote_since(storage: Storage) -> None:
    other = open_storage(storage.uri)
    storage.write("log/1", b"x")
    assert storage.keys("log") == ["log/1"]
    other.write("log/2", b"x")
    assert storage.keys("log") == ["log/1", "log/2"]
    other.delete("log/1")
    assert storage.keys("log") == ["log/2"]


def test_keys_hide_what_a_killed_writer_left(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("log/1", b"x")
    (tmp_path / "log" / ".tmp-abc").write_bytes(b"half")
    (tmp_path / "log" / ".2.1234").write_bytes(b"half")
    assert storage.keys("log") == ["log/1"]


def test_writers_leave_nothing_beside_their_keys(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    storage.write("log/1", b"x")
    at_once(WRITERS, lambda i: storage.create("log/2", bytes([i])))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    storage.upload_folder(tmp_path / "model", "log")
    found = sorted(p.name for p in (tmp_path / "store" / "log").iterdir())
    assert found == ["1", "2", "config.json"]


def test_a_missing_key_is_file_not_found(storage: Storage) -> None:
    storage.write("there", b"x")
    with pytest.raises(FileNotFoundError):
        storage.read("absent")
    with pytest.raises(FileNotFoundError):
        storage.read("absent/below")
    assert not storage.exists("absent")
    assert storage.exists("there")


def test_delete_of_a_key(storage: Storage) -> None:
    storage.write("a/1", b"x")
    storage.write("a/12", b"y")
    storage.delete("a/1")
    storage.delete("a/1")  # what is gone may be deleted again
    assert storage.keys("a") == ["a/12"]
    assert storage.create("a/1", b"anew") is True


def test_delete_of_a_folder(storage: Storage) -> None:
    for key in ("step-1/a", "step-1/deep/b", "step-10/a", "step-2"):
        storage.write(key, b"x")
    storage.delete("step-1")
    assert not storage.exists("step-1/a") and not storage.exists("step-1/deep/b")
    assert storage.exists("step-10/a") and storage.exists("step-2")


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


def test_several_ranks_upload_to_one_folder(storage: Storage, tmp_path: Path) -> None:
    """The ranks of a checkpoint write files of their own below the same key."""
    for rank in range(4):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / f"rank-{rank}.pt").write_bytes(bytes([rank]))
    at_once(4, lambda rank: storage.upload_folder(tmp_path / str(rank), "step-1"))
    assert storage.keys("step-1") == [f"step-1/rank-{rank}.pt" for rank in range(4)]


# Opening and checking ---------------------------------------------------------------------------------------


def test_check_writable_leaves_nothing(storage: Storage) -> None:
    check_writable(storage)
    assert storage.keys("") == []


def test_check_writable_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = str(tmp_path / "file" / "runs")
    with pytest.raises(ValueError, match="cannot write") as caught:
        check_writable(open_storage(path))
    assert path in str(caught.value)


def test_check_writable_names_the_bucket(s3: str) -> None:
    with pytest.raises(ValueError, match="cannot write") as caught:
        check_writable(open_storage("s3://no-such-bucket-here/runs"))
    assert "s3://no-such-bucket-here/runs" in str(caught.value)


def test_check_writable_explains_missing_credentials(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    filesystem = fsspec.get_filesystem_class("s3")
    filesystem.clear_instance_cache()
    try:
        with pytest.raises(ValueError, match="cannot write"):
            check_writable(open_storage(s3))
    finally:
        filesystem.clear_instance_cache()


def test_an_endpoint_that_does_not_answer_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client calls it: callers handle OSError, and FileNotFoundError means that there is no such key."""
    monkeypatch.setattr("cluster.storage.s3.ATTEMPTS", 1)
    with reached_at("http://127.0.0.1:9"):
        nowhere = RemoteStorage("s3://shelf/run")
        calls: list[Callable[[], Any]] = [
            lambda: nowhere.read("log/a"),
            lambda: nowhere.write("log/a", b""),
            lambda: nowhere.create("log/a", b""),
            lambda: nowhere.keys("log/a"),
        ]
        for call in calls:
            with pytest.raises(OSError) as caught:
                call()
            assert not isinstance(caught.value, FileNotFoundError)
            assert "s3://shelf/run/log/a" in str(caught.value) and "http://127.0.0.1:9" in str(caught.value)


def test_pyarrow_writes_below_a_key(storage: Storage) -> None:
    """As libraries do that are given a filesystem, Ray Train among them."""
    filesystem, path = storage.arrow_filesystem("train")
    filesystem.create_dir(path, recursive=True)
    with filesystem.open_output_stream(f"{path}/marker") as stream:
        stream.write(b"here")
    assert storage.read("train/marker") == b"here"


def test_no_credentials_go_along_with_what_is_sent_to_others(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    from ray import cloudpickle

    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-secret-of-this-machine")
    storage = open_storage(s3)
    assert not storage.exists("a")
    filesystem, _ = storage.arrow_filesystem("train")
    for sent in (cloudpickle.dumps(filesystem), cloudpickle.dumps(storage), pickle.dumps(storage)):
        assert b"secret" not in sent and b"testtest" not in sent
    assert pickle.loads(pickle.dumps(storage)).uri == storage.uri


def test_a_file_uri_is_a_local_folder(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/runs")
    assert isinstance(storage, LocalStorage)
    storage.write("a", b"x")
    assert (tmp_path / "runs" / "a").read_bytes() == b"x"


def test_local_path_is_where_a_local_key_is(tmp_path: Path, s3: str) -> None:
    local = open_storage(str(tmp_path))
    local.write("a/b", b"x")
    path = local.local_path("a/b")
    assert path is not None and path.read_bytes() == b"x"
    remote = open_storage(s3)
    assert isinstance(remote, RemoteStorage) and remote.local_path("a/b") is None


@pytest.mark.parametrize("uri", ["gs://bucket/x", "https://host/x", "hdfs://x"])
def test_an_unknown_scheme_is_refused_by_name(uri: str) -> None:
    with pytest.raises(ValueError, match="neither a local folder nor s3://") as caught:
        open_storage(uri)
    assert uri in str(caught.value)


def test_free_bytes_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    free = free_bytes(str(tmp_path / "not" / "yet"))
    assert free is not None and free > 0
    assert free_bytes("s3://bucket/x") is None


def test_many_keys_at_once_with_none_for_a_missing_one(storage: Storage) -> None:
    storage.write("log/1", b"one")
    storage.write("log/3", b"")
    assert storage.read_many(["log/3", "log/2", "log/1"]) == [b"", None, b"one"]
    assert storage.read_many(["nothing"]) == [None]
    assert storage.read_many([]) == []


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
