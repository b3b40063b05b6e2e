"""A plan as a person reads it."""

from __future__ import annotations

from collections import Counter

from humanize import naturalsize
from rich.console import Console
from rich.markup import escape

from cluster.nodes.kinds import PlannedNode
from cluster.resources import MEMORY
from orchestrator.config.students import QUANTISED
from orchestrator.preflight.parts import Part
from orchestrator.preflight.planning.record import BaselinePrice, RunPlan
from orchestrator.render.columns import print_columns
from orchestrator.render.hours import print_hours


def show_plan(plan: RunPlan, out: Console, *, memory: bool = False) -> None:
    """Print a plan: where, prompts, processes, storage, hours, notes and problems; with `memory` what the memory of
    each process is the sum of."""
    out.print(f"[bold]run {plan.name}[/bold] -> {escape(plan.folder)}")
    _print_inventory(plan, out)
    _print_prompts(plan, out)
    out.print()
    _print_parts(plan, out)
    out.print()
    if memory:
        _print_memory(plan, out)
        out.print()
    if plan.hours is not None and any(part.hours is not None for part in plan.hours.parts.values()):
        print_hours(plan.hours, plan.dollars, out)
        out.print()
    for part in plan.parts:
        out.print(f"{part.name}: {part.detail}", markup=False)
    for name, price in plan.baselines.items():
        out.print(_price_line(name, price), markup=False)
    for name, slots in plan.slots.items():
        out.print(
            f"teacher {name}: about {slots.in_use:g} of {slots.slots} slots of a replica in use ({slots.share:.0%}): "
            f"{slots.units_at_once} {'units' if slots.units_at_once > 1 else 'unit'} of {slots.unit_texts:,} texts at "
            "once",
            markup=False,
        )
    free = f"; {naturalsize(plan.free_bytes)} free" if plan.free_bytes is not None else ""
    out.print(
        f"targets: {'about' if plan.is_estimate else 'at most'} {plan.train_tokens:,} tokens, about "
        f"{naturalsize(plan.train_bytes)}; held out {plan.heldout_tokens:,} tokens with exact distributions, "
        f"{naturalsize(plan.heldout_bytes)}{free}"
    )
    out.print(f"held-out distributions are kept as {plan.heldout_scheme}: {plan.heldout_why}", markup=False)
    if plan.rejected:
        about = "about " if plan.is_estimate else ""
        out.print(f"{about}{plan.rejected} prompt rows rejected (stillhouse validate shows each)")
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
    for problem in plan.problems:
        out.print(f"does not fit: {problem}", style="red", markup=False)
    if not plan.problems:
        out.print("everything fits", style="green")


def _price_line(name: str, price: BaselinePrice) -> str:
    """What a baseline adds."""
    words = [f"trains on {price.trained_tokens:,} target tokens"] if price.trained_tokens else []
    words += [f"scores {price.scored_tokens:,} held-out ones" if words else f"scores {price.scored_tokens:,} tokens"]
    words += [f"about {price.flops:.2g} FLOPs", f"holds weights of {naturalsize(price.held_bytes)} to be scored"]
    words += [f"leaves {naturalsize(price.stored_bytes)} in the storage"] if price.stored_bytes else []
    what = "quantised siblings" if name == QUANTISED else f"baseline {name}"
    return f"{what}: {', '.join(words)}"


def _print_inventory(plan: RunPlan, out: Console) -> None:
    have = plan.inventory
    out.print(
        f"{have.source}: {have.cpus:g} CPUs, {have.gpus:g} GPUs, {naturalsize(have.memory)} memory, "
        f"{have.nodes} node(s)",
        markup=False,
    )
    alike = Counter(
        f"{n.kind.name}: {n.total['CPU']:g} CPUs, {naturalsize(n.total[MEMORY])} memory"
        + (f", {n.total['GPU']:g} GPUs of {naturalsize(n.kind.gpu_memory)}" if n.total.get("GPU") else "")
        for n in have.members
        if isinstance(n, PlannedNode)
    )
    for words, count in alike.items():
        out.print(f"  {count} x {words}", markup=False)
    out.print()


def _print_prompts(plan: RunPlan, out: Console) -> None:
    rows = [[d, f"{r['train']:,}", f"{r['heldout']:,}", f"{r['tokens']:,}"] for d, r in sorted(plan.prompts.items())]
    print_columns(out, ["domain", "train prompts", "held out", "target tokens at most"], rows, ["domain"])
    sampled = [
        f"{n} {s['read']:,} of {'' if s['exact'] else 'about '}{s['rows']:,}"
        for n, s in plan.sources.items()
        if s["read"] < s["rows"]
    ]
    if sampled:
        out.print(f"estimated from rows that were read: {', '.join(sampled)}; --full reads all", markup=False)


def _print_parts(plan: RunPlan, out: Console) -> None:
    header = ["part", "processes", "CPU", "GPU", "GPU memory each", "memory each"]
    rows = [
        [
            *(p.name, str(p.count), f"{p.cpus:g}", f"{p.gpus:g}"),
            *(f"~{naturalsize(p.gpu_memory)}" if p.gpus else "0", f"~{naturalsize(p.memory)}"),
        ]
        for p in plan.parts
    ]
    planned = any(isinstance(node, PlannedNode) for node in plan.inventory.members)
    if planned:
        header.append("on")
        rows = [[*row, _place(part)] for row, part in zip(rows, plan.parts, strict=True)]
    print_columns(out, header, rows, ["part", "on"])


def _print_memory(plan: RunPlan, out: Console) -> None:
    """A line for each piece of what a process holds."""
    rows = [
        [part.name, where, name.replace("_", " "), f"~{naturalsize(size)}"]
        for part in plan.parts
        for where, pieces in (("GPU", part.gpu_memory_of), ("node", part.memory_of))
        for name, size in sorted(pieces.items(), key=lambda piece: -piece[1])
    ]
    print_columns(out, ["part", "in", "what", "bytes each"], rows, ["part", "in", "what"])


def _place(part: Part) -> str:
    """Where the least processes of a part are, and those above them."""
    where = " + ".join(f"{count} on {kind}" for kind, count in part.placed.items()) or "no place"
    where += "".join(f" + {count} more on {kind}" for kind, count in part.further.items())
    return f"{where}, later" if part.waits else where
