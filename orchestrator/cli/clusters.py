"""`stillhouse cluster ...`: what brings up a cluster for a run. Imports nothing heavy, as cli/app.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.options import Config, Sets
from orchestrator.cli.output import OUT

cluster = typer.Typer(no_args_is_help=True, help="Bring up a cluster that is sized for a run.")


@cluster.callback()
def _group() -> None:
    """Keeps `render` a command of its own, as long as it is the only one."""


@cluster.command()
def render(
    target: Annotated[
        Literal["kuberay", "aws", "gcp", "skypilot"],
        typer.Argument(
            metavar="TARGET",
            help="kuberay (a RayJob), aws or gcp (a file for Ray's cluster launcher), skypilot (a task).",
        ),
    ],
    config: Config,
    sets: Sets = [],
    nodes: Annotated[
        list[str],
        typer.Option(
            metavar="[ROLE=]KIND:GPUS",
            help="Nodes of a part: teacher=h100:8,student=l40s:4,cpu=cpu:0; without a role, of all parts with GPUs. "
            "Kinds are those of `plan --nodes`. May be given more than once.",
        ),
    ] = [],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files are written.")] = Path("."),
    image: Annotated[
        str | None, typer.Option(help="The image of all nodes. Without it, a Dockerfile or Ray's image with the wheel.")
    ] = None,
    on: Annotated[
        Literal["eks", "karpenter", "gke"] | None,
        typer.Option(
            "--on",
            help="Whose Kubernetes nodes: spot nodes then come first for specialists, and on EC2 (eks, karpenter) "
            "groups that span nodes get Elastic Fabric Adapters.",
        ),
    ] = None,
    unplanned: Annotated[
        bool,
        typer.Option(
            "--unplanned",
            help="Size the groups from the settings alone: do not look at prompts, models and storage, which may be "
            "out of reach from here. Nothing then says whether models fit their GPUs.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there and differ.")] = False,
) -> None:
    """Write the files that bring up a cluster sized for a run. What does not fit its nodes is refused, as by `plan`."""
    from orchestrator.launch.manifests.rendering import Request, render
    from orchestrator.launch.manifests.writing import write_files

    if on is not None and target != "kuberay":
        raise ValueError(f"--on: {on}: nodes of {target} are not Kubernetes' own; leave it out")
    rendered = render(Request(target, config, sets, nodes, image, on, planned=not unplanned))
    for path in write_files(out, rendered.files, force=force):
        OUT.print(f"wrote {path}", markup=False)
    for group in rendered.groups:
        OUT.print(f"  {group.name}: at most {group.most} x {group.shape.words}; {group.why}", markup=False)
    if unplanned:
        OUT.print("  note: prompts, models and storage were not looked at (--unplanned)", markup=False)
    for note in rendered.notes:
        OUT.print(f"  note: {note}", markup=False)
