"""Commands before a run: writing, checking and planning a configuration, sending it to a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Config, Json, Sets
from orchestrator.cli.output import OUT, print_json


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("stillhouse.yaml"),
) -> None:
    """Write a commented configuration to start from."""
    from orchestrator.config.template import TEMPLATE

    if path.exists():
        raise ValueError(f"{path} exists already; name another file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: its folder does not exist; make it first")
    path.write_text(TEMPLATE)
    OUT.print(f"wrote {path}; edit it, then: stillhouse plan {path}", markup=False)


def validate(config: Config, sets: Sets = [], as_json: Json = False) -> None:
    """Check a configuration, its files, tokenizers and storage. Loads no model."""
    from orchestrator.config.loading import load_config
    from orchestrator.preflight.checks import check
    from orchestrator.render.sources import source_data, source_line

    found = check(load_config(config, sets))
    sources = found.screened or {}
    if as_json:
        rejected = [vars(s) for s in found.rejected]
        read = {name: source_data(rows) for name, rows in sources.items()}
        print_json(
            {"ok": True, "prompts": len(found.prompts), "rejected": rejected, "sources": read, "notes": found.notes}
        )
        return
    OUT.print(f"{config} is fine: {len(found.prompts):,} usable prompts", markup=False)
    for name, rows in sources.items():
        OUT.print(f"  {source_line(name, rows)}", markup=False)
    for note in found.notes:
        OUT.print(f"  note: {note}", markup=False)
    for item in found.rejected:
        OUT.print(f"  rejected: {item}", markup=False)


def plan(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Plan for the Ray cluster of cluster.address or RAY_ADDRESS.")
    ] = False,
) -> None:
    """Show what will run where, how much it takes, and what does not fit. Loads no model."""
    from orchestrator.config.loading import load_config
    from orchestrator.driver.inventory import inventory_for
    from orchestrator.preflight.checks import check
    from orchestrator.preflight.plan import make_plan
    from orchestrator.render.plan import show_plan

    file = load_config(config, sets)
    result = make_plan(file.located(), check(file), inventory_for(file.config, connect))
    if as_json:
        print_json(result.to_dict())
    else:
        show_plan(result, OUT)
    if result.problems:
        raise typer.Exit(1)


def submit(
    config: Config,
    sets: Sets = [],
    address: Annotated[
        str, typer.Option(help="The Ray head's job server, http://HEAD:8265.")
    ] = "http://127.0.0.1:8265",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job's log.")] = False,
) -> None:
    """Send the run to a Ray cluster as a job, with the working directory, and follow its log."""
    from orchestrator.launch.submission import submit_run

    raise typer.Exit(
        submit_run(config, sets, address, follow=not no_wait, say=lambda text: OUT.print(text, markup=False))
    )
