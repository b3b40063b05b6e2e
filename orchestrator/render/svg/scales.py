"""From values to places in a picture, and the values that are marked on an axis."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """What an axis shows, from `low` to `high`."""

    label: str
    low: float
    high: float
    log: bool = False
    """Whether equal ratios are equally far apart; both ends are above 0 then."""
    percent: bool = False
    """Whether parts of one are marked as percent."""

    @staticmethod
    def over(label: str, values: list[float], *, log: bool = False, percent: bool = False, zero: bool = False) -> Axis:
        """An axis that holds all finite values (of a logarithmic one, those above 0), and 0 where asked; it ends at
        marks."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(known), max(known)
        if log:
            low, high = (low, high) if low < high else (low / 2, high * 2)
            return Axis(label, low, high, log=True, percent=percent)
        low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
        if low == high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        step = _step(high - low, 5)
        return Axis(label, step * math.floor(low / step), step * math.ceil(high / step), percent=percent)

    def share(self, value: float) -> float:
        """How far along the axis a value lies: 0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values along the axis, about so many at most."""
        if self.log:
            return _log_ticks(self.low, self.high, most)
        step = _step(self.high - self.low, most - 1)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def text(self, value: float) -> str:
        """A value as it stands beside its mark."""
        if self.percent:
            return f"{100 * value:.3g} %"
        if abs(value) >= 1000:
            return short(value)
        return f"{value:.3g}"


def short(value: float) -> str:
    """A large number in thousands, millions or billions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _step(span: float, marks: int) -> float:
    """1, 2 or 5 times a power of ten, of which about so many fit into a span."""
    rough = span / marks
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for within in ((1, 2, 5), (1, 3), (1,)):
        found = [n * 10.0**p for p in powers for n in within if low * (1 - 1e-9) <= n * 10.0**p <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found or [low, high]
    return found[:: math.ceil(len(found) / most)]
