"""A verification as a person sees it: how far it is, and what was found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.render.columns import print_columns
from orchestrator.stores.verify import OnUnit, Verification

_LINE_EVERY_S = 5.0
"""Seconds between two plain lines."""


@contextmanager
def verify_progress(out: Console) -> Iterator[OnUnit]:
    """What to call after each unit: it moves a bar on a terminal, and prints a plain line now and then elsewhere."""
    if not out.is_terminal:
        yield _plain_lines(out)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("units  {task.fields[damaged]}"), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task("", total=None, damaged="")

        def move(units: int, found: Verification) -> None:
            damaged = f"[red]{_damaged(found):,} damaged[/red]" if found.faults else ""
            progress.update(bar, total=units, advance=1, damaged=damaged)

        yield move


def show_verification(result: dict[str, Any], out: Console) -> None:
    """Print what was found: the sound units by domain, then every fault, then what to do."""
    rows = [
        [
            domain,
            f"{d['units']:,}",
            f"{d['targets']:,}",
            f"{d['entropy']:.3f}",
            f"{d['token_logprob']:.3f}",
            f"{d['kept_per_token']:,.2f}",
            f"{d['bytes_per_token']:,.2f}",
        ]
        for domain, d in result["domains"].items()
    ]
    heads = ["domain", "units", "targets", "entropy", "log p", "ids/token", "bytes/token"]
    print_columns(out, heads, rows, ["domain"])
    units, faults = result["units"], result["faults"]
    vocab_order_lost = sum(fault["unit"] is None for fault in faults) == 2
    out.print(
        f"{units['sound']:,} of {units['committed']:,} committed units are sound ({units['planned']:,} planned)",
        style="" if faults else "green",
    )
    for fault in faults:
        out.print(_line(fault, vocab_order_lost), style="red", markup=False)
    if result["marked"]:
        out.print("Damaged units are marked: `stillhouse capture CONFIG` recomputes them", markup=False)
    if any(fault["unit"] is not None and not fault["repairable"] for fault in faults):
        out.print("What is not marked was wrong when it was written, or is out of reach: no repair fixes it")
    if result["unmarked"]:
        out.print(f"Damaged units cannot be marked, so nothing recomputes them: {result['unmarked']}", markup=False)


def _line(fault: dict[str, Any], vocab_order_lost: bool) -> str:
    if fault["unit"] is None:
        fixing = "its copy serves, and `stillhouse capture CONFIG` writes it anew"
        if vocab_order_lost:
            fixing = "nor is its copy there: no unit can be read without one, and no capture fixes it"
        return f"{fault['part']} {fault['reason']}; {fixing}"
    domains = f" ({', '.join(fault['domains'])})" if fault["domains"] else ""
    part = "" if fault["part"] in fault["reason"] else f"; {fault['part']}"
    return f"unit {fault['unit']}{domains}: {fault['reason']}{part}"


def _plain_lines(out: Console) -> OnUnit:
    done, said = 0, time.monotonic()

    def line(units: int, found: Verification) -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= _LINE_EVERY_S:
            said = time.monotonic()
            out.print(f"{done:,} of {units:,} units read, {_damaged(found):,} damaged")

    return line


def _damaged(found: Verification) -> int:
    return len({fault.unit for fault in found.faults})
