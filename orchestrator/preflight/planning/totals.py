"""What a run takes in all, beside what there is."""

from __future__ import annotations

from humanize import naturalsize

from orchestrator.preflight.planning.record import RunPlan


def find_problems(plan: RunPlan) -> None:
    """Add what does not fit in all, each with what to change."""
    have, worst = plan.inventory, plan.train_bytes + plan.heldout_bytes
    if plan.free_bytes is not None and worst > plan.free_bytes:
        plan.problems.append(
            f"targets take about {naturalsize(worst)}, the disk has {naturalsize(plan.free_bytes)} free: "
            "fewer prompts, "
            "evaluate.precision float16, or storage elsewhere"
        )
    for kind, there in (("cpus", have.cpus), ("gpus", have.gpus)):
        teachers = sum(p.least * getattr(p, kind) for p in plan.parts if p.kind == "teacher")
        students = [p for p in plan.parts if p.kind == "student"]
        evaluators = sum(getattr(p, kind) for p in plan.parts if p.kind == "evaluator")
        if evaluators > there + 1e-6:
            plan.problems.append(
                f"the evaluator reserves {evaluators:g} {kind}, there are {there:g}: lower evaluate.{kind}"
            )
        if teachers > there + 1e-6:
            plan.problems.append(
                f"the least teacher replicas reserve {teachers:g} {kind}, there are {there:g}: lower "
                f"teachers.*.{kind}_per_rank, ep_size or replicas"
            )
        for part in students:
            if part.least * getattr(part, kind) > there + 1e-6:
                plan.problems.append(
                    f"{part.name} reserves {part.least * getattr(part, kind):g} {kind}, there are {there:g}: "
                    f"lower train.workers or train.{kind}_per_worker"
                )
        wanted = teachers + sum(p.least * getattr(p, kind) for p in students)
        if teachers <= there < wanted - 1e-6:
            plan.notes.append(
                f"teacher and all specialists reserve {wanted:g} {kind}, there are {there:g}: some specialists wait "
                f"until others end (lower train.{kind}_per_worker to run them at once)"
            )
    if plan.inventory.source == "this machine":
        for part in plan.parts:
            if part.kind == "initial" and part.memory > have.memory:
                plan.problems.append(
                    f"making initial weights holds about {naturalsize(part.memory)}, this machine has "
                    f"{naturalsize(have.memory)}: lower initial.memory, or take smaller models"
                )
        memory = sum(p.count * p.memory for p in plan.parts if p.kind in ("teacher", "student"))
        if memory > have.memory:
            plan.problems.append(
                f"teacher and specialists hold about {naturalsize(memory)} at once, "
                f"this machine has {naturalsize(have.memory)}: "
                "smaller teachers.*.score_tokens or batch, fewer workers, or fewer specialists"
            )
