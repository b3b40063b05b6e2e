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
import torch
from safetensors.torch import load
from support.comparing.tolerances import LOSSES
from support.small_students import (
    CommitUnit,
    MakeTargets,
    V,
    assert_trained_alike,
    fill_store,
    life,
    live,
    make_student,
    student_job,
)

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
    (2, "file-uploaded:1"),  # one worker's part of the first checkpoint, and no mark of it
    (2, "checkpoint-files:1"),  # a part, and no pointer
    (2, "checkpoint-pointer:2"),  # the second one's pointer, nothing tidied
    (2, "step-done:1"),
    (2, "final-files"),  # the trained model, and no mark that it is whole
    (2, "file-uploaded:1"),  # some files of the trained model
    (2, None),
]
KILLED_PARTITIONED: list[Life] = [
    (2, "checkpoint-files:2"),
    (2, "checkpoint-pointer:1"),
    (2, "final-files"),
    (2, None),
]
"""Where weights are partitioned too, at the points at which that is seen."""
KILLED_ALONE: list[Life] = [
    (1, "step-done:1"),
    (1, "file-uploaded:1"),  # a checkpoint of one is one file
    (1, "checkpoint-files:1"),
    (1, "snapshot-files"),  # of step 4: all its files, and no mark; the checkpoint of step 2 is there
    (1, "file-uploaded:1"),  # some of its files
    (1, "snapshot-facts"),  # its mark, and no checkpoint of its step
    (1, "checkpoint-pointer:1"),
    (1, "step-done:1"),
    (1, "final-files"),
    (1, "file-uploaded:1"),
    (1, None),
]
SNAPSHOT_STEP = 4
SNAPSHOT = {"snapshots": {"at_control_tokens": BATCH * SNAPSHOT_STEP - BATCH // 2}}
END = {"end_tokens": SNAPSHOT["snapshots"]["at_control_tokens"]}
LIVES: dict[str, list[Life]] = {
    "whole": WHOLE,
    "shrunk": [(2, "step-done:4"), (1, None)],
    "grown": [(1, "step-done:4"), (2, None)],
}


CHANGING: dict[str, list[Life]] = {
    "to and fro": [(1, "step-done:3"), (2, "step-done:3"), (1, None)],
}
"""Whose number of workers changes more than once."""


class Students:
    """Their folder, and a way to let them live."""

    def __init__(self, root: Path) -> None:
        self.root, self.storage = root, LocalStorage(root)
        self._lives: list[dict[str, Any]] = []

    def add(self, name: str, zero: int | str, lives: list[Life], extra: dict[str, Any] = {}, **train: Any) -> None:
        job = student_job(self.root, name, {"kl": 1.0, "ce": 0.25}, {**TRAIN, "zero": zero, **train}, **extra)
        self._lives += [life(job, ranks, pause) for ranks, pause in lives]

    def live(self) -> None:
        live(self.root, self._lives)
        self._lives = []

    def done(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.storage.read(f"students/{name}/done.json"))
        assert found.pop("waited_s") >= 0  # a clock's
        return found

    def weights(self, name: str, folder: str = "final") -> bytes:
        return self.storage.read(f"students/{name}/{folder}/model.safetensors")

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
            empty.add(f"{kind}-{zero}", zero, lives, SNAPSHOT if zero == 3 else {})
    empty.add("killed-1", 1, KILLED)
    empty.add("killed-3", 3, KILLED_PARTITIONED)
    empty.add("whole-auto", "auto", WHOLE)
    empty.add("whole-alone", "auto", [(1, None)], SNAPSHOT)
    empty.add("killed-alone", "auto", KILLED_ALONE, SNAPSHOT)
    empty.add("ended-alone", "auto", [(1, None)], END)
    empty.add("ended-3", 3, WHOLE, END)
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


# What a specialist keeps for its control, and where a control ends ---------------------------------------------


def snapshot(students: Students, name: str) -> Path:
    return students.root / "students" / name / "at_control_tokens"


def test_a_snapshot_has_the_weights_of_its_step(students: Students) -> None:
    """Those of the checkpoint of that step. That it changes nothing later is seen where the killed are compared: of
    those, who goes on after the step has not written it in the same life."""
    [pointer] = [p for p in students.pointers("whole-alone") if p["step"] == SNAPSHOT_STEP]
    facts = json.loads(students.storage.read("students/whole-alone/at_control_tokens.json"))
    assert facts == {"step": SNAPSHOT_STEP, "tokens": pointer["tokens"]}
    assert facts["tokens"] >= SNAPSHOT["snapshots"]["at_control_tokens"] > facts["tokens"] - BATCH
    saved = load(students.storage.read(f"{pointer['key']}/part-00000.safetensors"))
    kept = load(students.weights("whole-alone", "at_control_tokens"))
    weights = {name.removeprefix("fp32.causal_lm."): w for name, w in saved.items() if name.startswith("fp32.")}
    assert kept.keys() - weights.keys() <= {"lm_head.weight"}  # tied to the embeddings
    assert all(torch.equal(kept[name].view(-1), weight) for name, weight in weights.items())
    assert students.weights("whole-alone") != students.weights("whole-alone", "at_control_tokens")


@pytest.mark.parametrize("kind", ["alone", "3"])
def test_a_training_that_ends_early_is_the_whole_one_up_to_there(kind: str, students: Students) -> None:
    """To the bit, as rates go by the whole budget."""
    assert students.weights(f"ended-{kind}") == students.weights(f"whole-{kind}", "at_control_tokens")
    ended, whole = students.done(f"ended-{kind}"), students.done(f"whole-{kind}")
    assert (ended["steps"], whole["steps"]) == (SNAPSHOT_STEP, STEPS)
    assert ended["history"] == whole["history"][:SNAPSHOT_STEP] and ended["tokens"] == ended["history"][-1]["tokens"]
    assert not students.storage.listing(f"students/ended-{kind}/at_control_tokens")


def test_a_snapshot_is_written_once_however_often_its_writers_are_killed(students: Students) -> None:
    found, whole = (snapshot(students, f"{kind}-alone") for kind in ("killed", "whole"))
    mark = found.with_suffix(".json")
    assert mark.read_bytes() == whole.with_suffix(".json").read_bytes()
    assert {f.name: f.read_bytes() for f in found.iterdir()} == {f.name: f.read_bytes() for f in whole.iterdir()}
    written = [f.stat().st_mtime_ns for f in found.iterdir()]
    assert max(written) <= mark.stat().st_mtime_ns, "written again after its mark"


def test_another_number_of_workers_leaves_the_same_snapshot(students: Students) -> None:
    """Two are killed before its step, and one goes on."""
    from transformers import AutoModelForCausalLM

    folders = [snapshot(students, f"{kind}-3") for kind in ("shrunk", "whole")]
    assert len({f.with_suffix(".json").read_bytes() for f in folders}) == 1
    found, expected, first = (
        AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (*folders, students.root / "initial")
    )
    assert_trained_alike(found, expected, first)
