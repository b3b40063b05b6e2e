"""The `stillhouse` command. Imports nothing heavy: a stage's own module is imported when its command runs.

Exit codes: 0 done, 1 a specialist (or the work itself) failed, 2 the request was wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from orchestrator.errors import RunFailed

app = typer.Typer(
    name="stillhouse",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil one mixture-of-experts teacher into several dense specialists, in one run, on a Ray cluster.",
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file of the run.")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="A.B=C", help="Change one setting; may be given more than once.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> None:
    """The entry point: one clear line for a wrong request, a traceback only for our own faults."""
    try:
        sys.exit(app(standalone_mode=False) or 0)  # the code of typer.Exit is returned, not raised
    except ValueError as error:
        for line in str(error).splitlines():
            _err.print(f"error: {line}", markup=False)
        sys.exit(2)
    except RunFailed as error:
        _err.print(f"failed: {error}", markup=False)
        _err.print("What is committed stays; the same command goes on from there")
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("stopped. What is committed stays; the same command goes on from there")
        sys.exit(130)
    except typer.Exit as exit_:
        sys.exit(exit_.exit_code)
    except Exception as error:
        if not _is_usage_error(error):
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "show") and hasattr(error, "exit_code")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("stillhouse.yaml"),
) -> None:
    """Write a commented configuration to start from."""
    from orchestrator.config_template import TEMPLATE

    if path.exists():
        raise ValueError(f"{path} exists already; name another file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: its folder does not exist; make it first")
    path.write_text(TEMPLATE)
    _out.print(f"wrote {path}; edit it, then: stillhouse plan {path}", markup=False)


@app.command()
def validate(config: Config, sets: Sets = [], as_json: Json = False) -> None:
    """Check a configuration, its files, tokenizers and storage. Loads no model."""
    from orchestrator.checks import check
    from orchestrator.config_file import load_config

    found = check(load_config(config, sets))
    if as_json:
        _print_json({"ok": True, "prompts": len(found.prompts), "set_aside": [vars(s) for s in found.set_aside]})
        return
    _out.print(f"{config} is fine: {len(found.prompts):,} usable prompts", markup=False)
    for item in found.set_aside:
        _out.print(f"  set aside: {item.source} row {item.row + 1}: {item.reason}", markup=False)


@app.command()
def plan(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Plan for the Ray cluster of cluster.address or RAY_ADDRESS.")
    ] = False,
) -> None:
    """Show what will run where, how much it takes, and what does not fit. Loads no model."""
    from orchestrator.checks import check
    from orchestrator.config_file import load_config
    from orchestrator.plan import inventory_for, make_plan
    from orchestrator.plan_view import show_plan

    file = load_config(config, sets)
    result = make_plan(file.located(), check(file), inventory_for(file.config, connect))
    if as_json:
        _print_json(result.to_dict())
    else:
        show_plan(result, _out)
    if result.problems:
        raise typer.Exit(1)


@app.command()
def run(config: Config, sets: Sets = [], as_json: Json = False) -> None:
    """Teach, train, evaluate and export. The same command goes on where an earlier one stopped."""
    from orchestrator import pipeline
    from orchestrator.config_file import load_config

    file = load_config(config, sets)
    code, report = pipeline.run_all(file, _view(as_json))
    _after(as_json, report, [f'Report: {_folder(file)}/report.md.  Try: stillhouse ask {_folder(file)} "..."'])
    raise typer.Exit(code)


@app.command()
def teach(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Units to teach at most: see answers before paying for all.")
    ] = None,
) -> None:
    """The teacher's part alone: fill the target stores."""
    from orchestrator import pipeline
    from orchestrator.config_file import load_config
    from orchestrator.taught import summary_of_taught

    file = load_config(config, sets)
    now = pipeline.teach_only(file, _view(as_json), limit)
    summary = summary_of_taught(now.run, answers=3)
    _after(
        as_json,
        summary,
        [
            f"{summary['tokens']:,} target tokens in {summary['units']} units at {_folder(file)}",
            *(f"  {a['prompt_id']}: {a['text']}" for a in summary["answers"]),
        ],
    )


