"""Many writers of the same unit at the same moment: one of them wins, and what the log says is the winner's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commit_processes import processes, race, start
from support.servers.s3_servers import reached_at

from cluster.storage import join, open_storage
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore

WRITERS, PROCESSES = 16, 4


@pytest.fixture(scope="module")
def contents(make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]) -> list[UnitTargets]:
    """What each writer has to say: all differ."""
    header = make_header()
    return [make_targets(header, np.random.default_rng(w), [f"w{w}.{r}" for r in range(3)]) for w in range(WRITERS)]


@pytest.fixture
def assert_one_winner(make_header: Callable[..., StoreHeader], contents: list[UnitTargets]) -> Callable[..., None]:
    """Race for so many units, several lanes of them at a time, and look at what came of each."""

    def raced(uri: str, units: int, lanes: int) -> None:
        store = TargetStore(open_storage(uri), "train")
        store.create(make_header())
        store.vocab_order_files.create(np.arange(store.header.vocabulary, dtype=float))
        found = run_race(uri, contents, [list(range(units))[lane::lanes] for lane in range(lanes)])
        for unit in range(units):
            winners = [(writer, entry) for u, writer, won, entry in found if u == unit and won]
            assert len(winners) == 1, f"unit {unit} has {len(winners)} winners"
            writer, entry = winners[0]
            assert store.log.entry(unit) == entry
            assert store.read_unit(entry).content_hash() == contents[writer].content_hash() == entry.content_hash
        assert store.log.committed() == set(range(units)) and len(found) == units * WRITERS
        if units > 20:
            assert len({writer for _, writer, won, _ in found if won}) > 1, "the same one won always: that is no race"

    return raced


def run_race(uri: str, contents: list[UnitTargets], lanes: list[list[int]]) -> list[tuple[int, int, bool, Entry]]:
    """All writers over some processes; returns (unit, writer, won, entry) of every try."""
    gates: list[Any] = [processes.Barrier(WRITERS) for _ in lanes]
    results = processes.SimpleQueue()
    writers = [
        start(race, uri, {w: contents[w] for w in range(p, WRITERS, PROCESSES)}, lanes, gates, results)
        for p in range(PROCESSES)
    ]
    found = []
    for _ in range(WRITERS * sum(map(len, lanes))):
        while results.empty():
            assert any(w.is_alive() for w in writers), "a writer ended in an error"
            time.sleep(0.01)
        found.append(results.get())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    return found


def test_one_of_many_writers_wins_a_unit_on_a_local_disk(
    tmp_path: Path, assert_one_winner: Callable[..., None]
) -> None:
    assert_one_winner(str(tmp_path / "run"), units=50, lanes=2)


@pytest.mark.parametrize("units", [10, pytest.param(50, marks=pytest.mark.long)])
def test_one_of_many_writers_wins_a_unit_on_s3(
    units: int, seaweed_endpoint: str, assert_one_winner: Callable[..., None]
) -> None:
    """In lanes, as the server makes a writer that finds the key locked wait for whole seconds."""
    with reached_at(seaweed_endpoint) as bucket:
        assert_one_winner(join(bucket, uuid.uuid4().hex), units=units, lanes=5)
