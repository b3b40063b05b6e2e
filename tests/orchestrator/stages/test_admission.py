"""Which replicas may have a place, how long they may wait for it, and whose place is free."""

from __future__ import annotations

from orchestrator.stages.admission import IDLE_S, Admission


def test_the_least_are_admitted_and_more_when_the_pool_may_grow() -> None:
    pool = Admission(units=9, least=2)
    assert [pool.admit(r, 0) for r in "abc"] == ["place", "place", "wait"]
    pool.growing = True
    assert pool.admit("c", 0) == "place" and pool.admit("a", 0) == "place"


def test_nobody_is_admitted_when_no_unit_is_left() -> None:
    pool = Admission(units=1, least=1)
    assert pool.admit("a", 0) == "place"
    pool.begin("a", 0)
    assert pool.admit("b", 0) == "nothing"


def test_the_least_have_a_deadline_and_further_ones_wait_as_long_as_they_are_wanted() -> None:
    pool = Admission(units=9, least=2, growing=True)
    assert pool.patience("a") == pool.patience("b") == pool.patience("c") == "deadline"
    pool.placed |= {"a", "c"}
    assert pool.patience("b") == "forever"


def test_the_deadline_does_not_run_while_another_teacher_will_free_its_place() -> None:
    pool = Admission(units=9, least=1, others=1)
    assert pool.patience("a") == "others"
    pool.others = 0
    assert pool.patience("a") == "deadline"


def test_a_replica_that_lost_its_place_with_a_unit_in_hand_has_a_deadline() -> None:
    pool = Admission(units=9, least=1)
    pool.placed.add("a")
    pool.begin("b", 3)
    assert pool.patience("b") == "deadline" and pool.patience("c") == "forever"


def working(units: int) -> Admission:
    """Three replicas, each with a unit begun."""
    pool = Admission(units, least=1, growing=True)
    for replica in "abc":
        pool.admit(replica, 0)
        pool.placed.add(replica)
        pool.begin(replica, replica)
    return pool


def test_an_idle_place_is_free_at_once_when_no_unit_is_left() -> None:
    pool = working(units=3)
    pool.rest("b", 10)
    assert pool.free(10) == {"b"} and pool.free(10) == set()
    assert pool.placed == {"a", "c"}


def test_a_replica_that_waits_for_a_place_gives_up_when_no_unit_is_left() -> None:
    pool = working(units=3)
    pool.admit("d", 0)
    assert pool.admit("d", 0) == "nothing"
    pool = working(units=4)
    pool.admit("d", 0)
    pool.begin("a", "next")
    assert pool.free(1) == {"d"}


def test_units_that_may_be_queued_behind_others_keep_an_idle_place_for_a_moment_only() -> None:
    pool = working(units=5)
    pool.rest("b", 10)
    assert pool.free(10) == set(), "one of the two left may be queued for it"
    assert pool.free(10 + IDLE_S) == {"b"}


def test_a_replica_that_has_just_started_is_not_idle_for_as_long_as_it_took() -> None:
    pool = working(units=5)
    pool.admit("d", 0)
    pool.rest("d", 100)
    assert pool.free(100) == set() and pool.free(100 + IDLE_S) == {"d"}


def test_no_place_is_free_while_units_are_queued_for_it() -> None:
    pool = working(units=9)
    pool.rest("b", 0)
    assert pool.free(1000) == set()


def test_a_unit_begun_again_is_no_other_unit() -> None:
    pool = working(units=4)
    pool.begin("a", "a")
    assert pool.left == 1


def test_whose_place_was_freed_while_it_loaded_asks_for_none_until_there_is_more_for_it() -> None:
    pool = Admission(units=9, least=2)
    assert [pool.admit(r, 0) for r in "ab"] == ["place", "place"]
    pool.place("b")
    for unit in range(8):
        pool.begin("a", unit)
    assert pool.free(IDLE_S) == {"b"}, "it loads still, and the last unit is for whoever works"
    assert pool.admit("b", IDLE_S) == "wait", "else a node would come for it"
    pool.rest("a", IDLE_S)
    assert pool.admit("b", IDLE_S) == "wait", "who rests begins it within moments"
    pool.begin("a", 8)
    assert pool.admit("b", IDLE_S) == "nothing"


def test_a_place_that_comes_when_it_is_not_needed_any_more_is_given_back() -> None:
    pool = working(units=4)
    assert pool.admit("d", 0) == "place" and pool.place("d") == 4
    pool = working(units=4)
    assert pool.admit("d", 0) == "place"
    pool.begin("a", "next")
    assert pool.free(1) == {"d"} and pool.place("d") == 0 and "d" not in pool.placed
