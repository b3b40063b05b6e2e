"""Who may write a student's checkpoints, which one a training goes on from, and what is uploaded beside it. Loading and
saving are tested with engines of DeepSpeed's (test_resharding.py, test_zero_stages.py, test_killed_students.py)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cluster.holder import Holder
from cluster.lease import Fence, LeaseLost
from cluster.storage import LocalStorage
from workers.layout import StudentLayout
from workers.student.checkpoints.checkpoint import CheckpointPointer, Checkpoints
from workers.student.checkpoints.parts import part_name
from workers.teacher.engines.loading import join_process_group

ROOT = "students/legal"


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A group of one process: this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    join_process_group(0, 1, "127.0.0.1", port, "cpu")
    yield
    dist.destroy_process_group()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path)
    storage.create("attempts/0001.json", Holder.this_process().to_bytes())
    return storage


class Loading(Checkpoints):
    """Notes what is loaded; its engines are none."""

    loaded: list[int]

    def load(self, engine: Any, pointer: CheckpointPointer) -> None:
        self.loaded = [*getattr(self, "loaded", []), pointer.step]


def checkpoints(storage: LocalStorage, said: list[str] | None = None) -> Loading:
    return Loading(storage, StudentLayout("legal"), Fence(storage, 1), (said if said is not None else []).append)


def pointer_of(storage: LocalStorage, step: int, *, files: bool) -> CheckpointPointer:
    pointer = CheckpointPointer(step, 100 * step, 1, 0, 1.0 / step, {}, f"{ROOT}/checkpoints/step-{step:08d}-x")
    storage.write(f"{ROOT}/log/{step:08d}.json", json.dumps(asdict(pointer)).encode())
    if files:
        storage.write(f"{pointer.key}/{part_name(0)}", b"weights")
    return pointer


def test_workers_that_were_taken_for_dead_write_nothing_more(storage: LocalStorage) -> None:
    old, new = checkpoints(storage), checkpoints(storage)
    assert old.resume(None) is None
    old.check()
    assert new.resume(None) is None
    with pytest.raises(LeaseLost, match="taken for dead"):
        old.check()
    with pytest.raises(LeaseLost, match="taken for dead"):
        old.save(None, pointer_of(storage, 2, files=False))
    new.check()


def test_training_resumes_from_the_newest_checkpoint_that_has_files(storage: LocalStorage) -> None:
    for step, files in ((2, True), (4, True), (6, False)):
        pointer_of(storage, step, files=files)
    said: list[str] = []
    found = checkpoints(storage, said)
    pointer = found.resume(None)
    assert pointer is not None and pointer.step == 4 and found.loaded == [4]
    assert len(said) == 1 and "checkpoint of step 6 are gone" in said[0]
    assert storage.keys(f"{ROOT}/log") == [f"{ROOT}/log/{s:08d}.json" for s in (2, 4)]
    assert found.best().step == 4  # not one without files


def test_no_checkpoint_with_files_is_a_beginning(storage: LocalStorage) -> None:
    pointer_of(storage, 2, files=False)
    said: list[str] = []
    assert checkpoints(storage, said).resume(None) is None
    assert len(said) == 1


def test_a_checkpoint_of_an_older_version_is_refused_with_what_to_do(storage: LocalStorage) -> None:
    fields = asdict(pointer_of(storage, 4, files=True))
    checkpoints(storage).check_format()
    del fields["format"]  # which they did not have
    storage.write(f"{ROOT}/log/00000004.json", json.dumps(fields).encode())
    with pytest.raises(ValueError, match=rf"has format 1.*finish its training with the version.*delete {ROOT}/log"):
        checkpoints(storage).check_format()


# Uploads beside the training -------------------------------------------------------------------------------------


class Alone:
    """What checkpoints know of an engine that partitions nothing."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.module.parameters())

    def zero_optimization_stage(self) -> int:
        return 0

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.module(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()

    def weights(self) -> torch.Tensor:
        return self.module.weight.detach().clone()


class Slow(LocalStorage):
    """Uploads when it is let to, or fails."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.let, self.fault = threading.Event(), ""

    def upload_folder(self, folder: Path, key: str) -> list[str]:
        assert self.let.wait(60)
        if self.fault:
            raise OSError(self.fault)
        return super().upload_folder(folder, key)


@pytest.fixture
def slow(storage: LocalStorage) -> Slow:
    return Slow(storage.root)


def saving(storage: LocalStorage, saved: list[int], engine: Alone, step: int = 1) -> Checkpoints:
    """Checkpoints of which one is under way."""
    found = Checkpoints(
        storage, StudentLayout("legal"), Fence(storage, 1), saved=lambda pointer: saved.append(pointer.step)
    )
    assert found.resume(None) is None
    engine.step()
    found.save(engine, CheckpointPointer(step, 10, 1, 0, 1.0, {}, found.new_key(step)))
    return found


def test_training_goes_on_while_a_checkpoint_is_uploaded_and_is_not_in_it(slow: Slow) -> None:
    engine, saved = Alone(), list[int]()
    checkpoints = saving(slow, saved, engine)
    then = engine.weights()
    engine.step()
    checkpoints.raise_fault()
    assert not slow.keys(f"{ROOT}/log") and not saved
    slow.let.set()
    checkpoints.finish()
    assert saved == [1] and [p.step for p in checkpoints.pointers()] == [1]
    again = Alone()
    checkpoints.load(again, checkpoints.best())
    assert torch.equal(again.weights(), then) and not torch.equal(again.weights(), engine.weights())
    again.step()
    assert torch.equal(again.weights(), engine.weights())
    checkpoints.close()


def test_an_upload_that_fails_is_told_at_the_next_step_and_leaves_no_pointer(slow: Slow) -> None:
    slow.fault = "No space left on device"
    saved: list[int] = []
    checkpoints = saving(slow, saved, Alone())
    slow.let.set()
    with pytest.raises(OSError, match="No space left"):
        checkpoints.finish()
    with pytest.raises(OSError, match="No space left"):
        checkpoints.raise_fault()
    assert not slow.keys(f"{ROOT}/log") and not saved
    checkpoints.close()


def test_a_training_that_fails_leaves_the_checkpoint_that_was_under_way(slow: Slow) -> None:
    saved: list[int] = []
    checkpoints = saving(slow, saved, Alone())
    slow.let.set()
    checkpoints.close()
    assert saved == [1] and [p.step for p in checkpoints.pointers()] == [1]


def test_workers_that_were_taken_for_dead_make_no_pointer_of_what_they_had_begun_to_upload(slow: Slow) -> None:
    saved: list[int] = []
    old = saving(slow, saved, Alone())
    new = checkpoints(slow)
    assert new.resume(None) is None
    slow.let.set()
    with pytest.raises(LeaseLost, match="taken for dead"):
        old.finish()
    assert not slow.keys(f"{ROOT}/log") and not saved
    new.check()
    assert new.resume(None) is None
    assert not slow.listing(f"{ROOT}/checkpoints"), "what they had uploaded is deleted"
    old.close()
