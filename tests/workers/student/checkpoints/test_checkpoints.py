"""Who may write a student's checkpoints, and which one a training goes on from. Loading and saving are tested with
engines (test_zero_stages.py, test_killed_students.py)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from cluster.holder import Holder
from cluster.lease import Fence, LeaseLost
from cluster.storage import LocalStorage
from workers.layout import StudentLayout
from workers.student.checkpoints.checkpoint import CheckpointPointer, Checkpoints
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
        storage.write(f"{pointer.key}/state/state.safetensors", b"weights")
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
