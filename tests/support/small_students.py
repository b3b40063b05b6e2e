"""A target store of two domains and the initial weights of a tiny student: what training needs, without a teacher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from cluster.storage import LocalStorage
from support.comparing.tolerances import of_adam
from support.initial.weights import make_initial
from support.programs import PROGRAMS
from workers.logit_map import LogitMap
from workers.manifest import write_manifest
from workers.student.config import ModelConfig
from workers.targets.contract import Contract
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.heads import TeacherHead, as_stored
from workers.targets.store import TargetStore
from workers.units import Prompt, UnitSize, build_units

MakeTargets = Callable[..., UnitTargets]
CommitUnit = Callable[[TargetStore, int, UnitTargets], bool]

V = 300
MIX = {"a": 0.5, "b": 0.5}
SIZES = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def fill_store(storage: LocalStorage, header: StoreHeader, make_targets: MakeTargets, commit: CommitUnit) -> None:
    """Sparse targets of texts of unequal lengths, in two domains."""
    rng = np.random.default_rng(0)
    store = TargetStore(storage, "train")
    store.create(header)
    prompts = [Prompt(f"{d}{i}", (d,), "t", 1, 1.0, 1.0, 8, [3], None) for d in MIX for i in range(12)]
    plan, blocks = build_units(prompts, MIX, {prompts[0].teacher: UnitSize(4)}, 0, "train")
    write_manifest(storage, plan, blocks)
    for unit, block in enumerate(blocks):
        assert commit(store, unit, make_targets(header, rng, [p.id for p in block], rng.integers(2, 25, len(block))))


STATES = {"x": 8, "y": 12}
"""Of the hidden states of each teacher."""


def teacher_heads(seed: int = 0) -> dict[str, TeacherHead]:
    """Of each teacher, in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(V, H, generator=generator).bfloat16() for name, H in STATES.items()}
    return {name: TeacherHead(W_VH, None, LogitMap()) for name, W_VH in made.items()}


def fill_both(
    hidden: TargetStore, full: TargetStore, commit: CommitUnit, unit_of: Callable[..., UnitTargets], seed: int = 0
) -> None:
    """The same texts in both stores, one domain by each teacher; of another seed, others by others of their names."""
    prompts = [
        Prompt(f"{seed}{d}{i}" if seed else f"{d}{i}", (d,), t, 1, 1.0, 1.0, 8, [3], None)
        for d, t in ("ax", "by")
        for i in range(12)
    ]
    plan, blocks = build_units(prompts, {"a": 0.5, "b": 0.5}, {p.teacher: UnitSize(4) for p in prompts}, 0, "train")
    rng = np.random.default_rng(seed)
    for store in (hidden, full):
        write_manifest(store.storage, plan, blocks)
    for unit, block in zip(plan.units, blocks, strict=True):
        head = teacher_heads(seed)[unit.teacher]
        targets = unit_of(full.header, rng, [p.id for p in block], rng.integers(4, 25, len(block)))
        h_TH = torch.from_numpy(rng.normal(size=(len(targets.entropy), STATES[unit.teacher]))).bfloat16()
        logp_TV = head.on("cpu").log_probabilities(as_stored(h_TH, "bfloat16").numpy(), "bfloat16")
        targets.entropy = -(logp_TV.exp() * logp_TV).sum(-1).numpy()
        assert commit(full, unit.index, replace(targets, logprobs=logp_TV.numpy().reshape(-1)))
        own = {"logprobs": np.zeros(0, np.float32), "hidden": as_stored(h_TH, "bfloat16").numpy().reshape(-1)}
        assert commit(hidden, unit.index, replace(targets, **own))


def fill_roots(
    roots: Mapping[str, Path],
    folder: str,
    make_header: Callable[..., StoreHeader],
    commit: CommitUnit,
    unit_of: Callable[..., UnitTargets],
    seed: int = 0,
) -> None:
    """The training stores of two runs, of hidden states with heads and of all log-probabilities, each right in its root
    or in a folder of it."""
    stores = {scheme: TargetStore(LocalStorage(root / folder), "train") for scheme, root in roots.items()}
    teachers = {name: {"fingerprint": f"{name}{seed}"} for name in STATES}
    stores["hidden"].create(make_header(scheme="hidden", precision="bfloat16", vocabulary=V, teachers=teachers))
    stores["full"].create(make_header(scheme="full", vocabulary=V, teachers=teachers))
    fill_both(stores["hidden"], stores["full"], commit, unit_of, seed)
    for name, head in teacher_heads(seed).items():
        stores["hidden"].storage.write(stores["hidden"].head_key(name), head.to_bytes())


def weights_of(root: Path, name: str) -> dict[str, torch.Tensor]:
    """Of a trained student; of the first weights of all where it has no name."""
    folder = root / "students" / name / "final" if name else root / "initial"
    found = load_file(folder / "model.safetensors")
    # Head and embeddings are one, under either name.
    return {{"lm_head.weight": "model.embed_tokens.weight"}.get(key, key): value for key, value in found.items()}


def make_student(root: Path) -> None:
    """Random initial weights at the key `initial`."""
    make_initial(ModelConfig(config=SIZES), root / "initial", vocabulary=V, seed=1)


def student_job(root: Path, name: str, loss: dict[str, Any], train: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """The fields of a SpecialistJob in that folder."""
    return {
        "name": name,
        "run_uri": str(root),
        "initial": "initial",
        "mix": MIX,
        "loss": loss,
        "train": train,
        "seed": 0,
        "declared": vars(Contract.of(TargetStore(LocalStorage(root), "train").header)),
        "epoch": 1,
        "board": "",
        **extra,
    }


def life(
    job: dict[str, Any], ranks: int = 2, pause: str | None = None, after: tuple[str, int] | None = None
) -> dict[str, Any]:
    """One life of a student, for `live`: its job, how many workers, the point at which they are killed, and the other
    student and its step whose checkpoint is all that is left of an earlier life."""
    return {"job": job, "ranks": ranks, "pause": pause, "after": after}


def live(root: Path, lives: list[dict[str, Any]], device: str = "cpu") -> None:
    """Let students live, one after another, each with worker processes of its own."""
    (root / "lives.json").write_text(json.dumps(lives))
    command = [sys.executable, str(PROGRAMS / "student_lifetimes.py"), str(root / "lives.json")]
    environment = os.environ | {"DS_ACCELERATOR": device}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def assert_trained_alike(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], first: dict[str, torch.Tensor]
) -> None:
    """Weights that were trained from `first` in two ways: what did not move is equal, and none is further apart than if
    every step of one had been the other's turned round."""
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        moved, apart = float((weight - first[key]).abs().max()), (found[key] - weight).abs()
        assert apart.max() <= 2 * moved and (apart <= of_adam(moved)).float().mean() >= 0.99, key
