"""How soon a reader that waits for a unit has it, once it is committed to a long log."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np

from cluster.storage import Storage
from log_bench.entries import synthetic
from workers.splits import TRAIN
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetStream
from workers.targets.store import TargetStore
from workers.units import Unit, UnitPlan

FOLLOWED_UNITS = 12
_TOKENS = 4_000
_IDLE_S = 6.0
_PAUSE_S = (0.4, 0.8)
"""Between commits: of any length, so that they fall anywhere in the reader's rhythm."""


def follow(storage: Storage, first: int, requests: Counter[str]) -> dict[str, float]:
    """Commit units `first` and on while a student's stream waits for them: the first after a long wait, then quickly.

    A reader asks the more seldom the longer it waits, so what it is late by grows with the wait.
    """
    store = TargetStore(storage, TRAIN)
    header = StoreHeader("systematic", 21, "all", "float32", 49_152, "a" * 64, "b" * 64, 0)
    store.create(header)
    store.vocab_order_files.create(np.zeros(header.vocabulary))
    targets = _targets(header)
    parts = [store.write_part(first + i, targets) for i in range(FOLLOWED_UNITS)]
    seen = [threading.Event() for _ in range(FOLLOWED_UNITS)]
    at: list[float] = []

    def read() -> None:
        units = tuple(Unit(first + i, ("a",), "teacher", 1, _TOKENS, True) for i in range(FOLLOWED_UNITS))
        stream = TargetStream(TargetStore(storage, TRAIN), UnitPlan(TRAIN, units), {"a": 1.0}, 0)
        for event in seen:
            stream.next_batch(1)
            at.append(time.monotonic())
            event.set()
        stream.close()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    commits, delays = [], []
    time.sleep(_IDLE_S / 2)  # by now it asks as seldom as it ever does
    before = requests.total()
    time.sleep(_IDLE_S)
    idle = (requests.total() - before) / _IDLE_S
    for i, pause in enumerate(np.random.default_rng(0).uniform(*_PAUSE_S, FOLLOWED_UNITS)):
        entry = replace(synthetic(first + i), parts=parts[i])
        started = time.monotonic()
        assert store.log.commit(entry)
        committed = time.monotonic()
        assert seen[i].wait(60), f"unit {first + i} was not seen"
        commits.append(committed - started)
        delays.append(at[i] - committed)
        time.sleep(pause)
    reader.join(10)
    return {
        "commit_s": statistics.median(commits),
        "follow_s": statistics.median(delays[1:]),
        "follow_worst_s": max(delays[1:]),
        "follow_after_idling_s": delays[0],
        "idle_requests_per_s": idle,
    }


def _targets(header: StoreHeader) -> UnitTargets:
    """One text of real size, with ten ids at each position."""
    rng, T = np.random.default_rng(0), _TOKENS - 1
    return UnitTargets(
        prompt_uids=["prompt"],
        samples=np.zeros(1, np.uint16),
        texts=["x" * _TOKENS],
        lengths=np.array([_TOKENS]),
        starts=np.array([1]),
        tokens=rng.integers(0, header.vocabulary, _TOKENS).astype(np.uint32),
        ends=np.arange(1, _TOKENS + 1, dtype=np.uint32),
        entropy=np.zeros(T, np.float32),
        token_logprob=np.zeros(T, np.float32),
        num_kept=np.full(T, 10, np.uint16),
        ids=np.sort(rng.integers(0, header.vocabulary // 10, (T, 10)) * 10 + np.arange(10))
        .reshape(-1)
        .astype(np.uint32),
        counts=np.tile(np.array([12, *[1] * 9], np.uint16), T),
    )
