"""One contract for all stores: a local folder, and S3 at two servers on this machine (moto, SeaweedFS)."""

from __future__ import annotations

import threading
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
    open_storage,
)

WRITERS = 16


@pytest.fixture
def s3(moto_endpoint: str) -> Iterator[str]:
    """A prefix of its own, empty."""
    with reached_at(moto_endpoint) as bucket:
        yield join(bucket, uuid.uuid4().hex)


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


def test_several_ranks_upload_to_one_folder(storage: Storage, tmp_path: Path) -> None:
    """The ranks of a checkpoint write files of their own below the same key."""
    for rank in range(4):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / f"rank-{rank}.pt").write_bytes(bytes([rank]))
    at_once(4, lambda rank: storage.upload_folder(tmp_path / str(rank), "step-1"))
    assert storage.keys("step-1") == [f"step-1/rank-{rank}.pt" for rank in range(4)]


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
