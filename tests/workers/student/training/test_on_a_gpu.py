"""A student on one GPU learns what it learns on a CPU, is killed and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.comparing.plain_training import BATCH, LOSS, STEPS, TRAIN, first_batches, plain_training
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
    weights_of,
)

from cluster.storage import LocalStorage
from workers.student.config import TrainConfig
from workers.targets.encoding.schema import StoreHeader


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.long), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_one_device_trains_as_a_plain_loop_and_resumes(
    device: str,
    tmp_path: Path,
    make_header: Callable[..., StoreHeader],
    make_targets: MakeTargets,
    commit: CommitUnit,
) -> None:
    """In float32 as the plain loop does; and, in bfloat16 with ZeRO-2 and 3 too, it goes on from a checkpoint, on a CPU
    to the bit: its sums have an order."""
    storage = LocalStorage(tmp_path)
    fill_store(storage, make_header(vocabulary=V), make_targets, commit)
    make_student(tmp_path)
    batches = first_batches(storage, STEPS, BATCH)
    budget = sum(r.targets for rows in batches for r in rows)
    own = {**TRAIN, "tokens": budget, "workers": 1, "gpus_per_worker": int(device == "cuda")}
    _, _, plain = plain_training(batches, tmp_path / "initial", LOSS, TrainConfig(**own))
    kinds = {"plain": {"dtype": "float32"}} | {f"zero-{z}": {"dtype": "bfloat16", "zero": z} for z in (2, 3)}
    jobs = {name: student_job(tmp_path, name, LOSS.model_dump(), {**own, **kind}) for name, kind in kinds.items()}
    again = {name: student_job(tmp_path, f"{name}-again", LOSS.model_dump(), {**own, **kinds[name]}) for name in jobs}
    lives = [life(job, 1) for job in jobs.values()]
    live(tmp_path, [*lives, *(life(job, 1, after=(name, 2)) for name, job in again.items())], device)
    first = weights_of(tmp_path, "")
    trained = {key: value.detach() for key, value in plain.state_dict().items() if key in first}
    assert_trained_alike(weights_of(tmp_path, "plain"), trained, first)
    for name in jobs:
        whole, resumed = weights_of(tmp_path, name), weights_of(tmp_path, f"{name}-again")
        for key, weight in whole.items():
            apart = (weight - resumed[key]).abs().max()
            assert apart <= (0 if device == "cpu" else 2 * (weight - first[key]).abs().max()), (name, key)
