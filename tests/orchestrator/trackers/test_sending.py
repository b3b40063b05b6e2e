"""A run's log to a tracker: all of it, in order, once; and from where it stood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.toys.tracked_run import logged_run, scored, told_step, whole_run, write_log

from cluster.storage import LocalStorage
from orchestrator.config.trackers import MlflowConfig, TensorboardConfig, TrackerConfig, WandbConfig
from orchestrator.trackers.points import Meter, Point
from orchestrator.trackers.sending import Sending

CONFIG = TensorboardConfig(every_s=0.0)


class Keeping:
    """A tracker that keeps what it gets; it fails at the N-th call."""

    def __init__(self, fails_at: int = 0) -> None:
        self.points: list[Point] = []
        self._calls, self._fails_at = 0, fails_at

    def send(self, points: Sequence[Point]) -> None:
        self._calls += 1
        if self._calls == self._fails_at:
            raise ConnectionError("gone")
        self.points += points

    def close(self) -> None: ...


def told(points: Sequence[Point]) -> list[tuple[str, int, dict[str, float]]]:
    return [(point.student, point.step, point.named()) for point in points]


def sending(storage: LocalStorage, config: TrackerConfig = CONFIG) -> Sending:
    return Sending(storage, "clinic", "tensorboard", config)


def expected() -> list[Point]:
    meter = Meter(0.0)
    return [point for attempt in whole_run() for event in attempt for point in meter.take(event)]


def test_a_log_is_sent_whole_and_once(tmp_path: Path) -> None:
    storage, tracker = logged_run(tmp_path), Keeping()
    way = sending(storage)
    assert sum(way.unsent().values()) == len(expected())
    for place in way.behind():
        way.send(place, tracker)
    assert told(tracker.points) == told(expected()) and way.sent == len(expected())
    again = sending(storage)
    assert again.behind() == [] and not again.unsent() and again.sent == len(expected())
    assert again.group == way.group


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_one_that_fails_goes_on_where_it_stood(fails_at: int, tmp_path: Path) -> None:
    storage, first, second = logged_run(tmp_path), Keeping(fails_at), Keeping()
    with pytest.raises(ConnectionError):
        way = sending(storage)
        for place in way.behind():
            way.send(place, first)
    rest = sending(storage)
    assert rest.unsent().total() == len(expected()) - len(first.points)
    for place in rest.behind():
        rest.send(place, second)
    steps = [(p.student, p.step, p.final) for p in first.points + second.points if p.student]
    assert steps == [(p.student, p.step, p.final) for p in expected() if p.student]


def test_segments_are_found_as_they_come_without_a_listing(tmp_path: Path) -> None:
    storage, tracker = LocalStorage(tmp_path), Keeping()
    way = sending(storage)
    assert way.next_of(3) is None
    write_log(storage, 3, [told_step("m", i, float(i)) for i in range(1, 5)], a_segment=2)
    while (place := way.next_of(3)) is not None:
        way.send(place, tracker)
    assert [p.step for p in tracker.points] == [1, 2, 3, 4]


def test_another_place_is_told_from_the_beginning_and_another_pace_is_no_other_place(tmp_path: Path) -> None:
    storage = logged_run(tmp_path)
    mlflow = MlflowConfig(uri="http://one:5000", every_s=0.0)
    way = sending(storage, mlflow)
    for place in way.behind():
        way.send(place, Keeping())
    same = [mlflow.model_copy(update=update) for update in ({"finish_s": 1.0}, {"uri": "http://one:5000/"})]
    other = [mlflow.model_copy(update=update) for update in ({"uri": "http://two:5000"}, {"experiment": "x"})]
    assert [bool(sending(storage, config).behind()) for config in (*same, *other)] == [False, False, True, True]
    assert sending(storage, WandbConfig()).behind()


def test_a_segment_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    storage, tracker = logged_run(tmp_path), Keeping()
    storage.write("events/0001/000001.jsonl", b'{"schema": 1}\n{"kind": "mess')
    way = sending(storage)
    for place in way.behind():
        way.send(place, tracker)
    assert ("legal", 5) in {(p.student, p.step) for p in tracker.points} and way.behind() == []


def test_the_cursor_is_a_few_lines_however_long_the_run(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    write_log(storage, 1, [told_step("m", i, float(i)) for i in range(1, 3001)], a_segment=1000)
    write_log(storage, 2, [scored("m")])
    way = sending(storage)
    for place in way.behind():
        way.send(place, Keeping())
    [key] = storage.keys("trackers")
    assert len(storage.read(key)) < 1000 and json.loads(storage.read(key))["place"] == [2, 0]
