"""Small things that several of these tests need: units of random targets, and tiny random models as folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commit_processes import entry_of
from support.model_families import random_model, save_random_model
from support.store_fixture import DOMAINS, ROWS, StoreFixture

from cluster.storage import LocalStorage
from workers.targets.encoding.arrays import Draw, UnitTargets
from workers.targets.encoding.scalars import GRIDS
from workers.targets.encoding.schema import StoreHeader
from workers.targets.heads import as_stored
from workers.targets.store import TargetStore
from workers.units import Unit, UnitPlan

HIDDEN_SIZE = 6
"""Of the teachers of `hidden` stores."""

MakeHeader = Callable[..., StoreHeader]
MakeTargets = Callable[..., UnitTargets]
CommitUnit = Callable[[TargetStore, int, UnitTargets], bool]
SaveModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# Targets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_header() -> MakeHeader:
    def make(
        scheme: Any = "systematic", vocabulary: int = 97, precision: Any = "float32", draws: int = 21, **more: Any
    ) -> StoreHeader:
        return StoreHeader(scheme, draws, "answer", precision, vocabulary, "tokenizer", "template", 7, **more)

    return make


@pytest.fixture(scope="session")
def make_targets() -> MakeTargets:
    """Random but valid targets: ids ascend within a position and counts are such as the scheme draws."""

    def make(
        header: StoreHeader,
        rng: np.random.Generator,
        names: list[str],
        lengths: list[int] | None = None,
        starts: list[int] | None = None,
    ) -> UnitTargets:
        V, R = header.vocabulary, len(names)
        lengths_R = np.array(lengths if lengths is not None else rng.integers(2, 12, R), np.int64)
        starts_R = np.array(starts if starts is not None else [rng.integers(1, n) for n in lengths_R], np.int64)
        S, T = int(lengths_R.sum()), int((lengths_R - starts_R).sum())
        unit = UnitTargets(
            prompt_uids=list(names),
            samples=rng.integers(0, 4, R).astype(np.uint16),
            texts=[f"text of {name} é" for name in names],
            lengths=lengths_R,
            starts=starts_R,
            tokens=rng.integers(0, V, S).astype(np.uint32),
            ends=np.concatenate([np.sort(rng.integers(0, 100, n)) for n in lengths_R] or [[]]).astype(np.uint32),
            entropy=rng.choice(GRIDS["entropy"], T),
            token_logprob=rng.choice(GRIDS["token_logprob"], T),
        )
        if header.scheme == "full":
            unit.logprobs = np.log(rng.dirichlet(np.full(V, 0.5), T) + 1e-9).astype(header.precision).reshape(-1)
            return unit
        if header.scheme == "hidden":
            hidden = torch.from_numpy(rng.normal(size=T * HIDDEN_SIZE))
            unit.hidden = as_stored(hidden, header.precision).numpy()
            return unit
        first, *unit.redraws = (random_draw(header, rng, T) for _ in range(header.redraws))
        unit.num_kept, unit.ids, unit.counts = first.num_kept, first.ids, first.counts
        unit.always = rng.integers(0, 65536, T * len(header.always)).astype(np.uint16)
        unit.tail = rng.integers(0, 65536, T if header.scheme == "topk" else 0).astype(np.uint16)
        return unit

    return make


def random_draw(header: StoreHeader, rng: np.random.Generator, T: int) -> Draw:
    """Entries such as the scheme keeps: none twice, none that is always kept, counts that sum where they do."""
    others = np.setdiff1d(np.arange(header.vocabulary), header.always)
    fewest, most = (1 if header.fixed_sum else 0), min(len(others), header.draws)
    sizes = np.full(T, header.top_k) if header.scheme == "topk" else rng.integers(fewest, most + 1, T)
    kept = [np.sort(rng.choice(others, n, replace=False)) for n in sizes]
    if header.fixed_sum:
        counts = [1 + rng.multinomial(header.draws - len(k), np.full(len(k), 1 / len(k))) for k in kept]
    elif header.scheme == "topk":
        counts = [rng.integers(0, 65536, len(k)) for k in kept]
    else:
        counts = [header.usual_count + rng.integers(0, 2, len(k)) * rng.integers(0, 200, len(k)) for k in kept]
    return Draw(
        sizes.astype(np.uint16),
        np.concatenate([np.zeros(0), *kept]).astype(np.uint32),
        np.concatenate([np.zeros(0), *counts]).astype(np.uint16),
    )


@pytest.fixture(scope="session")
def commit() -> CommitUnit:
    """Write a unit's part and its entry."""

    def commit_unit(store: TargetStore, unit: int, targets: UnitTargets) -> bool:
        return store.log.commit(entry_of(store, unit, targets))

    return commit_unit


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


@pytest.fixture
def build(
    local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets, commit: CommitUnit
) -> Callable[..., StoreFixture]:
    def make(
        domains: list[tuple[str, ...]] = DOMAINS, rows: list[int] = ROWS, folder: str = "", **header: Any
    ) -> StoreFixture:
        """`folder`: where a store lies that has other texts than those of others."""
        store = TargetStore(LocalStorage(local.root / folder) if folder else local, "train")
        store.create(make_header(**header))
        rng = np.random.default_rng(sum(folder.encode()))
        contents = [
            make_targets(store.header, rng, [f"{folder}u{u}.{i}" for i in range(n)]) if n else UnitTargets()
            for u, n in enumerate(rows)
        ]
        units = tuple(Unit(u, d, "teacher", n, 100, True) for u, (d, n) in enumerate(zip(domains, rows, strict=True)))
        return StoreFixture(store, UnitPlan("train", units), contents, commit)

    return make


@pytest.fixture
def filled(build: Callable[..., StoreFixture]) -> StoreFixture:
    return build().commit_all()


# Models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """A random model of a type, wide enough in its weights that its distributions differ."""
    return random_model


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """The folder of a tiny random model with its tokenizer."""

    def save(model_type: str, **sizes: Any) -> Path:
        return save_random_model(tmp_path_factory.mktemp(model_type), model_type, **sizes)

    return save


@pytest.fixture(scope="session")
def tiny_moe(save_model: SaveModel) -> Path:
    """A Qwen3-MoE teacher of 8 experts over a vocabulary of 300 words."""
    return save_model("qwen3_moe")
