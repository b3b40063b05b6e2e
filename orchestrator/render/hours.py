"""Hours and dollars as a person reads them; those of a plan."""

from __future__ import annotations

from rich.console import Console

from orchestrator.preflight.hours.record import Dollars, Hours, PartHours
from orchestrator.render.columns import print_columns


def print_hours(hours: Hours, dollars: Dollars | None, out: Console) -> None:
    """Print when each part works and what its time goes to, then the whole."""
    head = ["part", "takes", "from", "to", "tokens/s", "bound by", "of it"]
    rows = [[name, *_cells(part)] for name, part in hours.parts.items()]
    if dollars is not None:
        head.insert(4, "dollars")
        for row in rows:
            row.insert(4, _dollars(dollars.parts.get(row[0])))
    print_columns(out, head, rows, ["part", "bound by", "of it"])
    whole = "not known" if hours.wall is None else duration(hours.wall)
    line = f"in all: {whole}"
    if dollars is not None:
        line += f", {'dollars not known' if dollars.total is None else dollars_words(dollars.total)}"
        line += f" ({dollars_words(dollars.idle)} of it idle)" if dollars.idle is not None else ""
    out.print(f"{line}; {_source(hours)}", markup=False)


def duration(hours: float) -> str:
    """Seconds, minutes or hours, three digits of them."""
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if hours < 1.5 else f"{hours:,.3g} h" if hours < 1000 else f"{hours:,.0f} h"


def dollars_words(dollars: float) -> str:
    """Dollars and cents, or of a few cents two digits."""
    return f"${dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.2g}"


def _cells(part: PartHours) -> list[str]:
    if part.hours is None:
        return ["–"] * 5 + ["not known"]
    times = ["–" if time is None else duration(time) for time in (part.hours, part.starts, part.ends)]
    steps = ", ".join(f"{name} {duration(time)}" for name, time in part.steps.items()) if len(part.steps) > 1 else ""
    pace = "–" if part.tokens_per_s is None else f"{part.tokens_per_s:,.0f}"
    return [*times, pace, part.bound or "–", steps]


def _dollars(dollars: float | None) -> str:
    return "–" if dollars is None else dollars_words(dollars)


def _source(hours: Hours) -> str:
    """Where the figures are from."""
    if hours.rates is not None:
        [source] = {part.source for part in hours.parts.values() if part.source is not None} or {hours.rates}
        return f"{source} ({hours.rates})"
    taken = ", ".join(
        f"{name} {value:g} ms" if name == "layer_ms" else f"{name} {value:.0%}"
        for name, value in hours.efficiencies.items()
    )
    return f"roofline at {taken}"
