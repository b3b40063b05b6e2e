"""Training by one and two workers at each ZeRO stage, against a plain loop: torch's AdamW, clipping, whole batches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.comparing.plain_training import BATCH, LOSS, STEPS, TRAIN, first_batches, plain_training
from support.comparing.tolerances import LOSSES, of_gradients, steps, unit_roundoff
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

from cluster.holder import Holder
from cluster.storage import LocalStorage
from workers.student.config import TrainConfig
from workers.targets.encoding.schema import StoreHeader


@dataclass
class Trained:
    """The run's folder, and what the plain loop found."""

    root: Path
    losses: list[float]
    norms: list[float]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    make_header: Callable[..., StoreHeader],
    make_targets: MakeTargets,
    commit: CommitUnit,
) -> Trained:
    """Two processes train with ZeRO 1, 2 and 3, go on from checkpoints, and work for a late driver; then one alone."""
    root = tmp_path_factory.mktemp("run")
    storage = LocalStorage(root)
    fill_store(storage, make_header(vocabulary=V), make_targets, commit)
    make_student(root)
    batches = first_batches(storage, STEPS, BATCH)
    budget = sum(r.targets for rows in batches for r in rows)
    losses, norms, model = plain_training(batches, root / "initial", LOSS, TrainConfig(tokens=budget, **TRAIN))

    def job(name: str, zero: int | str, train: dict[str, Any] = {}, **extra: Any) -> dict[str, Any]:
        return student_job(root, name, LOSS.model_dump(), {**TRAIN, "tokens": budget, "zero": zero, **train}, **extra)

    lives = [life(job(f"zero-{zero}", zero)) for zero in (1, 2, 3)]
    lives += [life(job("recomputed-3", 3, {"gradient_checkpointing": "50%"}))]
    lives += [life(job("clocked", 1, {"checkpoint_steps": None, "checkpoint_s": 1e-3}))]
    lives += [life(job(f"bfloat16-{zero}", zero, {"dtype": "bfloat16"})) for zero in (2, 3)]
    lives += [life(job(f"resumed-{zero}", zero), after=(f"zero-{zero}", 2)) for zero in (1, 3)]
    lives += [life(job("late", 1, epoch=5))]
    storage.create("attempts/0006.json", Holder.this_process().to_bytes())
    lives += [life(job(f"alone-{zero}", zero), 1) for zero in (1, 3, "auto")]
    best = {"keep": "best", "checkpoint_steps": 1, "lr": 0.3, "schedule": "constant", "warmup": 0.6}
    lives += [life(job("best", 3, best), 1)]
    lives += [life(job("resumed-auto", "auto"), 1, after=("alone-auto", 2))]
    live(root, lives)
    return Trained(root, losses, norms, {k: v.detach() for k, v in model.state_dict().items()})


def history(root: Path, name: str) -> list[dict[str, float]]:
    return json.loads((root / "students" / name / "done.json").read_text())["history"]


