"""What places cost, and who pays for which part of the teacher, by hand."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from support.small_configuration import clinic
from support.toys.watched_run import ending, story

from orchestrator.config.schema import RunConfig
from orchestrator.reporting.money.held import Captured, Held
from orchestrator.reporting.money.spent import Amount, Spent, spent_of, split_among

CENT = {"prices": {"cpu_hour": 36.0}}
"""A cent a second of a CPU."""


def config(**changes: Any) -> RunConfig:
    """Medical and legal, each of its own domain; the teacher on one CPU."""
    return clinic(
        **{
            "teacher": {"model": "acme/teacher", "ep_size": 1, "cpus_per_rank": 1},
            "specialists": {"medical": {}, "legal": {}},
            "cluster": CENT,
        }
        | changes
    )


def held(tokens: dict[str, int], busy: dict[tuple[str, str], float], teacher_s: float = 100.0) -> Held:
    """Of one teacher whose units are so many seconds each, 10 targets a second."""
    which = {Captured("teacher", split, domain): s for (split, domain), s in busy.items()}
    return Held(
        teachers=defaultdict(float, {"teacher": teacher_s} if busy else {}),
        students={name: {1: 10.0} for name in tokens},
        busy=defaultdict(float, which),
        targets=defaultdict(float, {one: 10 * s for one, s in which.items()}),
        tokens=tokens,
    )


@pytest.mark.parametrize(
    ("used", "shares"),
    [
        ({}, {}),
        ({"a": 1.0}, {"a": 1.0}),
        ({"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.5}),
        ({"a": 0.5, "b": 1.0}, {"a": 0.25, "b": 0.75}),
        ({"a": 0.0, "b": 0.4}, {"a": 0.0, "b": 0.4}),
        ({"a": 0.3, "b": 0.6, "c": 0.9}, {"a": 0.1, "b": 0.25, "c": 0.55}),
    ],
)
def test_each_bit_is_paid_for_by_those_that_use_it(used: dict[str, float], shares: dict[str, float]) -> None:
    found = split_among(used)
    assert found == pytest.approx(shares)
    assert sum(found.values()) == pytest.approx(max(used.values(), default=0))
    assert all(found[name] <= used[name] + 1e-12 for name in used), "nobody pays more than alone"


def test_specialists_of_one_domain_share_its_units() -> None:
    """One trains on all 1,000 targets, the other on the first 500: it pays a quarter of what they take."""
    shared = config(specialists={"medical": {}, "legal": {"mix": {"medical": 1}}})
    found = spent_of(held({"medical": 1000, "legal": 500}, {("train", "medical"): 100.0}), shared)
    medical, legal = found.specialists["medical"], found.specialists["legal"]
    assert (medical.teacher_share, legal.teacher_share) == pytest.approx((0.75, 0.25))
    assert medical.teacher.dollars == pytest.approx(0.75) and legal.teacher.dollars == pytest.approx(0.25)
    assert legal.alone.dollars == pytest.approx(0.1 + 0.5) and medical.alone.dollars == pytest.approx(0.1 + 1.0)
    assert found.saved == pytest.approx(1 - 1.2 / 1.7) and found.saved_by == "dollars"
    assert found.unused.dollars == pytest.approx(0)


def test_specialists_that_share_nothing_save_nothing() -> None:
    busy = {("train", "medical"): 50.0, ("train", "legal"): 50.0}
    found = spent_of(held({"medical": 500, "legal": 9999}, busy), config())
    assert found.saved == pytest.approx(0) and found.specialists["legal"].teacher_share == pytest.approx(0.5)


def test_what_nobody_uses_is_nobodys() -> None:
    busy = {("train", "medical"): 40.0, ("train", "other"): 10.0}
    found = spent_of(held({"medical": 100}, busy, teacher_s=50.0), config())
    assert found.specialists["medical"].teacher.cpu_s == pytest.approx(10)
    assert found.specialists["legal"].teacher == Amount(dollars=0.0)
    assert found.unused.cpu_s == pytest.approx(40)


def test_held_out_units_are_paid_for_by_those_that_are_measured_on_them() -> None:
    mixed = config(specialists={"medical": {}, "legal": {"mix": {"legal": 0.5, "medical": 0.5}}})
    found = spent_of(held({}, {("heldout", "medical"): 10.0}, teacher_s=10.0), mixed)
    assert {n: s.teacher.cpu_s for n, s in found.specialists.items()} == {"medical": 5, "legal": 5}
    assert found.separate.cpu_s == 20


def test_the_parts_add_up(tmp_path: object) -> None:
    found = spent_of(_story(), config(evaluate={"workers": 2, "cpus": 3}))
    parts = [found.prepare, found.evaluate, found.export, *found.capture.values(), *found.training.values()]
    assert sum(p.cpu_s for p in parts) == found.total.cpu_s
    assert found.total.dollars == pytest.approx(found.total.cpu_s / 100)
    assert found.evaluate.cpu_s == 10 * 2 * 3 and found.capture["teacher"].cpu_s == 90
    shares = sum(s.teacher.cpu_s for s in found.specialists.values())
    assert shares + found.unused.cpu_s == pytest.approx(90)


def _story() -> Held:
    made = Held()
    for event in (*story(), *ending()):
        made.take(event)
    return made


def test_without_prices_there_are_seconds_alone() -> None:
    found = spent_of(_story(), config(cluster={}))
    assert found.total.dollars is None and found.unused.dollars is None and found.saved_by == "cpu_s"
    assert found.total.cpu_s > 0 and found.saved is not None
    nothing = spent_of(Held(), config(cluster={}))
    assert nothing.total == Amount() and nothing.saved is None


def test_gpus_are_priced_by_their_nodes() -> None:
    """Four ranks with a GPU each on a node of eight for $80 an hour, an hour; its CPUs come along. Students have no
    price of their own: CPUs of nodes whose GPUs are paid for."""
    on_gpus = {"model": "acme/teacher", "ep_size": 4, "cpus_per_rank": 2, "gpus_per_rank": 1}
    made = config(teacher=on_gpus, cluster={"prices": {"node_hour": {"h100": 80.0}}})
    found = spent_of(held({"medical": 10}, {("train", "medical"): 9.0}, teacher_s=3600.0), made)
    assert found.capture["teacher"] == Amount(gpu_s=4 * 3600, cpu_s=8 * 3600, dollars=40.0)
    assert found.training["medical"].dollars == 0 and found.total.dollars == 40


def test_a_part_without_a_price_leaves_no_dollars() -> None:
    on_gpus = {"model": "acme/teacher", "ep_size": 1, "gpus_per_rank": 1}
    made = config(teacher=on_gpus, cluster={"prices": {"node_hour": {"h100": 80.0, "l4": 8.0}, "cpu_hour": 1.0}})
    found = spent_of(held({"medical": 10}, {("train", "medical"): 9.0}), made)
    assert found.capture["teacher"].dollars is None, "on which of the two kinds it was is not known"
    assert found.total.dollars is None and found.training["medical"].dollars is not None
    assert found.saved_by == "gpu_s" and isinstance(found, Spent)


def test_what_the_configuration_has_no_more_is_counted() -> None:
    found = spent_of(Held(students={"removed": {0: 7.0}}, teachers=defaultdict(float, old=5.0)), config())
    assert found.training["removed"].cpu_s == 7 and found.capture["old"].cpu_s == 5
