"""Students that learn from hidden states of two teachers, beside those that learn from the distributions themselves."""

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
from transformers import AutoModelForCausalLM

from cluster.storage import LocalStorage
from workers.manifest import read_plan
from workers.student.losses.teacher_states import read_heads
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetStream
from workers.targets.store import TargetStore

BATCH, STEPS = 100, 5
LOSS = {"divergence": "jsd", "kl": 1.0, "ce": 0.5, "weighting": "confidence"}
"""What a sample of the distributions could not give."""
TRAIN: dict[str, Any] = {
    "batch_tokens": BATCH, "tokens": BATCH * STEPS - BATCH // 2, "micro_tokens": 48, "lr": 3e-3, "checkpoint_steps": 2
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    make_header: Callable[..., StoreHeader],
    make_targets: Callable[..., UnitTargets],
    commit: CommitUnit,
) -> dict[str, Path]:
    """Folders of two runs: one of hidden states, one of all log-probabilities."""
    roots = {scheme: tmp_path_factory.mktemp(scheme) for scheme in ("hidden", "full")}
    fill_roots(roots, "", make_header, commit, make_targets)
    for root in roots.values():
        make_student(root)

    def job(scheme: str, name: str, **train: Any) -> dict[str, Any]:
        return student_job(roots[scheme], name, LOSS, {**TRAIN, **train}, first_kl={"green": 0.05, "red": 0.15})

    alone = [life(job(scheme, "alone"), 1) for scheme in roots]
    killed = [life(job("hidden", "killed"), 1, point) for point in ("step-done:3", None)]
    live(roots["hidden"], [*alone, *killed, life(job("hidden", "shared", zero=3), 2)])
    return roots


def losses(root: Path, name: str) -> list[float]:
    done = json.loads((root / "students" / name / "done.json").read_text())
    assert [s["step"] for s in done["history"]] == list(range(1, STEPS + 1))
    return [s["loss"] for s in done["history"]]


@pytest.mark.parametrize("name", ["alone", "shared"])
def test_losses_and_weights_are_those_of_full_targets(runs: dict[str, Path], name: str) -> None:
    """By one worker, and by two under ZeRO-3, which knows nothing of the heads."""
    expected = losses(runs["full"], "alone")
    assert max(expected) - min(expected) > 0.01
    np.testing.assert_allclose(losses(runs["hidden"], name), expected, rtol=0, atol=LOSSES)
    assert_trained_alike(
        weights_of(runs["hidden"], name), weights_of(runs["full"], "alone"), first=weights_of(runs["full"], "")
    )


def test_a_killed_student_ends_with_the_weights_of_one_never_killed(runs: dict[str, Path]) -> None:
    found, expected = (weights_of(runs["hidden"], name) for name in ("killed", "alone"))
    assert all(torch.equal(found[key], expected[key]) for key in expected) and found.keys() == expected.keys()
    assert losses(runs["hidden"], "killed") == losses(runs["hidden"], "alone")


def test_the_kl_before_training_is_that_of_the_first_batch(runs: dict[str, Path]) -> None:
    """Whatever is trained with, by however many workers, and where a killed student went on after it."""
    root = runs["full"]
    store = TargetStore(LocalStorage(root), "train")
    rows = TargetStream(store, read_plan(store.storage, "train"), MIX, 0, None).next_batch(BATCH)
    model, total = AutoModelForCausalLM.from_pretrained(root / "initial", dtype=torch.float32).eval(), 0.0
    for row in rows:
        tokens, logp_TV = (
            torch.from_numpy(row.tokens.astype(np.int64)),
            torch.from_numpy(np.array(row.logprobs)).double(),
        )
        with torch.no_grad():
            logq_TV = model(tokens[None]).logits[0, row.start - 1 : -1].double().log_softmax(-1)
        total += float((logp_TV.exp() * (logp_TV - logq_TV)).sum())
    tokens = sum(row.targets for row in rows)
    for scheme, name in [("full", "alone"), ("hidden", "alone"), ("hidden", "killed"), ("hidden", "shared")]:
        before = json.loads((runs[scheme] / "students" / name / "done.json").read_text())["before"]
        assert before == {"kl": pytest.approx(total / tokens, abs=LOSSES), "tokens": tokens}, (scheme, name)


def test_a_worker_holds_the_heads_of_its_own_teachers(runs: dict[str, Path]) -> None:
    stores = {name: TargetStore(LocalStorage(root), "train") for name, root in runs.items()}
    plan, store = read_plan(stores["hidden"].storage, "train"), stores["hidden"]
    assert read_heads(stores["full"], plan, ["a", "b"], "cpu", "legal") == {}
    found = read_heads(store, plan, ["b"], "cpu", "legal")
    assert found.keys() == {"y"} and found["y"].weight_VH.dtype == torch.bfloat16
    key = store.head_key("y")
    data = store.storage.read(key)
    store.storage.delete(key)
    with pytest.raises(ValueError, match=r"legal: targets/train/heads/y.safetensors is missing.*stillhouse capture"):
        read_heads(store, plan, ["a", "b"], "cpu", "legal")
    store.storage.write(key, data)