NAMES = ["zero-1", "zero-2", "zero-3", "recomputed-3", "alone-1", "alone-3", "alone-auto"]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradient_norms_are_those_of_a_plain_loop(name: str, trained: Trained) -> None:
    steps = history(trained.root, name)
    assert [s["step"] for s in steps] == [1, 2, 3, 4]
    assert max(trained.losses) - min(trained.losses) > 0.01 and min(trained.norms) > TRAIN["clip"]
    np.testing.assert_allclose([s["loss"] for s in steps], trained.losses, rtol=0, atol=LOSSES)
    np.testing.assert_allclose([s["grad_norm"] for s in steps], trained.norms, rtol=of_gradients(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_model_is_that_of_a_plain_loop(name: str, trained: Trained) -> None:
    """Whole weights as safetensors, under the names that transformers loads."""
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(trained.root / "students" / name / "final").state_dict()
    first = AutoModelForCausalLM.from_pretrained(trained.root / "initial").state_dict()
    assert all((first[key] - weight).abs().max() > TRAIN["lr"] / 10 for key, weight in trained.weights.items())
    assert_trained_alike(saved, trained.weights, first)


@pytest.mark.parametrize("name", ["bfloat16-2", "bfloat16-3"])
def test_training_in_bfloat16_follows_one_in_float32(name: str, trained: Trained) -> None:
    """Rounded at every step of the network, added up and updated in float32: as far off as such roundings are on
    average (lambda 1 in tolerances.py), each relative to numbers of its own size."""
    seen, rounding = history(trained.root, name), unit_roundoff(torch.bfloat16)
    # Logits: a row of the head, of 32 numbers of 0.02 and of four steps, times a hidden state that is normalised.
    logits = math.sqrt(32) * (0.02 + STEPS * TRAIN["lr"])
    off = math.sqrt(steps(2) * 48) * rounding * logits
    np.testing.assert_allclose([s["loss"] for s in seen], trained.losses, rtol=0, atol=off)
    norms = math.sqrt(3 * steps(2) * 48) * rounding
    np.testing.assert_allclose([s["grad_norm"] for s in seen], trained.norms, rtol=norms)
    first, saved = (
        load_file(trained.root / key / "model.safetensors") for key in ("initial", f"students/{name}/final")
    )
    one, other = (
        torch.cat(
            [(weights[key].float() - first[key].float()).flatten() for key in sorted(first.keys() & saved.keys())]
        )
        for weights in (saved, trained.weights)
    )
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 1 - norms


@pytest.mark.parametrize(
    "whole, resumed", [("zero-1", "resumed-1"), ("zero-3", "resumed-3"), ("alone-auto", "resumed-auto")]
)
def test_a_resumed_training_is_one_never_stopped(whole: str, resumed: str, trained: Trained) -> None:
    assert history(trained.root, resumed) == history(trained.root, whole)
    files = [trained.root / "students" / name / "final" / "model.safetensors" for name in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_checkpoints_by_the_clock_are_those_of_the_first_worker_on_all(trained: Trained) -> None:
    """A clock that is always late: one after every step, and no worker waits for another's."""
    log = LocalStorage(trained.root).keys("students/clocked/log")
    assert [key.rsplit("/", 1)[-1] for key in log] == ["00000003.json", "00000004.json"]
    assert history(trained.root, "clocked") == history(trained.root, "zero-1")


def test_the_best_checkpoint_is_kept_and_becomes_the_model(trained: Trained) -> None:
    """A rate that ruins the student, once it is warm."""
    folder = trained.root / "students" / "best"
    losses = [s["loss"] for s in history(trained.root, "best")]
    done, best = json.loads((folder / "done.json").read_text()), 1 + int(np.argmin(losses))
    assert done["final_step"] == done["best_step"] == best < STEPS == done["steps"]
    (file,) = (folder / "checkpoints").glob(f"step-{best:08d}-*/part-00000.safetensors")
    saved, final = load_file(file), load_file(folder / "final" / "model.safetensors")
    weights = {name.removeprefix("fp32.causal_lm."): w for name, w in saved.items() if name.startswith("fp32.")}
    assert final.keys() - weights.keys() <= {"lm_head.weight"}  # tied to the embeddings
    for name, weight in weights.items():
        assert torch.equal(final[name].view(-1), weight), name


def test_old_checkpoints_are_deleted_and_the_last_two_kept(trained: Trained) -> None:
    storage = LocalStorage(trained.root)
    assert storage.keys("students/zero-1/log") == [f"students/zero-1/log/{s:08d}.json" for s in (2, 4)]


def test_students_of_a_driver_that_was_taken_over_leave_no_checkpoint_and_no_model(trained: Trained) -> None:
    storage = LocalStorage(trained.root)
    assert storage.keys("students/late") == ["students/late/lost-0", "students/late/lost-1"]
    assert b"attempt 5 was taken over by attempt 6" in storage.read("students/late/lost-0")
    assert [f.key for f in storage.listing("students/late")] == storage.keys("students/late")
