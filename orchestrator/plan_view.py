"""A plan as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.plan import RunPlan, size_text


def show_plan(plan: RunPlan, out: Console) -> None:
    """Print a plan: where, prompts, processes, storage, notes and problems."""
    have = plan.inventory
    out.print(f"[bold]run {plan.name}[/bold] -> {escape(plan.folder)}")
    out.print(
        f"{have.source}: {have.cpus:g} CPUs, {have.gpus:g} GPUs, {size_text(have.memory)} memory, "
        f"{have.nodes} node(s)\n"
    )
    out.print(_prompts(plan))
    out.print(_parts(plan))
    for part in plan.parts:
        out.print(f"{part.name}: {part.detail}", markup=False)
    free = f"; {size_text(plan.free_bytes)} free" if plan.free_bytes is not None else ""
    out.print(
        f"targets: at most {plan.train_tokens:,} tokens, about {size_text(plan.train_bytes)}; held out "
        f"{plan.heldout_tokens:,} tokens with full distributions, {size_text(plan.heldout_bytes)}{free}"
    )
    if plan.set_aside:
        out.print(f"{plan.set_aside} prompt rows set aside (stillhouse validate shows each)")
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
    for problem in plan.problems:
        out.print(f"does not fit: {problem}", style="red", markup=False)
    if not plan.problems:
        out.print("everything fits", style="green")


def _prompts(plan: RunPlan) -> Table:
    table = Table("domain", "train prompts", "held out", "target tokens at most", header_style="bold")
    for domain, row in sorted(plan.prompts.items()):
        table.add_row(escape(domain), f"{row['train']:,}", f"{row['heldout']:,}", f"{row['tokens']:,}")
    return table


def _parts(plan: RunPlan) -> Table:
    table = Table("part", "processes", "CPU", "GPU", "memory each", header_style="bold")
    for part in plan.parts:
        table.add_row(
            escape(part.name), str(part.count), f"{part.cpus:g}", f"{part.gpus:g}", f"~{size_text(part.memory)}"
        )
    return table
