"""Seconds for which places were held, from events by hand."""

from __future__ import annotations

import pytest
from support.toys.watched_run import BEGAN, ending, state, stepped, story, unit

from orchestrator.reporting.money.held import Captured, Held
from workers.channels.events import Event, ReplicaAtWork, ReplicaLoading, RunStarted, StudentStep


def held(*events: Event) -> Held:
    found = Held()
    for event in events:
        found.take(event)
    return found.so_far()


def again(at: float) -> Event:
    return RunStarted(run="clinic", storage="", attempt=2, time=BEGAN + at)


def test_a_whole_run() -> None:
    found = held(*story(), *ending())
    assert found.stages == {"prepare": 5, "capture and train": 105, "evaluate": 14, "export": 5}
    assert found.teachers == {"teacher": 90}, "from its place at 10 to its last unit at 100"
    assert found.students == {"medical": {2: 80}, "legal": {1: 20}}, "two workers from 30 to 110, one until it failed"
    assert found.scoring == 10
    assert found.busy == {Captured("teacher", "train", d): 40 for d in ("medical", "legal")}
    assert found.targets == {Captured("teacher", "train", d): 400 for d in ("medical", "legal")}
    assert found.tokens["medical"] == 1000


def test_a_run_at_work_is_counted_up_to_its_last_word_and_goes_on() -> None:
    found = Held()
    for event in story():
        found.take(event)
    assert found.so_far().students["medical"] == {2: 30} and found.so_far().teachers == {"teacher": 50}
    for event in ending():
        found.take(event)
    assert found.so_far() == found.so_far() and found.so_far().students["medical"] == {2: 80}


def test_an_attempt_that_is_killed_held_its_places_to_its_last_word() -> None:
    """Nothing counts between two attempts, and the second one's places are others."""
    second = [state("medical", "loading", 1000, workers=1), state("medical", "training", 1010, workers=1)]
    found = held(*story(), again(990), *second, stepped("medical", 1050, 900))
    assert found.students["medical"] == {2: 30, 1: 50} and found.teachers == {"teacher": 50}


def test_workers_train_controls_after_their_specialist() -> None:
    events = [
        state("a", "queued", 0),
        state("a.hard_labels", "queued", 0),
        state("a", "loading", 10, workers=1),
        state("a", "training", 20, workers=1),
        state("a", "done", 50, workers=1),
        state("a.hard_labels", "training", 55, workers=1),
        stepped("a.hard_labels", 70, 300),
    ]
    assert held(*events).students == {"a": {1: 40}, "a.hard_labels": {1: 20}}, "the engine's change is the control's"


def test_workers_that_are_lost_hold_nothing_until_others_come() -> None:
    events = [state("a", "loading", 0, workers=4), stepped("a", 100, 300), state("a", "loading", 500, workers=2)]
    assert held(*events, state("a", "training", 520, workers=2)).students == {"a": {4: 100, 2: 20}}
    queued = [state("a", "queued", 400), state("a", "failed", 900)]
    assert held(*events[:2], *queued).students == {"a": {4: 100}}


def test_what_an_earlier_attempt_trained_holds_nothing() -> None:
    assert held(again(0), state("a", "done", 5), state("b", "queued", 6)).students == {}


def test_a_replica_whose_place_was_taken_holds_another_one_later() -> None:
    place = [ReplicaLoading(teacher="t", replica="r", time=at) for at in (0, 100)]
    work = [ReplicaAtWork(teacher="t", replica="r", texts=1, slots=2, time=at) for at in (30, 110)]
    assert held(place[0], work[0], place[1], work[1]).teachers == {"t": 40}


def test_units_of_several_domains_and_repairs() -> None:
    both = unit(1, 10, 8, "medical", "legal")
    repaired = unit(1, 20, 4, "medical", "legal").model_copy(update={"revision": 1})
    lost = unit(2, 30, 9, "medical").model_copy(update={"won": False})
    found = held(both, repaired, lost)
    medical = Captured("teacher", "train", "medical")
    assert found.busy[medical] == 6 and found.targets[medical] == 50, "half of 8 + 4 s; targets once"


def test_events_in_any_number_are_a_few_sums() -> None:
    found = Held()
    for i in range(20_000):
        found.take(stepped("a", i, i))
        found.take(unit(i, i, 1, "medical"))
    kept = [len(part) for part in (found.students, found.teachers, found.busy, found._chains, found._replicas)]
    assert max(kept) == 1 and isinstance(stepped("a", 0, 0), StudentStep)


@pytest.mark.parametrize("at", [5, 50])
def test_clocks_that_differ_make_no_time_negative(at: float) -> None:
    events = [state("a", "loading", 50), stepped("a", at, 1), state("a", "failed", at)]
    assert all(seconds >= 0 for own in held(*events).students.values() for seconds in own.values())
