"""Which specialists may take a place: by priority, number and expectation."""

from __future__ import annotations

from orchestrator.config.fan_out import FanOutConfig
from orchestrator.stages.training.queue import admitted, by_priority


def test_priority_goes_before_order_and_equals_keep_theirs() -> None:
    assert by_priority(["a1", "b5", "c1", "d5"], lambda name: int(name[1])) == ["b5", "d5", "a1", "c1"]


def test_so_many_at_once_and_so_many_without_a_place() -> None:
    everybody, queue = lambda group: True, list("abcdef")
    assert admitted(queue, FanOutConfig(), at_work=40, looking=0, ready=everybody) == queue
    assert admitted(queue, FanOutConfig(at_once=3), at_work=1, looking=0, ready=everybody) == ["a", "b"]
    assert admitted(queue, FanOutConfig(at_once=3), at_work=3, looking=0, ready=everybody) == []
    assert admitted(queue, FanOutConfig(pending=4), at_work=9, looking=3, ready=everybody) == ["a"]


def test_one_that_is_not_ready_holds_up_none_behind_it() -> None:
    assert admitted(list("abc"), FanOutConfig(at_once=2), at_work=0, looking=0, ready="bc".__contains__) == ["b", "c"]
