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
