"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file of the run.")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="A.B=C", help="Change one setting; may be given more than once.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="If another driver works on the run, ask it to leave, as `stillhouse stop` does, once this configuration "
        "has passed its checks; wait until it has, then go on: so does a new specialist join a run at work.",
    ),
]
Continue = Annotated[
    bool,
    typer.Option(
        "--continue",
        help="Open the run's next generation, with new prompts or another teacher: specialists go on from what they "
        "are. Of one that has begun, resume it.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page too, with texts token by token; it needs no network."),
]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name (below runs/), its folder or s3:// URI, or its YAML file; RUN@1 is its first generation, "
        "RUN its last one.",
    ),
]
Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="As RUN of other commands; several are put side by side.")
]
