"""Students that read an older generation's texts between the new ones, each by its own teachers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import LOSSES
from support.small_students import (
    MIX,
    CommitUnit,
    assert_trained_alike,
    fill_roots,
    life,
    live,
    make_student,
    student_job,
    weights_of,
)

from cluster.storage import LocalStorage
from workers.student.training.job import ReplayedRun, SpecialistJob
from workers.targets.commits.damage import DamagedShard
from workers.targets.contract import Contract
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore

BATCH, STEPS = 100, 6
TRAIN: dict[str, Any] = {
    "batch_tokens": BATCH, "tokens": BATCH * STEPS - BATCH // 2, "micro_tokens": 48, "lr": 3e-3, "checkpoint_steps": 2
}  # fmt: skip
SHARE = 0.4


def job(root: Path, name: str, **more: Any) -> dict[str, Any]:
    header = TargetStore(LocalStorage(root / "older"), "train").header
    older = {"name": "1", "uri": str(root / "older"), "mix": MIX, "epoch": 1, "declared": vars(Contract.of(header))}
    fields = student_job(root, name, {"kl": 1.0, "ce": 0.0}, TRAIN)
    return {**fields, "replay": [older], "replay_share": SHARE, **more}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    make_header: Callable[..., StoreHeader],
    make_targets: Callable[..., UnitTargets],
    commit: CommitUnit,
) -> dict[str, Path]:
    """Folders of two runs, of hidden states and of all log-probabilities, each with an older one in it: of texts of its
    own, by teachers of the same names and with other heads."""
    roots = {scheme: tmp_path_factory.mktemp(scheme) for scheme in ("hidden", "full")}
    for seed, folder in enumerate(("", "older")):
        fill_roots(roots, folder, make_header, commit, make_targets, seed)
    for root in roots.values():
        make_student(root)
    lives = [life(job(root, "whole"), 1) for root in roots.values()]
    lives += [life(job(roots["hidden"], "killed"), 1, point) for point in ("step-done:3", "step-done:2", None)]
    lives += [life(job(roots["hidden"], "without", replay=[], replay_share=0.0), 1)]
    lives += [life(job(roots["full"], "wild", goes_on=True, train={**TRAIN, "lr": 1.0, "clip": 0.0}), 1)]
    live(roots["hidden"], [*lives, life(job(roots["hidden"], "shared"), 2)])
    return roots


def losses(root: Path, name: str) -> list[float]:
    return [s["loss"] for s in json.loads((root / "students" / name / "done.json").read_text())["history"]]


@pytest.mark.parametrize("name", ["whole", "shared"])
def test_each_text_is_learned_from_the_head_of_its_own_generation(runs: dict[str, Path], name: str) -> None:
    """By one worker or two: full targets need no heads."""
    np.testing.assert_allclose(losses(runs["hidden"], name), losses(runs["full"], "whole"), rtol=0, atol=LOSSES)
    assert_trained_alike(
        weights_of(runs["hidden"], name), weights_of(runs["full"], "whole"), first=weights_of(runs["full"], "")
    )


def test_a_killed_student_ends_with_the_weights_of_one_never_killed(runs: dict[str, Path]) -> None:
    found, expected = (weights_of(runs["hidden"], name) for name in ("killed", "whole"))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    assert losses(runs["hidden"], "killed") == losses(runs["hidden"], "whole") != losses(runs["hidden"], "without")


def test_its_checkpoint_knows_how_much_was_replayed(runs: dict[str, Path]) -> None:
    pointer = json.loads(max((runs["hidden"] / "students" / "whole" / "log").glob("*.json")).read_text())
    new, older = (sum(d["served"] for d in c["domains"].values()) for c in (
        pointer["cursor"], pointer["cursor"]["replayed"]["1"]
    ))  # fmt: skip
    assert new + older == pointer["tokens"]
    assert older / (new + older) == pytest.approx(SHARE, abs=25 / pointer["tokens"]), "to a text of 25 tokens"


def test_one_that_goes_on_may_end_worse_on_its_first_batch(runs: dict[str, Path]) -> None:
    """It may have known its texts as well as can be; what it forgot is in the report."""
    found = losses(runs["full"], "wild")
    assert found[-1] > 1.1 * found[0] and weights_of(runs["full"], "wild")


def test_a_job_crosses_to_its_process_whole(runs: dict[str, Path]) -> None:
    found = SpecialistJob.from_fields(json.loads(json.dumps(job(runs["full"], "whole"))))
    (older,) = found.replay
    assert isinstance(older, ReplayedRun) and older.declared.scheme == "full" and found.replay_share == SHARE


def test_damage_of_an_older_generation_says_what_to_do(runs: dict[str, Path]) -> None:
    from workers.student.batches.streams import StudentRows

    root = runs["full"]
    store = TargetStore(LocalStorage(root / "older"), "train")
    entry = store.log.entry(0)
    assert entry is not None
    path = root / "older" / entry.parts[0].key
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"x")
    try:
        rows = StudentRows(SpecialistJob.from_fields(job(root, "reader")), LocalStorage(root))
        stream = rows.open(None, lambda unit, seconds: None, lambda damage: None, None)
        with pytest.raises(DamagedShard, match=r"generation 1, which is replayed.*`stillhouse capture CONFIG`"):
            stream.next_batch(2000)
        stream.close()
    finally:
        path.write_bytes(sound)
        store.log.marks.withdraw(0, 0)
