"""How long a student is expected to wait, beside a simulation of one that reads units as they come."""

from __future__ import annotations

import pytest

from orchestrator.stages.training.expectation import Paces, Reader, Supply, waiting_share

TOKENS = 100
"""Of a unit."""


def supply_of(units: int, committed: int, per_second: float) -> Supply:
    """Committed evenly until time 0."""
    own = Supply(units, units * TOKENS)
    for unit in range(committed):
        own.commit((unit + 1 - committed) / per_second)
    return own


def simulated(units: int, committed: int, per_second: float, rate: float, budget: int) -> float:
    """Share of its time that a student waits which reads a unit when it has trained on the one before."""
    clock = waited = 0.0
    for read in range(budget // TOKENS):
        comes = max((read + 1 - committed) / per_second, 0.0) if read < units else 0.0
        waited += max(comes - clock, 0.0)
        clock = max(clock, comes) + TOKENS / rate
    return waited / clock


@pytest.mark.parametrize("committed", [2, 10, 50, 90, 100])
@pytest.mark.parametrize("rate", [20.0, 100.0, 1000.0])
@pytest.mark.parametrize("budget", [5_000, 10_000, 40_000])
def test_what_is_expected_is_what_a_student_would_wait(committed: int, rate: float, budget: int) -> None:
    found = waiting_share(Reader({"d": 1.0}, budget), rate, lambda d: supply_of(100, committed, 0.5), 0.0)
    # The formula has the units as a stream, the simulation whole: it waits for one unit more at most, or trains on it.
    edge = (1 / 0.5 + TOKENS / rate) / (budget / rate)
    assert found == pytest.approx(simulated(100, committed, 0.5, rate, budget), abs=edge)


def test_the_slowest_domain_decides_and_one_without_units_does_not() -> None:
    supplies = {"fast": supply_of(10, 10, 1.0), "slow": supply_of(100, 2, 0.1), "none": Supply(0, 0.0)}
    both = waiting_share(Reader({"fast": 0.5, "slow": 0.4, "none": 0.1}, 10_000), 100.0, supplies.__getitem__, 0.0)
    fast = waiting_share(Reader({"fast": 1.0, "slow": 0.0}, 10_000), 100.0, supplies.__getitem__, 0.0)
    assert fast == 0.0 and both is not None and both > 0.5


def test_nothing_is_expected_before_a_rate_is_known() -> None:
    assert waiting_share(Reader({"d": 1.0}, 1000), 1.0, lambda d: Supply(10, 100.0), 0.0) is None
    assert waiting_share(Reader({"d": 1.0}, 1000), 1.0, lambda d: supply_of(10, 1, 1.0), 0.0) is None


def test_units_hold_as_much_as_those_of_which_it_was_told() -> None:
    own = Supply(10, 1000.0)
    assert own.tokens == 1000
    own.told = (2, 60)
    assert own.tokens == 300


def test_rates_are_those_of_the_seconds_in_which_a_student_stepped() -> None:
    paces = Paces(parameters={"small": 10, "large": 40})
    assert paces.of("small") is None
    for step, second in enumerate((0, 1, 50, 51, 52, 53, 54)):  # it waited between
        paces.note("small", 100 * (step + 1), [second])
    assert paces.of("small") == 100
    assert paces.of("large") == 25, "four times the parameters, a quarter of the rate"
    assert paces.of("unknown") == 100


def test_a_student_that_went_back_to_a_checkpoint_is_not_slower() -> None:
    paces = Paces()
    for tokens in (100, 200, 300, 400, 100, 200, 300, 400):
        paces.note("one", tokens, [tokens])
    assert paces.of("one") == 100
