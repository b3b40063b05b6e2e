"""Training with weights on a lattice, by one and two workers at each ZeRO stage: against a plain loop whose gradients
go straight through the rounding, and killed against never killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.comparing.plain_training import BATCH, LOSS, STEPS, first_batches, plain_training
from support.comparing.plain_training import TRAIN as SAME_TRAIN
from support.comparing.tolerances import LOSSES, of_gradients
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
from workers.quantise.config import QuantisedWeights
from workers.quantise.lattice import on_lattice
from workers.student.config import TrainConfig
from workers.targets.encoding.schema import StoreHeader

QUANTISE = {"format": "q4_0", "embeddings": "q8_0", "keep": ["down_proj"]}  # 48 neurons, which 32 does not divide
TRAIN = SAME_TRAIN | {"quantise": QUANTISE}
SNAPSHOT = {"snapshots": {"at_control_tokens": 2 * BATCH}}
MIDDLE = {"quantise": QUANTISE | {"start": 0.6}}
"""On the lattice in the last step alone."""


@dataclass
class Trained:
    """The run's folder, and what plain loops found, by what they are called: losses, norms, weights."""

    root: Path
    plain: dict[str, tuple[list[float], list[float], dict[str, torch.Tensor]]]

    def final(self, name: str, folder: str = "final") -> dict[str, torch.Tensor]:
        return load_file(self.root / "students" / name / folder / "model.safetensors")

    def history(self, name: str) -> list[dict[str, float]]:
        return json.loads((self.root / "students" / name / "done.json").read_text())["history"]

    def says(self, name: str, folder: str = "final") -> QuantisedWeights | None:
        return QuantisedWeights.of_folder(self.root / "students" / name / folder)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    make_header: Callable[..., StoreHeader],
    make_targets: MakeTargets,
    commit: CommitUnit,
) -> Trained:
    root = tmp_path_factory.mktemp("run")
    storage = LocalStorage(root)
    fill_store(storage, make_header(vocabulary=V), make_targets, commit)
    make_student(root)
    batches = first_batches(storage, STEPS, BATCH)
    budget = sum(r.targets for rows in batches for r in rows)

    def job(name: str, zero: int | str, train: dict[str, Any] = {}, **extra: Any) -> dict[str, Any]:
        return student_job(root, name, LOSS.model_dump(), {**TRAIN, "tokens": budget, "zero": zero, **train}, **extra)

    def killed(name: str, zero: int | str, ranks: int, train: dict[str, Any] = {}) -> list[dict[str, Any]]:
        points = ["step-done:1", "checkpoint-pointer:1", "final-files", None]
        return [life(job(name, zero, train, **SNAPSHOT), ranks, point) for point in points]

    lives = [life(job(f"zero-{zero}", zero, **SNAPSHOT)) for zero in (1, 2, 3)]
    lives += [life(job("alone", "auto", **SNAPSHOT), 1)]
    lives += [life(job("recomputed", "auto", {"gradient_checkpointing": True}), 1)]
    lives += [life(job("padded", "auto", {"packing": False}), 1)]
    lives += [life(job(f"bfloat16-{zero}", zero, {"dtype": "bfloat16"}, **SNAPSHOT)) for zero in (1, 3)]
    lives += [life(job("middle", "auto", MIDDLE, **SNAPSHOT), 1)]
    lives += [life(job("best", "auto", {"keep": "best", "checkpoint_steps": 1, "lr": 0.3, "warmup": 0.6}), 1)]
    lives += killed("killed-zero-3", 3, 2) + killed("killed-bfloat16-1", 1, 2, {"dtype": "bfloat16"})
    lives += killed("killed-alone", "auto", 1) + killed("killed-middle", "auto", 1, MIDDLE)
    lives += [life(job("shrunk", "auto"), 2, "step-done:3"), life(job("shrunk", "auto"), 1)]
    lives += [life(job("grown", "auto"), 1, "step-done:3"), life(job("grown", "auto"), 2)]
    live(root, lives)
    says = QuantisedWeights.of_folder(root / "students" / "alone" / "final")
    assert says is not None
    plain = {}
    for name, train in {"all": {}, "middle": MIDDLE}.items():
        settings = TrainConfig(tokens=budget, **{**TRAIN, **train})
        losses, norms, model = plain_training(batches, root / "initial", LOSS, settings, says.weights)  # type: ignore[arg-type]
        plain[name] = losses, norms, {k: v.detach() for k, v in model.state_dict().items()}
    return Trained(root, plain)


