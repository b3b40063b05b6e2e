"""Runs side by side, as lines."""

from __future__ import annotations

from rich.console import Console

from orchestrator.render.columns import print_columns
from orchestrator.render.sentences import interval_cell
from orchestrator.reporting.scores import Difference
from orchestrator.reporting.side_by_side import SideBySide, SpecialistBeside

_HEADS = ["specialist", "run", "tokens", "KL", "95 %", "less the first", "top-1", "acceptance", "retention"]


def print_side_by_side(found: SideBySide, out: Console) -> None:
    """A table of specialists, each in all runs, and what seeds say of floors."""
    print_columns(out, _HEADS, [_row(one) for one in found.specialists], ["specialist", "run"])
    if not found.same_text:
        out.print(
            "Held-out texts differ between runs, so differences have no paired intervals: texts are sampled by the "
            "seed, and runs of one seed, teacher and prompts have the same ones.",
            markup=False,
            soft_wrap=True,
        )
    for name, sentence in found.floors.items():
        out.print(f"{name}, over the seeds: {sentence}", markup=False, soft_wrap=True)


def _row(one: SpecialistBeside) -> list[str]:
    own, run = one.heldout, one.run.rstrip("/").rpartition("/")[2]
    if own is None:
        return [one.name, run, f"{one.tokens:,}", "not scored", "", "", "", "", ""]
    return [
        one.name,
        run,
        f"{one.tokens:,}",
        f"{own.kl:.4f}",
        f"{own.kl_low:.4f} … {own.kl_high:.4f}",
        _difference(one.difference),
        f"{own.top1_agreement:.1%}",
        f"{own.acceptance:.1%}",
        interval_cell(one.retention),
    ]


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.kl:+.4f} ({difference.low:+.4f} … {difference.high:+.4f})"
