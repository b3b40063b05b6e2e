"""A plan as a person reads it."""

from __future__ import annotations

from humanize import naturalsize
from rich.console import Console
from rich.markup import escape

from orchestrator.preflight.plan import RunPlan
from orchestrator.render.columns import print_columns


def show_plan(plan: RunPlan, out: Console) -> None:
    """Print a plan: where, prompts, processes, storage, notes and problems."""
    have = plan.inventory
    out.print(f"[bold]run {plan.name}[/bold] -> {escape(plan.folder)}")
    out.print(
        f"{have.source}: {have.cpus:g} CPUs, {have.gpus:g} GPUs, {naturalsize(have.memory)} memory, "
        f"{have.nodes} node(s)\n"
    )
    _print_prompts(plan, out)
    out.print()
    _print_parts(plan, out)
    out.print()
    for part in plan.parts:
        out.print(f"{part.name}: {part.detail}", markup=False)
    free = f"; {naturalsize(plan.free_bytes)} free" if plan.free_bytes is not None else ""
    out.print(
        f"targets: at most {plan.train_tokens:,} tokens, about {naturalsize(plan.train_bytes)}; held out "
        f"{plan.heldout_tokens:,} tokens with exact distributions, {naturalsize(plan.heldout_bytes)}{free}"
    )
    out.print(f"held-out distributions are kept as {plan.heldout_scheme}: {plan.heldout_why}", markup=False)
    if plan.rejected:
        out.print(f"{plan.rejected} prompt rows rejected (stillhouse validate shows each)")
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
    for problem in plan.problems:
        out.print(f"does not fit: {problem}", style="red", markup=False)
    if not plan.problems:
        out.print("everything fits", style="green")


def _print_prompts(plan: RunPlan, out: Console) -> None:
    rows = [[d, f"{r['train']:,}", f"{r['heldout']:,}", f"{r['tokens']:,}"] for d, r in sorted(plan.prompts.items())]
    print_columns(out, ["domain", "train prompts", "held out", "target tokens at most"], rows, ["domain"])


def _print_parts(plan: RunPlan, out: Console) -> None:
    rows = [[p.name, str(p.count), f"{p.cpus:g}", f"{p.gpus:g}", f"~{naturalsize(p.memory)}"] for p in plan.parts]
    print_columns(out, ["part", "processes", "CPU", "GPU", "memory each"], rows, ["part"])
