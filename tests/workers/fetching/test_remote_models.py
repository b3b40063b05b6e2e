"""Models in an s3:// folder: what they are told by, what is fetched for the checks, and that weights come once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support.servers.faulty_s3 import FaultyS3, faulty
from support.servers.s3_servers import reached_at

from cluster.storage import open_storage
from workers.fetching import node_lock, progress, remote
from workers.fetching.folder import model_folder
from workers.fetching.progress import size_text
from workers.fingerprint import fingerprint_like, model_fingerprint

NAMES = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
SHARDS = {name: save({f"layer.{name}": torch.full((49_970,), float(i))}) for i, name in enumerate(NAMES)}
INDEX = json.dumps({"weight_map": {f"layer.{name}": name for name in SHARDS}}).encode()
SETTINGS = {"config.json": b'{"hidden_size": 8}', "tokenizer.json": b"{}", "model.safetensors.index.json": INDEX}
FILES = SETTINGS | SHARDS | {"pytorch_model.bin": b"older", "notes.pdf": b"no part of it"}


@dataclass
class Shelf:
    """A model in a bucket behind a proxy that counts, and a node's empty cache."""

    uri: str
    proxy: FaultyS3
    cache: Path

    def put(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            open_storage(self.uri).write(name, data)
        remote._listed.clear()

    def fetched(self) -> Counter[str]:
        """How often each file was asked for."""
        return Counter({path.rpartition("/")[2]: n for path, n in self.proxy.fetched.items() if n and "model" in path})


@pytest.fixture
def shelf(moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setenv("STILLHOUSE_MODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PART_BYTES", 64 << 10)
    with faulty(moto_endpoint) as (endpoint, proxy), reached_at(endpoint) as bucket:
        made = Shelf(f"{bucket}/{tmp_path.name}/model", proxy, tmp_path / "cache")
        made.put(FILES)
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def program(script: str, **variables: str) -> subprocess.Popen[str]:
    before = "from workers.fetching import remote; from workers.fetching.folder import model_folder\n"
    command = [sys.executable, "-c", before + script]
    return subprocess.Popen(command, env=os.environ | variables, text=True, stderr=subprocess.PIPE)


def test_the_checks_fetch_settings_alone_and_the_fingerprint_nothing(shelf: Shelf) -> None:
    first = model_fingerprint(shelf.uri)
    assert not shelf.fetched() and first.startswith("s3:") and first == model_fingerprint(f"{shelf.uri}/")
    assert contents(model_folder(shelf.uri, weights=False)) == SETTINGS
    assert contents(model_folder(shelf.uri, weights=False)) == SETTINGS
    assert shelf.fetched() == dict.fromkeys(SETTINGS, 1)
    shelf.put({"tokenizer.json": b"[]", "notes.pdf": b"other"})
    assert model_fingerprint(shelf.uri) == first == fingerprint_like(first, shelf.uri)
    name = next(iter(SHARDS))
    shelf.put({name: SHARDS[name][:-1] + b"x"})
    assert model_fingerprint(shelf.uri) != first


def test_a_whole_model_is_what_is_loaded_and_is_fetched_again_when_it_is_another(
    shelf: Shelf, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(shelf.uri)
    assert contents(folder) == SETTINGS | SHARDS and folder.is_relative_to(shelf.cache)
    said = capfd.readouterr().err.splitlines()
    assert "fetching" in said[0] and shelf.uri in said[0] and "fetched" in said[-1]
    before = shelf.fetched()
    assert model_folder(shelf.uri) == folder and shelf.fetched() == before
    (folder / "tokenizer.json").unlink()  # by a person who makes room
    assert contents(model_folder(shelf.uri)) == SETTINGS | SHARDS
    assert {name: shelf.fetched()[name] for name in SHARDS} == {name: before[name] for name in SHARDS}
    shelf.put({"config.json": b"{}"})
    assert contents(model_folder(shelf.uri))["config.json"] == b"{}"
    assert contents(folder)["config.json"] == SETTINGS["config.json"]  # who runs on it keeps it


def test_what_a_killed_fetch_had_whole_is_kept_and_nothing_looks_whole(shelf: Shelf, tmp_path: Path) -> None:
    go = f"remote.THREADS = 1; remote.PART_BYTES = 65536; model_folder({shelf.uri!r})"
    at = {"STILLHOUSE_PAUSE_AT": "model-file-fetched:4", "STILLHOUSE_PAUSE_DIR": str(tmp_path)}
    killed = program(go, **at)
    marker = tmp_path / "model-file-fetched"
    while not marker.exists():
        assert killed.poll() is None
        time.sleep(0.02)
    waiting = program(go)  # takes over as soon as the other one dies
    time.sleep(0.5)
    (place,) = [path.parent for path in shelf.cache.rglob("fetching")]
    had = {path.name for path in (place / "fetching").iterdir() if not path.name.startswith(".")}
    assert had >= set(SETTINGS) and had & set(SHARDS) and not set(SHARDS) <= had and not (place / "whole").exists()
    before = shelf.fetched()
    killed.kill()
    killed.wait()
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    after = shelf.fetched()
    assert {name for name in SHARDS if after[name] > before[name]} == set(SHARDS) - had
    assert contents(place / "whole") == SETTINGS | SHARDS and not (place / "fetching").exists()


def test_two_processes_of_a_node_fetch_once(shelf: Shelf) -> None:
    started = [program(f"remote.PART_BYTES = 65536; model_folder({shelf.uri!r})") for _ in range(2)]
    said = [p.communicate(timeout=60)[1] for p in started]
    assert [p.returncode for p in started] == [0, 0], said
    assert {name: shelf.fetched()[name] for name in SHARDS} == dict.fromkeys(SHARDS, 4)  # parts of one file
    assert sum("fetched s3://" in text for text in said) == 1


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("config.json", ["has no config.json"]),
        ("model-00002-of-00003.safetensors", ["lacks model-00002-of-00003.safetensors", "upload"]),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_by_the_checks(shelf: Shelf, lost: str, words: list[str]) -> None:
    open_storage(shelf.uri).delete(lost)
    remote._listed.clear()
    with pytest.raises(ValueError) as refused:
        model_folder(shelf.uri, weights=False)
    assert all(word in str(refused.value) for word in [shelf.uri, *words])
    with pytest.raises(ValueError, match=r"nothing at 's3://.*/nowhere'"):
        model_folder(f"{shelf.uri}/nowhere")


def test_a_full_disk_is_known_before_and_told_with_its_remedy(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr(node_lock.shutil, "disk_usage", lambda _: free)
        with pytest.raises(ValueError, match="disk is full") as refused:
            model_folder(shelf.uri)
    needed = size_text(sum(map(len, (SETTINGS | SHARDS).values())))
    words = (shelf.uri, str(shelf.cache), needed, "cluster.model_cache")
    assert [word for word in words if word not in str(refused.value)] == [], refused.value
    assert not set(shelf.fetched()) & set(SHARDS)

    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(remote._Parts, "fetch", full)
        with pytest.raises(ValueError, match="disk is full"):
            model_folder(shelf.uri)
    assert contents(model_folder(shelf.uri)) == SETTINGS | SHARDS  # and when there is room, it goes on


def test_a_folder_that_is_written_to_meanwhile_is_not_taken(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    name, read = next(iter(SHARDS)), remote._fetch_files

    def overtaken(*given: object) -> None:
        read(*given)  # type: ignore[arg-type]
        open_storage(shelf.uri).write(name, SHARDS[name][:-1] + b"y")

    monkeypatch.setattr(remote, "_fetch_files", overtaken)
    with pytest.raises(ValueError, match="written to while it was fetched"):
        model_folder(shelf.uri)
    assert not list(shelf.cache.rglob("whole"))


def test_a_long_fetch_says_how_far_it_is_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [0.0]
    monkeypatch.setattr(progress, "_said_by", [said.append])
    shown = progress.Progress("m", 100 * 10**9, clock=lambda: now[0])
    for second in range(61):
        now[0] = second
        shown.add(10**9)
        shown.look()
    assert len(said) == 3 and "30.0 GB" not in said[0] and "31.0 GB of 100.0 GB" in said[1] and "left" in said[1]


def test_a_file_that_is_cut_off_in_the_store_is_said_when_it_was_fetched(shelf: Shelf) -> None:
    name = next(iter(SHARDS))
    shelf.put({name: SHARDS[name][:100]})
    with pytest.raises(ValueError, match=f"{shelf.uri}/{name}' is not a whole safetensors file.*upload it again"):
        model_folder(shelf.uri)


@pytest.mark.parametrize("model", ["S3://bucket/m", "gs://bucket/m", "s3:/bucket/m", "s3://", "https://host/m"])
def test_a_name_of_no_store_that_is_read_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match=r"s3://(bucket/folder|\.\.\.)"):
        model_folder(model)


@pytest.mark.parametrize("model", ["s3://bucket/m", "."])
def test_a_folder_has_no_revision(model: str) -> None:
    with pytest.raises(ValueError, match=r"^revision: 'main'"):
        model_folder(model, "main")
