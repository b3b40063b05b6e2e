"""`stillhouse targets ...`: looking at what a run has captured. Imports nothing heavy, as cli/app.py."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli.options import Html, Json, Run
from orchestrator.cli.output import print_json, write_page

targets = typer.Typer(no_args_is_help=True, help="Look at the target stores of a run: what the teacher said.")

Split = Annotated[str, typer.Option(metavar="SPLIT", help="train, heldout or probes.")]


@targets.command()
def info(where: Run, split: Split = "train", as_json: Json = False) -> None:
    """Settings, teachers and amounts of a store, by domain. Reads no part."""
    from orchestrator.render.looking.info import show_info
    from orchestrator.stores.info import describe
    from orchestrator.stores.opening import open_targets

    source = open_targets(where, split)
    found = describe(source)
    if as_json:
        print_json(found)
    else:
        show_info(found, source.store.header, _console())


@targets.command()
def verify(where: Run, split: Split = "train", as_json: Json = False) -> None:
    """Read every part again: checksums, and whether each number can be. Damaged units are marked in the log.

    Exit code 1 if anything is wrong.
    """
    from orchestrator.render.looking.verification import show_verification, verify_progress
    from orchestrator.stores.opening import open_targets
    from orchestrator.stores.verify import verify as verify_store

    source = open_targets(where, split)
    with verify_progress(_console(stderr=as_json)) as progress:
        result = verify_store(source, progress).to_dict(source)
    if as_json:
        print_json(result)
    else:
        show_verification(result, _console())
    raise typer.Exit(0 if result["ok"] else 1)


@targets.command()
def show(
    where: Run,
    unit: Annotated[int | None, typer.Option(min=0, help="Show the first text of this unit.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="ID", help="Show the text of this prompt.")] = None,
    sample: Annotated[int | None, typer.Option(min=0, help="Which answer to a prompt; the first by default.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Target positions to print at most.")] = 24,
    exact: Annotated[
        bool, typer.Option("--exact", help="Load the teacher, and print its own distribution below each sampled one.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Of the exact distributions. By default as they were captured.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Ids to print of each distribution.")] = 8,
    split: Split = "train",
    page: Html = None,
    as_json: Json = False,
) -> None:
    """One stored text, and the teacher's distribution at each of its positions. The first text by default."""
    from orchestrator.render.looking.text import print_text
    from orchestrator.stores.opening import open_targets
    from orchestrator.stores.show import Question, show_text

    question = Question(unit, prompt, sample, limit, exact, temperature, top)
    found = show_text(open_targets(where, split), question)
    if page is not None:
        from orchestrator.render.page.token_page import stored_page

        write_page(page, stored_page(found))
    if as_json:
        print_json(found)
    else:
        print_text(found, _console())


def _console(*, stderr: bool = False) -> Console:
    """Lines as wide as the terminal; as long as they are where there is none."""
    console = Console(highlight=False, stderr=stderr)
    console.soft_wrap = not console.is_terminal
    return console
