"""Commands for a Ray cluster's job server: sending a run there, and which were sent."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli.options import Config, Continue, Json, Sets, TakeOver
from orchestrator.cli.output import OUT, print_json

_ADDRESS = "http://127.0.0.1:8265"


def submit(
    config: Config,
    sets: Sets = [],
    address: Annotated[str, typer.Option(help="The Ray head's job server, http://HEAD:8265.")] = _ADDRESS,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job's log.")] = False,
    take_over: TakeOver = False,
    go_on: Continue = False,
) -> None:
    """Send the run to a Ray cluster as a job, with the working directory, and follow its log."""
    from orchestrator.launch.submission import submit_run

    say = lambda text: OUT.print(text, markup=False)  # noqa: E731
    flags = [flag for flag, given in (("--take-over", take_over), ("--continue", go_on)) if given]
    raise typer.Exit(submit_run(config, sets, address, follow=not no_wait, flags=flags, say=say))


def jobs(
    address: Annotated[
        str, typer.Argument(metavar="[ADDRESS]", help="The Ray head's job server, http://HEAD:8265.")
    ] = _ADDRESS,
    as_json: Json = False,
) -> None:
    """The runs that were sent to a Ray cluster by `stillhouse submit`, newest first; jobs of others are left out."""
    from cluster.jobs.listing import list_jobs
    from orchestrator.status.jobs import print_jobs

    found = list_jobs(address)
    if as_json:
        print_json({"address": address, "jobs": [job.to_dict() for job in found]})
    elif found:
        print_jobs(found, Console(highlight=False))
    else:
        OUT.print(f"no run was sent to {address} that it remembers; `stillhouse submit CONFIG` sends one", markup=False)
