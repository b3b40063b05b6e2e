"""Commands that do the work of a run: all of it, or one stage."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import Config, Continue, Json, Sets, TakeOver
from orchestrator.cli.output import after, folder_of, monitors, show_report


def run(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    go_on: Continue = False,
    take_over: TakeOver = False,
) -> None:
    """Capture, train, evaluate and export. The same command resumes where an earlier one stopped."""
    from orchestrator.config.loading import load_config
    from orchestrator.driver import pipeline
    from orchestrator.runs.generations import next_generation

    file = load_config(config, sets)
    if go_on:
        file = next_generation(file)
    code, report = pipeline.run_all(file, monitors(as_json), takes_over=take_over)
    folder = folder_of(file)
    show_report(as_json, report, [f"Report: {folder}/report.html", f'Try: stillhouse ask {folder} "..."'])
    raise typer.Exit(code)


def capture(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Units to capture at most: see answers before paying for all.")
    ] = None,
    take_over: TakeOver = False,
) -> None:
    """The teacher's part alone: fill the target stores."""
    from orchestrator.config.loading import load_config
    from orchestrator.driver import pipeline
    from orchestrator.stores.summary import summary_of_captured

    file = load_config(config, sets)
    captured = pipeline.capture_only(file, monitors(as_json), limit, takes_over=take_over)
    summary = summary_of_captured(captured, answers=3)
    after(
        as_json,
        summary,
        [
            f"{summary['tokens']:,} target tokens in {summary['units']} units at {folder_of(file)}",
            *(f"  {a['prompt_uid']}: {a['text']}" for a in summary["answers"]),
        ],
    )


def train(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    only: Annotated[list[str], typer.Option("--only", help="Specialists to train; all by default.")] = [],
    take_over: TakeOver = False,
) -> None:
    """The students' part alone, from targets that are captured already."""
    from orchestrator.config.loading import load_config
    from orchestrator.driver import pipeline

    file = load_config(config, sets)
    for name in only:
        if name not in file.config.specialists:
            raise ValueError(f"--only {name}: no such specialist; there are {', '.join(file.config.specialists)}")
    failures = pipeline.train_only(file, monitors(as_json), only, takes_over=take_over)
    after(as_json, {"failures": failures}, [f"{n} FAILED: {e}" for n, e in failures.items()] or ["trained"])
    raise typer.Exit(1 if failures else 0)


def evaluate(config: Config, sets: Sets = [], as_json: Json = False) -> None:
    """Score what is trained on held-out text and tasks, and write the report; exit code 3 if it fails the gate."""
    from orchestrator.config.loading import load_config
    from orchestrator.driver import pipeline

    file = load_config(config, sets)
    code, report = pipeline.evaluate_only(file, monitors(as_json))
    show_report(as_json, report, [f"Report: {folder_of(file)}/report.html"])
    raise typer.Exit(code)


def compare(
    teacher: Annotated[str, typer.Option("--teacher", metavar="MODEL", help="Folder, Hugging Face id, or s3://...")],
    student: Annotated[
        list[str],
        typer.Option(
            "--student", metavar="[NAME=]MODEL", help="A model with the teacher's tokenizer; as many as wanted."
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Option("--prompts", metavar="[DOMAIN=]FILE", help="Prompts for the teacher to answer, by domain."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run; by default made of what is asked.")
    ] = None,
    sets: Sets = [],
    as_json: Json = False,
) -> None:
    """Measure models that were trained elsewhere against a teacher: it answers prompts, they are scored on its answers.

    A further student finds the answers of before.
    """
    from orchestrator.config.comparing import comparison
    from orchestrator.driver import pipeline

    file = comparison(teacher, student, prompts, sets, name)
    code, report = pipeline.run_all(file, monitors(as_json))
    show_report(as_json, report, [f"Report: {folder_of(file)}/report.html"])
    raise typer.Exit(code)


def teach() -> None:
    """The old name of `capture`."""
    raise ValueError("teach: this command is called `stillhouse capture` now")
