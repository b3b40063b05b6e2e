"""Older rows between new ones: in which share, and that where they stand is all there is to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.store_fixture import StoreFixture, content

from workers.targets.reader import Cursor, DomainPosition, TargetRow, TargetStream
from workers.targets.replay import ReplayStream

MIX = {"a": 0.6, "b": 0.4}


@pytest.fixture
def stores(build: Callable[..., StoreFixture]) -> dict[str, StoreFixture]:
    """A new store and those of two older generations, in folders of their own."""
    return {name: build(folder=name).commit_all() for name in ("new", "1", "2")}


def replaying(
    stores: dict[str, StoreFixture], share: float = 0.25, cursor: Cursor | None = None, epoch: int = 1, **more: Any
) -> ReplayStream:
    def older(name: str) -> TargetStream:
        began = Cursor({d: DomainPosition(epoch=epoch) for d in MIX}, stores[name].plan.generation)
        return stores[name].stream(MIX, cursor=cursor.replayed[name] if cursor is not None else began, **more)

    new = stores["new"].stream(MIX, cursor=cursor, **more)
    return ReplayStream(new, {name: older(name) for name in ("1", "2")}, share)


def taken(stream: ReplayStream, rows: int) -> list[TargetRow]:
    return [stream.next_row() for _ in range(rows)]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_so_much_of_the_target_tokens_is_replayed(stores: dict[str, StoreFixture], share: float) -> None:
    stream = replaying(stores, share)
    longest = max(row.targets for row in taken(stream, 300))
    new, older = stream.cursor.served, [c.served for c in stream.cursor.replayed.values()]
    assert sum(older) / (new + sum(older)) == pytest.approx(share, abs=3 * longest / (new + sum(older)))
    assert abs(older[0] - older[1]) <= 2 * longest, "each generation an equal part"


def test_it_goes_on_from_any_place_as_if_it_had_not_stopped(stores: dict[str, StoreFixture]) -> None:
    whole = [content(row) for row in taken(replaying(stores), 120)]
    for place in (1, 7, 50, 111):
        stream = replaying(stores)
        taken(stream, place)
        cursor = Cursor.from_dict(json.loads(json.dumps(stream.cursor.to_dict())))
        assert [content(row) for row in taken(replaying(stores, cursor=cursor), 120 - place)] == whole[place:]


def test_new_rows_are_those_of_the_new_store_alone_in_their_order(stores: dict[str, StoreFixture]) -> None:
    alone = stores["new"].stream(MIX)
    stream = replaying(stores)
    given, mixed = list[object](), [content(row) for row in taken(stream, 60)]
    while alone.cursor.served < stream.cursor.served:
        given.append(content(alone.next_row()))
    assert [row for row in mixed if row in given] == given


def test_another_generation_reads_the_older_units_in_another_order(stores: dict[str, StoreFixture]) -> None:
    second, third = ([row.prompt_uid for row in taken(replaying(stores, 0.6, epoch=e), 40)] for e in (1, 2))
    assert second != third


def test_a_cursor_without_replay_is_as_it_was_before_there_was_any(stores: dict[str, StoreFixture]) -> None:
    stream = stores["new"].stream(MIX)
    stream.next_batch(5)
    assert "replayed" not in stream.cursor.to_dict() and Cursor.from_dict(stream.cursor.to_dict()).replayed == {}


def test_streams_share_the_memory_of_one(stores: dict[str, StoreFixture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.targets.unit_reader._CACHE_BYTES", 3000)
    stream = replaying(stores, 0.6, cache_share=1 / 3)
    taken(stream, 200)
    for one in stream._streams.values():
        cache = one._reader._cache
        assert len(cache) == 1 or sum(unit.bytes for unit in cache.values()) <= 1000
    stream.close()