@app.command()
def train(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    only: Annotated[list[str], typer.Option("--only", help="Specialists to train; all by default.")] = [],
) -> None:
    """The students' part alone, from targets that are taught already."""
    from orchestrator import pipeline
    from orchestrator.config_file import load_config

    file = load_config(config, sets)
    for name in only:
        if name not in file.config.specialists:
            raise ValueError(f"--only {name}: no such specialist; there are {', '.join(file.config.specialists)}")
    now = pipeline.train_only(file, _view(as_json), only)
    _after(as_json, {"failures": now.failures}, [f"{n} FAILED: {e}" for n, e in now.failures.items()] or ["trained"])
    raise typer.Exit(1 if now.failures else 0)


@app.command()
def evaluate(config: Config, sets: Sets = [], as_json: Json = False) -> None:
    """Score what is trained on the held-out store, and write the report."""
    from orchestrator import pipeline
    from orchestrator.config_file import load_config

    file = load_config(config, sets)
    code, report = pipeline.evaluate_only(file, _view(as_json))
    _after(as_json, report, [f"Report: {_folder(file)}/report.md"])
    raise typer.Exit(code)


@app.command()
def export(config: Config, sets: Sets = [], as_json: Json = False) -> None:
    """Export what is trained as folders that transformers loads."""
    from orchestrator import pipeline
    from orchestrator.config_file import load_config

    file = load_config(config, sets)
    folders = pipeline.export_only(file, _view(as_json))
    _after(as_json, {"exports": folders}, [f"exported {_folder(file)}/{f}" for f in folders])


@app.command()
def ask(
    where: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's name (below runs/), its folder or s3:// URI, or its YAML file."),
    ],
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 24,
    top: Annotated[int, typer.Option(min=1, help="Runners-up to show.")] = 5,
    no_teacher: Annotated[bool, typer.Option("--no-teacher", help="Do not load the teacher.")] = False,
    as_json: Json = False,
) -> None:
    """Teacher, specialists and controls side by side on one prompt: what they write, and what they nearly wrote."""
    from orchestrator.ask import ask_run, show_answers

    answers = ask_run(where, prompt, tokens=tokens, top=top, teacher=not no_teacher)
    if as_json:
        _print_json({"prompt": prompt, "answers": answers})
    else:
        show_answers(prompt, answers, _out)


@app.command()
def gc(
    where: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's name (below runs/), its folder or s3:// URI, or its YAML file."),
    ],
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    older_than: Annotated[str, typer.Option(help="Leave alone what is younger: 90s, 30m, 12h, 1d.")] = "1d",
    as_json: Json = False,
) -> None:
    """List what no unit of a run's target stores needs: parts of lost races and killed writers, repaired parts."""
    from orchestrator.garbage import collect_garbage, lines_of

    found = collect_garbage(where, older_than=older_than, delete=delete)
    _after(as_json, found, lines_of(found, older_than))


@app.command()
def submit(
    config: Config,
    sets: Sets = [],
    address: Annotated[
        str, typer.Option(help="The Ray head's job server, http://HEAD:8265.")
    ] = "http://127.0.0.1:8265",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job's log.")] = False,
) -> None:
    """Send the run to a Ray cluster as a job, with the working directory, and follow its log."""
    from orchestrator.submission import submit_run

    raise typer.Exit(
        submit_run(config, sets, address, follow=not no_wait, say=lambda text: _out.print(text, markup=False))
    )


def _view(quiet: bool) -> Any:
    """Progress on standard output, or on standard error where a program reads the output."""
    from orchestrator.progress_view import ProgressView

    return ProgressView(console=_err if quiet else Console(highlight=False))


def _folder(file: Any) -> str:
    storage = file.config.storage
    return f"{storage.rstrip('/')}/{file.config.name}"


def _after(as_json: bool, data: Any, lines: list[str]) -> None:
    if as_json:
        _print_json(data)
        return
    for line in lines:
        _out.print(line, markup=False)


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, default=str) + "\n")


if __name__ == "__main__":
    main()
