"""Runs side by side, as lines."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from orchestrator.render.columns import print_columns
from orchestrator.render.sentences import interval_cell
from orchestrator.reporting.scores import Difference
from orchestrator.reporting.side_by_side import SideBySide, SpecialistBeside

HEADS = ["specialist", "run", "tokens", "KL", "95 %", "less the first", "top-1", "acceptance", "retention"]
"""Of the columns of runs side by side."""

_OTHER_TEXT = (
    "Held-out texts differ between runs, so differences have no paired intervals: texts are sampled by the seed, and "
    "runs of one seed, teacher and prompts have the same ones."
)


def print_side_by_side(found: SideBySide, out: Console) -> None:
    """A table of specialists, each in all runs, and what seeds say of floors."""
    labels = run_labels(found)
    print_columns(out, HEADS, [cells_of(one, labels) for one in found.specialists], ["specialist", "run"])
    for sentence in sentences_of(found):
        out.print(sentence, markup=False, soft_wrap=True)


def sentences_of(found: SideBySide) -> list[str]:
    """What is to be said below the table."""
    seeds = [f"{name}, over the seeds: {sentence}" for name, sentence in found.floors.items()]
    return [*([] if found.same_text else [_OTHER_TEXT]), *seeds]


def run_labels(found: SideBySide) -> dict[str, str]:
    """Of each run the last parts of its folder or URI, as many as tell it from the others."""
    parts = {run: run.rstrip("/").split("/") for run in dict.fromkeys(one.run for one in found.specialists)}
    for last in range(1, max(map(len, parts.values()), default=1) + 1):
        labels = {run: "/".join(words[-last:]) for run, words in parts.items()}
        if len(set(labels.values())) == len(labels):
            return labels
    return {run: run for run in parts}


def cells_of(one: SpecialistBeside, labels: Mapping[str, str]) -> list[str]:
    """A specialist of a run, by `HEADS`."""
    own, run = one.heldout, labels[one.run]
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
