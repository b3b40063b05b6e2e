"""Nodes and searches for places, from events by hand."""

from __future__ import annotations

import pytest

from orchestrator.reporting.money.nodes import NodesReport, NodeTimes
from workers.channels.events import Event, Message, NodeJoined, NodeLeft, PlaceEnded, PlaceWanted, RunEnded, RunStarted

BEGAN = 1_700_000_000.0


def came(node: str, role: str, at: float) -> Event:
    """Seen five seconds later."""
    return NodeJoined(node=node, role=role, joined=BEGAN + at, time=BEGAN + at + 5)


def left(node: str, at: float) -> Event:
    return NodeLeft(node=node, left=BEGAN + at, time=BEGAN + at + 5)


def started(at: float) -> Event:
    return RunStarted(run="r", storage="", attempt=1, time=BEGAN + at)


def ended(at: float) -> Event:
    return RunEnded(outcome="done", time=BEGAN + at)


def wants(place: str, at: float, **whose: str) -> Event:
    return PlaceWanted(place=place, processes=2, time=BEGAN + at, **whose)


def has(place: str, at: float, *, found: bool = True) -> Event:
    return PlaceEnded(place=place, found=found, time=BEGAN + at)


def told(*events: Event) -> NodesReport | None:
    times = NodeTimes()
    for event in events:
        times.take(event)
    return times.report()


def test_nodes_are_counted_by_role_while_the_run_works() -> None:
    found = told(
        started(0),
        came("h", "head", -1000),
        wants("r1", 10, teacher="t"),
        wants("r2", 12, teacher="t"),
        came("t1", "teacher", 30),
        came("t2", "teacher", 40),
        has("r1", 32),
        has("r2", 45),
        left("t1", 60),
        wants("medical", 70, student="medical"),
        left("t2", 80),
        has("medical", 90, found=False),
        ended(100),
    )
    assert found is not None and found.seconds == 100
    assert {name: (role.nodes, role.most, role.node_s) for name, role in found.roles.items()} == {
        "head": (1, 1, 100), "teacher": (2, 2, 70),
    }  # fmt: skip
    assert found.roles["teacher"].counts == ((30, 1), (40, 2), (60, 1), (80, 0))
    assert (found.node_s, found.fixed_node_s, found.saved) == (170, 300, pytest.approx(1 - 170 / 300))
    assert (found.wanted["teachers"].places, found.wanted["teachers"].longest_s) == (2, 33)
    assert found.wanted["teachers"].spans == ((10, 45),), "while any of them waits"
    assert (found.wanted["students"].places, found.wanted["students"].longest_s) == (0, 0)
    assert found.wanted["students"].spans == ((70, 90),)


def test_nothing_counts_between_two_attempts_and_a_killed_one_ends_with_its_last_word() -> None:
    found = told(
        started(0),
        came("h", "head", -10),
        came("t1", "teacher", 10),
        wants("r1", 10, teacher="t"),
        Message(text="the last word", time=BEGAN + 50),
        started(1000),
        came("h", "head", -10),
        came("t1", "teacher", 10),
        came("t2", "teacher", 1010),
        ended(1050),
    )
    assert found is not None and found.seconds == 100
    assert found.roles["head"].node_s == 100 and found.roles["head"].nodes == 1
    assert found.roles["teacher"].node_s == 40 + 50 + 40 and found.roles["teacher"].most == 2
    assert found.wanted["teachers"].spans == ((10, 50),) and found.wanted["teachers"].places == 0
    assert found.fixed_node_s == 3 * 100


def test_one_node_at_a_time_is_no_cluster() -> None:
    assert told(started(0), ended(10)) is None
    assert told(started(0), came("a", "head", -5), ended(10), started(100), came("b", "head", 90), ended(110)) is None


def test_many_changes_are_as_many_as_a_picture_shows() -> None:
    nodes = [event for i in range(3000) for event in (came(f"n{i}", "spot", i), left(f"n{i}", i + 2.5))]
    found = told(started(0), came("h", "head", 0), *nodes, ended(3010))
    assert found is not None and len(found.roles["spot"].counts) <= 401
    assert (found.roles["spot"].nodes, found.roles["spot"].most) == (3000, 3)
