"""How long a student would wait for targets if it took its place now, from what was measured so far. Pure.

A student reads the units of its domains in their order, each for the first time as it is committed. With n units of a
domain that it will read, of which m are not committed, and c a second being committed, it has them all after m / c
seconds; reading and training on them takes it N / r, at r target tokens a second. It waits for the difference, at most
over its domains. Later rounds over the same targets wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

_LEAST_SECONDS = 5
"""Seconds of the clock in which a student must have stepped before its rate counts."""


@dataclass
class Supply:
    """The units of one domain, in the training store."""

    units: int
    most: float
    """Target tokens of all of them at most."""
    committed: int = 0
    first: tuple[float, int] | None = None
    """A time, and how many units were committed by then: the rate is what came since."""
    told: tuple[int, int] = (0, 0)
    """Units of which it was told how many targets they have, and these."""

    @property
    def tokens(self) -> float:
        """Target tokens of all units, as many in each as in those of which it was told."""
        units, targets = self.told
        return self.units * targets / units if units else self.most

    def commit(self, time: float) -> None:
        """One unit more."""
        self.committed += 1
        if self.first is None:
            self.first = (time, self.committed)

    def seconds_to(self, units: float, now: float) -> float | None:
        """Seconds until so many units are committed; None where no rate is known."""
        if self.committed >= units:
            return 0.0
        if self.first is None or now <= self.first[0] or self.committed == self.first[1]:
            return None
        return (units - self.committed) * (now - self.first[0]) / (self.committed - self.first[1])


@dataclass(frozen=True)
class Reader:
    """A student that would read."""

    mix: Mapping[str, float]
    budget: int
    """Target tokens that it trains on."""


@dataclass
class Paces:
    """How fast students train, in target tokens a second in which they stepped."""

    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tokens and seconds by student, from its second report on."""
    parameters: dict[str, int] = field(default_factory=dict)
    """Of students' models; 0: not known."""
    _last: dict[str, int] = field(default_factory=dict)

    def note(self, student: str, tokens: int, seconds: Iterable[int]) -> None:
        """A student has trained on `tokens` in all; `seconds`: in which it stepped since its last report."""
        before, self._last[student] = self._last.get(student), tokens
        if before is not None and tokens > before:
            had, took = self.seen.get(student, (0, 0))
            self.seen[student] = had + tokens - before, took + len(list(seconds))

    def of(self, student: str) -> float | None:
        """A student's rate: its own, or that of the others, by parameters where they are known; None where there is
        none."""
        own, parameters = self._rate(student), self.parameters.get(student, 0)
        if own is not None:
            return own
        others = [
            rate * (self.parameters.get(name, 0) / parameters if parameters and self.parameters.get(name) else 1.0)
            for name in self.seen
            if (rate := self._rate(name)) is not None
        ]
        return median(others) if others else None

    def _rate(self, student: str) -> float | None:
        tokens, seconds = self.seen.get(student, (0, 0))
        return tokens / seconds if seconds >= _LEAST_SECONDS else None


def waiting_share(reader: Reader, rate: float, supply: Callable[[str], Supply], now: float) -> float | None:
    """Share of its time in its place that a student would wait for targets, at `rate` tokens a second; None where it
    cannot be told yet."""
    waits = 0.0
    for domain, share in reader.mix.items():
        own = supply(domain)
        if share <= 0 or not own.units or not own.tokens:
            continue
        read = min(own.tokens, share * reader.budget)
        comes = own.seconds_to(own.units * read / own.tokens, now)
        if comes is None:
            return None
        waits = max(waits, comes - read / share / rate)
    trains = reader.budget / rate
    return waits / (waits + trains)
