"""Commands that look at a run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli.options import Html, Json, Run, Runs, Sets
from orchestrator.cli.output import OUT, after, print_json, write_page

RESAMPLES = 1000
"""Of the intervals of differences between runs."""


def ask(
    where: Run,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 24,
    top: Annotated[int, typer.Option(min=1, help="Runners-up to show.")] = 5,
    no_teacher: Annotated[bool, typer.Option("--no-teacher", help="Do not load the teacher.")] = False,
    files: Annotated[bool, typer.Option("--files", help="Ask exported files too, each in its own program.")] = False,
    page: Html = None,
    as_json: Json = False,
) -> None:
    """Teacher, specialists and controls side by side on one prompt: what they write, and what they nearly wrote."""
    from orchestrator.render.looking.answers import show_answers
    from orchestrator.stores.ask import ask_run

    answers = ask_run(where, prompt, tokens=tokens, top=top, teacher=not no_teacher, files=files)
    if page is not None:
        from orchestrator.render.page.token_page import answers_page

        write_page(page, answers_page(prompt, answers))
    if as_json:
        print_json({"prompt": prompt, "answers": answers})
    else:
        show_answers(prompt, answers, OUT)


def report(
    where: Runs,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page here, not into the run.")] = None,
    as_json: Json = False,
) -> None:
    """Build report.html of a run anew: of its last report, or, while it runs, of what there is by now. Several runs:
    put their specialists side by side, each beside those of the first run (--out FILE: as a page)."""
    if len(where) > 1:
        _compare_runs(where, out, as_json)
        return
    from orchestrator.render.page.writing import page_of_last
    from orchestrator.reporting.report import build_report
    from orchestrator.reporting.timing import timing_of
    from orchestrator.runs.folder import find_run
    from workers.layout import REPORT_HTML

    run = find_run(where[0])
    timing = timing_of(run.storage).timing
    page = page_of_last(run.storage, lambda: build_report(run, run.located_config(), None, {}, timing), timing)
    if out is None:
        run.storage.write(REPORT_HTML, page.encode())
    else:
        write_page(out, page)
    written = str(out or f"{run.uri}/{REPORT_HTML}")
    after(as_json, {"page": written}, [written])


def _compare_runs(where: list[str], out: Path | None, as_json: bool) -> None:
    from pydantic import TypeAdapter

    from orchestrator.render.looking.runs import print_side_by_side
    from orchestrator.reporting.side_by_side import SideBySide, side_by_side
    from orchestrator.stages.scoring.compared_runs import compared_run

    found = side_by_side([compared_run(one) for one in where], RESAMPLES)
    if out is not None:
        from orchestrator.render.page.side_by_side import side_by_side_page

        write_page(out, side_by_side_page(found))
    if as_json:
        print_json(TypeAdapter(SideBySide).dump_python(found, mode="json"))
        return
    print_side_by_side(found, Console(highlight=False))


def gc(
    where: Run,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    older_than: Annotated[str, typer.Option(help="Leave alone what is younger: 90s, 30m, 12h, 1d.")] = "1d",
    as_json: Json = False,
) -> None:
    """List what no unit of a run's target stores needs: parts of lost races and killed writers, repaired parts."""
    from orchestrator.stores.garbage import collect_garbage, lines_of

    found = collect_garbage(where, older_than=older_than, delete=delete)
    after(as_json, found, lines_of(found, older_than))


def track(
    where: Run,
    to: Annotated[str, typer.Option("--to", metavar="TRACKER", help="tensorboard, mlflow, wandb or trackio.")],
    sets: Sets = [],
    as_json: Json = False,
) -> None:
    """Send a run's event log to a tracker: all of it, or what the tracker has not been sent yet. Settings are those of
    the run (trackers.TRACKER), changed by --set trackers.TRACKER.SETTING=VALUE."""
    from dataclasses import asdict

    from orchestrator.runs.folder import find_run
    from orchestrator.trackers.replaying import replay

    done = replay(find_run(where), to, sets)
    earlier = f"; {done.before:,} were sent before" if done.before else ""
    after(as_json, asdict(done), [f"{done.sent:,} points sent to {done.tracker}, group {done.group}{earlier}"])
