"""Runs side by side as a page: their specialists' KL as bars, and all numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.render.jinja import filled
from orchestrator.render.looking.runs import HEADS, cells_of, run_labels, sentences_of
from orchestrator.render.page.assets import own_assets
from orchestrator.render.page.pictures import CONTROL, OWN, Picture
from orchestrator.render.svg.rows import Bar, bars
from orchestrator.render.svg.scales import Axis
from orchestrator.reporting.side_by_side import SideBySide, SpecialistBeside


def side_by_side_page(found: SideBySide) -> str:
    """One page that needs nothing else."""
    labels = run_labels(found)
    names = dict.fromkeys(one.name for one in found.specialists)
    made = [_picture(name, [one for one in found.specialists if one.name == name], labels) for name in names]
    return filled(
        "side_by_side.html.j2",
        title=", ".join(labels.values()) + ": side by side",
        pictures=[picture for picture in made if picture is not None],
        head=HEADS,
        rows=[cells_of(one, labels) for one in found.specialists],
        sentences=sentences_of(found),
        **own_assets(),
    )


def _picture(name: str, specialists: list[SpecialistBeside], labels: Mapping[str, str]) -> Picture | None:
    """None where no run has scored it."""
    first = specialists[0].run
    rows, said = [], []
    for one in specialists:
        if (own := one.heldout) is None:
            continue
        kl = f"{own.kl:.4f} ({own.kl_low:.4f} … {own.kl_high:.4f})"
        rows.append(Bar(labels[one.run], own.kl, own.kl_low, own.kl_high, OWN if one.run == first else CONTROL, kl))
        said.append([labels[one.run], kl, _judged(one)])
    if not rows:
        return None
    axis = Axis.over("KL to the teacher, nats a token", [v for r in rows for v in (r.value, r.low, r.high)], zero=True)
    about = f"Held-out KL of {name} in each run with its 95 % interval over texts: shorter is nearer to the teacher."
    return Picture(name, about, bars(name, about, axis, rows), ["run", "KL", "beside the first run"], said)


def _judged(one: SpecialistBeside) -> str:
    """What its paired difference to the first run says."""
    if (difference := one.difference) is None:
        return ""
    if difference.low <= 0 <= difference.high:
        return "cannot be told apart"
    return "nearer to the teacher" if difference.high < 0 else "farther from the teacher"
