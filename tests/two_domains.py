"""A store of random targets in two domains, for students to train from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cluster.storage import LocalStorage
from workers.manifest import write_manifest
from workers.targets.arrays import UnitTargets
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.units import Prompt, build_units

MIX = {"a": 0.5, "b": 0.5}


def fill_store(
    storage: LocalStorage,
    header: StoreHeader,
    make_targets: Callable[..., UnitTargets],
    commit: Callable[[TargetStore, int, UnitTargets], bool],
) -> None:
    """Sparse targets of texts of unequal lengths, in two domains."""
    rng = np.random.default_rng(0)
    store = TargetStore(storage, "train")
    store.create(header)
    prompts = [Prompt(f"{d}{i}", (d,), "t", 1, 1.0, 1.0, 8, [3], None) for d in MIX for i in range(12)]
    plan, blocks = build_units(prompts, MIX, 4, 0, "train")
    write_manifest(storage, plan, blocks)
    for unit, block in enumerate(blocks):
        assert commit(store, unit, make_targets(header, rng, [p.id for p in block], rng.integers(2, 25, len(block))))
