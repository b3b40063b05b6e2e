"""Students whose workers are killed at any point and go on: as many to the same bits, more or fewer to the same losses.

The workers are real processes that are sent SIGKILL. What was killed first, second, ... is in LIVES.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comparing.tolerances import LOSSES
from support.small_students import CommitUnit, MakeTargets, V, fill_store, life, live, make_student, student_job

from cluster.storage import LocalStorage
from workers.targets.encoding.schema import StoreHeader

STEPS, BATCH = 6, 100
TRAIN: dict[str, Any] = {
    "batch_tokens": BATCH,
    "tokens": BATCH * STEPS - BATCH // 2,
    "micro_tokens": 48,
    "lr": 3e-3,
    "warmup": 0.3,
    "weight_decay": 0.1,
    "clip": 0.2,
    "checkpoint_steps": 2,
}

Life = tuple[int, str | None]
"""Workers, and the point at which they are killed."""

WHOLE: list[Life] = [(2, None)]
KILLED: list[Life] = [
    (2, "step-done:1"),  # nothing was saved
    (2, "file-uploaded:2"),  # some files of the first checkpoint
    (2, "checkpoint-files:1"),  # all its files, and no pointer
    (2, "checkpoint-pointer:2"),  # the second one's pointer, nothing tidied
    (2, "step-done:1"),
    (2, "final-files"),  # the trained model, and no mark that it is whole
    (2, "file-uploaded:1"),  # some files of the trained model
    (2, None),
]
KILLED_PARTITIONED: list[Life] = [
    (2, "file-uploaded:2"),
    (2, "checkpoint-pointer:2"),
    (2, "final-files"),
    (2, None),
]
"""Where weights are partitioned too, at the points at which that is seen."""
KILLED_ALONE: list[Life] = [(1, "file-uploaded:1" if point == "file-uploaded:2" else point) for _, point in KILLED]
"""A checkpoint of one is one file."""
LIVES: dict[str, list[Life]] = {
    "whole": WHOLE,
    "shrunk": [(2, "step-done:4"), (1, None)],
    "grown": [(1, "step-done:4"), (2, None)],
}


CHANGING: dict[str, list[Life]] = {
    "to and fro": [(1, "step-done:3"), (2, "step-done:3"), (1, None)],
    "killed as it changes": [(2, "step-done:4"), (1, "checkpoint-converted"), (1, None)],
}
"""Whose number of workers changes more than once, or who are killed while their checkpoint is converted."""


class Students:
    """Their folder, and a way to let them live."""

    def __init__(self, root: Path) -> None:
        self.root, self.storage = root, LocalStorage(root)
        self._lives: list[dict[str, Any]] = []

    def add(self, name: str, zero: int | str, lives: list[Life], **train: Any) -> None:
        job = student_job(self.root, name, {"kl": 1.0, "ce": 0.25}, {**TRAIN, "zero": zero, **train})
        self._lives += [life(job, ranks, pause) for ranks, pause in lives]

    def live(self) -> None:
        live(self.root, self._lives)
        self._lives = []

    def done(self, name: str) -> dict[str, Any]:
        return json.loads(self.storage.read(f"students/{name}/done.json"))

    def weights(self, name: str) -> bytes:
        return self.storage.read(f"students/{name}/final/model.safetensors")

    def losses(self, name: str) -> list[float]:
        assert [s["step"] for s in self.done(name)["history"]] == list(range(1, STEPS + 1))
        return [s["loss"] for s in self.done(name)["history"]]

    def pointers(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(self.storage.read(key)) for key in self.storage.keys(f"students/{name}/log")]

    def folders(self, name: str) -> set[str]:
        """Keys of the folders with checkpoints."""
        found = self.storage.listing(f"students/{name}/checkpoints")
        return {"/".join(f.key.split("/")[:4]) for f in found}


@pytest.fixture(scope="module")
def empty(
    tmp_path_factory: pytest.TempPathFactory,
    make_header: Callable[..., StoreHeader],
    make_targets: MakeTargets,
    commit: CommitUnit,
) -> Students:
    root = tmp_path_factory.mktemp("run")
    fill_store(LocalStorage(root), make_header(vocabulary=V), make_targets, commit)
    make_student(root)
    return Students(root)


@pytest.fixture(scope="module")
def students(empty: Students) -> Students:
    for zero in (1, 3):
        for kind, lives in LIVES.items():
            empty.add(f"{kind}-{zero}", zero, lives)
    empty.add("killed-1", 1, KILLED)
    empty.add("killed-3", 3, KILLED_PARTITIONED)
    empty.add("whole-auto", "auto", WHOLE)
    empty.add("whole-alone", "auto", [(1, None)])
    empty.add("killed-alone", "auto", KILLED_ALONE)
    for name, lives in CHANGING.items():
        empty.add(name, "auto", lives)
    empty.add("whole-bfloat16", 1, WHOLE, dtype="bfloat16")
    empty.add("killed-bfloat16", 1, [(2, "step-done:3"), (2, None)], dtype="bfloat16")
    empty.live()
    return empty


@pytest.fixture(scope="module")
def of_stage_2(empty: Students) -> Students:
    for kind, lives in LIVES.items():
        empty.add(f"{kind}-2", 2, lives)
    empty.live()
    return empty


# Of stage 2, which shares its checkpoints with stage 1, in `make test-long`; what `auto` means is in CHANGING.
STAGES = [(1, "students"), (3, "students"), pytest.param(2, "of_stage_2", marks=pytest.mark.long)]


@pytest.mark.parametrize("zero, those", STAGES)
@pytest.mark.parametrize("kind", ["shrunk", "grown"])
def test_another_number_of_workers_resumes_with_the_same_losses(
    kind: str, zero: int, those: str, request: pytest.FixtureRequest
) -> None:
    students: Students = request.getfixturevalue(those)
    whole = students.losses(f"whole-{zero}")
    assert max(whole) - min(whole) > 0.01
    np.testing.assert_allclose(students.losses(f"{kind}-{zero}"), whole, rtol=0, atol=LOSSES)
    assert students.done(f"{kind}-{zero}")["workers"] == {"shrunk": 1, "grown": 2}[kind]


@pytest.mark.parametrize("name", CHANGING)
def test_the_number_of_workers_may_change_again_and_again(name: str, students: Students) -> None:
    np.testing.assert_allclose(students.losses(name), students.losses("whole-auto"), rtol=0, atol=LOSSES)
    assert all(not folder.endswith("-universal") for folder in students.folders(name))


def test_a_worker_that_is_alone_partitions_nothing_and_two_share_the_optimisers_state(students: Students) -> None:
    assert {p["zero"] for p in students.pointers("whole-alone")} == {0}
    assert {p["zero"] for p in students.pointers("whole-auto")} == {1}


@pytest.mark.parametrize("zero", [1, 3, "alone", "bfloat16"])
def test_killed_anywhere_ends_with_the_same_bits(zero: int | str, students: Students) -> None:
    assert students.done(f"killed-{zero}") == students.done(f"whole-{zero}")
    files = students.storage.listing(f"students/whole-{zero}/final")
    assert {f.key.split("/")[-1] for f in files} >= {"model.safetensors", "config.json"}
    for file in files:
        other = file.key.replace("whole", "killed")
        assert students.storage.read(other) == students.storage.read(file.key), other
    assert len(students.storage.listing(f"students/killed-{zero}/final")) == len(files)
