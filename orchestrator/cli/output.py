"""How commands print: lines for a person, one JSON object for a program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from orchestrator.config.loading import ConfigFile
    from orchestrator.monitors.base import Monitor
    from orchestrator.reporting.report import Report

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def monitors(quiet: bool) -> list[Monitor]:
    """Progress on standard output, or on standard error where a program reads the output: bars on a terminal, lines
    elsewhere, also where FORCE_COLOR wants colours in them."""
    from orchestrator.monitors.log import LogMonitor
    from orchestrator.monitors.terminal import TerminalMonitor

    stream = sys.stderr if quiet else sys.stdout
    console = Console(file=stream, highlight=False)
    return [TerminalMonitor(console) if stream.isatty() and console.is_interactive else LogMonitor(console)]


def show_report(as_json: bool, report: Report, lines: list[str]) -> None:
    """A report for a program; or, for a person, its table and lines, and last what is decided, with `lines` below."""
    from orchestrator.render.closing import print_closing, print_verdicts

    if as_json:
        print_json(report.to_dict())
        print_verdicts(report, ERR)
        return
    out = Console(highlight=False)
    print_closing(report, out)
    print_verdicts(report, out, lines)


def folder_of(file: ConfigFile) -> str:
    """The run's folder, or that of its generation, as its configuration has it."""
    from orchestrator.config.continuing import run_uri

    return run_uri(file.config)


def after(as_json: bool, data: Any, lines: list[str]) -> None:
    """What a command ends with: data for a program, or lines for a person."""
    if as_json:
        print_json(data)
        return
    for line in lines:
        OUT.print(line, markup=False)


def write_page(path: Path, page: str) -> None:
    """A page to a file of the user's. Raises ValueError where it cannot be written."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be written: {error.strerror}") from None


def print_json(data: Any) -> None:
    """One JSON object, for programs."""
    sys.stdout.write(json.dumps(data, default=str) + "\n")