AS_PLAIN = dict.fromkeys(("zero-1", "zero-2", "zero-3", "alone", "recomputed", "padded"), "all") | {"middle": "middle"}


@pytest.mark.parametrize("name", AS_PLAIN)
def test_losses_are_those_of_a_plain_loop_with_straight_through_gradients(name: str, trained: Trained) -> None:
    losses, norms, _ = trained.plain[AS_PLAIN[name]]
    steps = trained.history(name)
    np.testing.assert_allclose([s["loss"] for s in steps], losses, rtol=0, atol=LOSSES)
    np.testing.assert_allclose([s["grad_norm"] for s in steps], norms, rtol=of_gradients(1))


STAGES = ("zero-1", "zero-3", "alone", "bfloat16-1", "bfloat16-3")
FOLDERS = [(name, folder) for name in STAGES for folder in ("final", "at_control_tokens")]


@pytest.mark.parametrize("name, folder", FOLDERS)
def test_what_training_leaves_is_on_the_lattice_and_says_so(name: str, folder: str, trained: Trained) -> None:
    says, weights = trained.says(name, folder), trained.final(name, folder)
    assert says is not None and (says.format, says.embeddings, says.keep) == ("q4_0", "q8_0", ("down_proj",))
    assert not [n for n in says.weights if "down_proj" in n] and len(says.weights) == 2 * 6 + 2
    for key, form in says.weights.items():
        if form == "q4_0":
            assert torch.equal(on_lattice(weights[key], form), weights[key]), key
    kept = weights["model.layers.0.mlp.down_proj.weight"]
    assert len(kept.unique()) > kept.numel() // 4


@pytest.mark.parametrize("name", ["zero-3", "bfloat16-1", "alone", "middle"])
def test_killed_anywhere_ends_with_the_same_bits(name: str, trained: Trained) -> None:
    assert trained.history(f"killed-{name}") == trained.history(name)
    for folder in ("final", "at_control_tokens"):
        one, other = (trained.root / "students" / n / folder for n in (f"killed-{name}", name))
        assert {f.name for f in one.iterdir()} == {f.name for f in other.iterdir()}
        assert all((one / f.name).read_bytes() == f.read_bytes() for f in other.iterdir())


@pytest.mark.parametrize("name", ["shrunk", "grown"])
def test_another_number_of_workers_goes_on_with_the_masters(name: str, trained: Trained) -> None:
    losses = trained.plain["all"][0]
    np.testing.assert_allclose([s["loss"] for s in trained.history(name)], losses, rtol=0, atol=LOSSES)


def masters(trained: Trained, name: str, step: int) -> dict[str, torch.Tensor]:
    like = trained.final(name)
    (file,) = (trained.root / "students" / name / "checkpoints").glob(f"step-{step:08d}-*/part-00000.safetensors")
    found = {n.removeprefix("fp32.causal_lm."): w for n, w in load_file(file).items() if n.startswith("fp32.")}
    return {n: w.view_as(like[n]) if n in like else w for n, w in found.items()}


@pytest.mark.parametrize("name, step, folder", [("alone", 4, "final"), ("alone", 2, "at_control_tokens")])
def test_masters_are_in_checkpoints_alone(name: str, step: int, folder: str, trained: Trained) -> None:
    """Rounded they are what was computed with; and they are a plain loop's."""
    says, final, whole = trained.says(name, folder), trained.final(name, folder), masters(trained, name, step)
    assert says is not None
    for key, form in says.weights.items():
        if key in whole:  # a tied head goes under the name of the embeddings
            assert not torch.equal(whole[key], final[key])
            assert torch.equal(on_lattice(whole[key], form), final[key]), key  # type: ignore[arg-type]
    if step == STEPS:
        first = load_file(trained.root / "initial" / "model.safetensors")
        assert_trained_alike(whole, {k: w for k, w in trained.plain["all"][2].items() if k in whole}, first)


def test_weights_are_whole_until_the_lattice_starts(trained: Trained) -> None:
    assert trained.says("middle", "at_control_tokens") is None
    assert trained.says("middle") is not None
    assert trained.plain["middle"][0][:2] != trained.plain["all"][0][:2]


def test_the_best_checkpoint_is_rounded_too(trained: Trained) -> None:
    done = json.loads((trained.root / "students" / "best" / "done.json").read_text())
    assert done["final_step"] < done["steps"]
    whole, final = masters(trained, "best", done["final_step"]), trained.final("best")
    key = "model.layers.1.self_attn.o_proj.weight"
    assert torch.equal(on_lattice(whole[key], "q4_0"), final[key])
