"""Commands before a run: writing, checking and planning a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Config, Json, Sets
from orchestrator.cli.output import OUT, print_json

if TYPE_CHECKING:
    from orchestrator.config.schema import RunConfig
    from orchestrator.preflight.checks import Checked
    from orchestrator.runs.rates import RunRates

_SHOWN = 100
"""Rejected rows that are shown."""


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


def validate(
    config: Config,
    sets: Sets = [],
    as_json: Json = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Build every model too, without weights, and step every student once.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read every prompt. Without it, of large sources a sample is read."),
    ] = False,
) -> None:
    """Check a configuration, its files, tokenizers and storage. Loads no weights."""
    from orchestrator.config.loading import load_config
    from orchestrator.preflight.checks import check
    from orchestrator.render.sources import source_data, source_line

    file = load_config(config, sets)
    found = check(file, reading="all" if full else "most")
    models = _tried_models(file.located(), found) if deep else []
    sources = found.screened
    if as_json:
        rejected = [vars(s) for s in found.rejected]
        read = {name: source_data(rows) for name, rows in sources.items()}
        print_json(
            {
                **{"ok": True, "prompts": found.usable, "sampled": bool(found.sampled), "rejected": rejected},
                **{"sources": read, "notes": found.notes, "models": models},
            }
        )
        return
    about = "about " if found.sampled else ""
    OUT.print(f"{config} is fine: {about}{found.usable:,} usable prompts", markup=False)
    for name, rows in sources.items():
        OUT.print(f"  {source_line(name, rows)}", markup=False)
    for line in models:
        OUT.print(f"  {line}", markup=False)
    for note in found.notes:
        OUT.print(f"  note: {note}", markup=False)
    for item in found.rejected[:_SHOWN]:
        OUT.print(f"  rejected: {item}", markup=False)
    if (more := len(found.rejected) - _SHOWN) > 0:
        OUT.print(f"  and {more:,} rows more; --json shows all", markup=False)


def _tried_models(config: RunConfig, found: Checked) -> list[str]:
    """What `--deep` finds, in lines."""
    from transformers.utils import logging

    from orchestrator.preflight.deep import check_deep

    logging.set_verbosity_error()  # what it warns of is found here, and told with its setting
    return check_deep(config, found).lines()


def plan(
    config: Config,
    sets: Sets = [],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: parts[] (name, kind, count, least, cpus, gpus, memory and gpu_memory of one "
            "process in bytes, and what each is the sum of, placed), hours, dollars, train_bytes, heldout_bytes, "
            "sources, prompts, problems[], notes[].",
        ),
    ] = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Plan for the Ray cluster of cluster.address or RAY_ADDRESS.")
    ] = False,
    nodes: Annotated[
        list[str],
        typer.Option(
            metavar="KIND:GPUSxNODES,...",
            help="Plan for a cluster that is not there: h100:8x2 is two nodes of 8 H100, cpu:0x3 three without GPUs. "
            "Kinds are h100, h200, b200, a100-40, a100-80, l40s, l4, a10g, cpu, and those of cluster.node_kinds. May "
            "be given more than once.",
        ),
    ] = [],
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Take hours from what an earlier run of the same models measured, instead of from data sheets: its "
            "name, folder, s3:// URI or YAML file.",
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Show what the memory of each process is the sum of.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Read every prompt. Without it, tokens are estimated from rows spread evenly over each source.",
        ),
    ] = False,
) -> None:
    """Show what will run where, how much memory, time and money it takes, and what does not fit. Loads no model. Exit
    code 1: something does not fit."""
    from orchestrator.config.loading import load_config
    from orchestrator.driver.inventory import inventory_for
    from orchestrator.preflight.checks import check
    from orchestrator.preflight.plan import make_plan
    from orchestrator.render.plan import show_plan
    from orchestrator.runs.folder import RunFolder

    file = load_config(config, sets)
    inventory = inventory_for(file.config, connect, ",".join(nodes) if nodes else None)
    found = check(file, reading="all" if full else "few", elsewhere=bool(nodes))
    located = RunFolder.of(file.located()).as_begun(file).located()
    result = make_plan(located, found, inventory, _rates(rates))
    if as_json:
        print_json(result.to_dict())
    else:
        show_plan(result, OUT, memory=memory)
    if result.problems:
        raise typer.Exit(1)


def _rates(run: str | None) -> RunRates | None:
    """What the run of `--rates` measured."""
    if run is None:
        return None
    from orchestrator.reporting.money.rates import rates_of

    return rates_of(run)
