"""What will run where and how much it takes: configuration and inventory in, numbers out. Pure but for file headers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from humanize import naturalsize

from cluster.inventory import Inventory
from cluster.resources import infeasible_reason
from cluster.storage import free_bytes
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, HARD_LABELS
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.memory import target_bytes
from orchestrator.preflight.parts import Part, evaluator_part, initial_part, student_part, teacher_part
from orchestrator.prompts.notes import text_notes
from orchestrator.prompts.policy import PolicyResolver, PromptPolicy, chat_of
from orchestrator.prompts.sources import RawPrompt, assign_splits
from workers.model_files import read_model_config
from workers.model_sizes import DTYPE_BYTES, model_size
from workers.splits import HELDOUT
from workers.student.models.resources import resource_request as initial_request
from workers.student.training.resources import resource_request as student_request
from workers.teacher.groups.resources import resource_request

_LARGE = 1 << 30
"""Bytes of a held-out store from which another way to keep it is told."""

_CHARACTERS_PER_TOKEN = 4
"""Of English prose in a usual vocabulary; the plan's token counts of given text are estimates."""


@dataclass
class RunPlan:
    """The plan of a run."""

    name: str
    folder: str
    inventory: Inventory
    parts: list[Part] = field(default_factory=list)
    prompts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By domain: train and heldout prompts, target tokens at most."""
    longest_answer: dict[str, int] = field(default_factory=dict)
    """By teacher: most tokens of an answer that it makes."""
    rejected: int = 0
    train_tokens: int = 0
    heldout_tokens: int = 0
    train_bytes: int = 0
    heldout_bytes: int = 0
    free_bytes: int | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: RunConfig, found: Checked, inventory: Inventory) -> RunPlan:
    """The plan of a checked configuration (with absolute paths)."""
    plan = RunPlan(config.name, f"{config.storage}/{config.name}", inventory, free_bytes=free_bytes(config.storage))
    vocabulary = _vocabulary(config, found)
    _plan_prompts(plan, config, found, vocabulary)
    _plan_teachers(plan, config, found, vocabulary)
    _plan_students(plan, config, vocabulary)
    sizes = [_hidden_size(folder) for folder in found.teacher_folders.values()]
    plan.parts.append(evaluator_part(config.evaluate, plan.heldout_bytes, vocabulary, sum(sizes)))
    _find_problems(plan)
    return plan


def _vocabulary(config: RunConfig, found: Checked) -> int:
    return int(read_model_config(found.teacher_folders[config.first_teacher()]).get("vocab_size", 0))


def _plan_prompts(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    policies, asked = PolicyResolver(config), set()
    heldout_tokens: Counter[str] = Counter()
    for prompt, split in zip(found.prompts, assign_splits(found.prompts, config.evaluate.heldout), strict=True):
        heldout = split == HELDOUT
        how = policies.of(prompt.source, prompt.domains)
        tokens = _target_tokens(prompt, how, config, heldout)
        plan.longest_answer[how.teacher] = max(plan.longest_answer.get(how.teacher, 0), how.sampling.max_new_tokens)
        if not heldout and prompt.answer is None:
            asked.add((prompt.source, prompt.domains))
        for domain in prompt.domains:
            row = plan.prompts.setdefault(domain, {"train": 0, "heldout": 0, "tokens": 0})
            row["heldout" if heldout else "train"] += 1
            row["tokens"] += tokens
        if heldout:
            heldout_tokens[how.teacher] += tokens
        else:
            plan.train_tokens += tokens
    plan.rejected = len(found.rejected)
    plan.train_bytes = round(plan.train_tokens * target_bytes(config.targets, vocabulary))
    plan.heldout_tokens = heldout_tokens.total()
    full = plan.heldout_tokens * vocabulary * DTYPE_BYTES[config.evaluate.precision]
    hidden = _hidden_bytes(config, found, heldout_tokens, vocabulary)
    plan.heldout_bytes = hidden if config.evaluate.targets == "hidden" else full
    if plan.heldout_bytes > _LARGE and hidden < full and config.evaluate.targets == "full":
        plan.notes.append(
            f"evaluate.targets: full keeps {naturalsize(full)} of held-out distributions, and the evaluator holds "
            f"them; hidden keeps {naturalsize(hidden)}"
        )
    for name in config.specialists:
        if not plan.prompts.get(config.own_domain(name), {}).get("heldout"):
            plan.notes.append(
                f"specialist {name}: no held-out prompt of {config.own_domain(name)} to score it on; "
                "raise evaluate.heldout, or give rows `split: heldout`"
            )
    for domain in plan.prompts:
        if config.demand().get(domain, 0) <= 0:
            plan.notes.append(f"no specialist asks for the domain {domain!r}: it is captured last")
    plan.notes += found.notes + text_notes(config, asked)


def _hidden_bytes(config: RunConfig, found: Checked, tokens: Counter[str], vocabulary: int) -> int:
    """Of the hidden states of so many held-out tokens by teacher, and of the teachers' heads."""
    width = DTYPE_BYTES[config.hidden_precision()]
    return sum(
        _hidden_size(found.teacher_folders[name]) * (tokens[name] * width + vocabulary * DTYPE_BYTES[teacher.precision])
        for name, teacher in config.teachers.items()
    )


def _hidden_size(folder: Path) -> int:
    model_config = read_model_config(folder)
    return int(model_config.get("hidden_size") or (model_config.get("text_config") or {}).get("hidden_size") or 0)


def _target_tokens(prompt: RawPrompt, how: PromptPolicy, config: RunConfig, heldout: bool) -> int:
    """Upper bound (generated) or estimate (given) of a prompt's target tokens."""
    sampling = how.sampling
    given = prompt.answer is not None and (not heldout or config.evaluate.text == "given" or prompt.prompt == "")
    answer = len(prompt.answer_text or "") // _CHARACTERS_PER_TOKEN + 1 if given else sampling.max_new_tokens
    texts = 1 if given else (config.evaluate.samples if heldout else sampling.samples)
    messages = chat_of(prompt, how)
    before = (prompt.prompt or "") if messages is None else "".join(str(m.get("content", "")) for m in messages)
    all_positions = config.targets.positions == "all" and not heldout
    return texts * (answer + (len(before) // _CHARACTERS_PER_TOKEN if all_positions else 0))


def _plan_teachers(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    for name, teacher in config.teachers.items():
        key, folder = config.teacher_key(name), found.teacher_folders[name]
        if model_size(folder) is None:
            plan.notes.append(f"{key}: weights of {teacher.model!r} are not downloaded; its memory is left out")
        if name not in plan.longest_answer:
            plan.notes.append(f"{key}: no prompt is for this teacher; it is not started")
        if teacher.engine == "vllm":
            _note_walks(plan, config, found, name)
        plan.parts.append(teacher_part(name, teacher, folder, plan.longest_answer.get(name, 0), vocabulary))
        if plan.inventory.members and (reason := infeasible_reason(resource_request(teacher), plan.inventory.members)):
            plan.problems.append(f"{key}: a replica finds no place on this cluster: {reason}")


def _note_walks(plan: RunPlan, config: RunConfig, found: Checked, teacher: str) -> None:
    """Given text takes vLLM a pass for each token, unless it can read it off."""
    policies = PolicyResolver(config)
    own = [p for p in found.prompts if policies.of(p.source, p.domains).teacher == teacher]
    walked = ["given answers"] if any(p.answer is not None for p in own) else []
    walked += ["prompts (targets.positions: all)"] if config.targets.positions == "all" else []
    if walked and config.targets.scheme != "topk":
        plan.notes.append(
            f"{config.teacher_key(teacher)}.engine: vllm takes a pass for each token of {' and '.join(walked)} at "
            f"targets.scheme {config.targets.scheme}; topk, or engine transformers, takes one for a whole text"
        )


def _plan_students(plan: RunPlan, config: RunConfig, vocabulary: int) -> None:
    making = initial_part([specialist.model for specialist in config.specialists.values()], config.initial)
    if making is not None:
        plan.parts.append(making)
        request = initial_request([s.model for s in config.specialists.values()], config.initial)
        members = plan.inventory.members
        if request is not None and members and (reason := infeasible_reason(request, members)):
            plan.problems.append(f"initial: making initial weights finds no place on this cluster: {reason}")
    control = f"; then its control ({HARD_LABELS})" if HARD_LABELS in config.evaluate.baselines else ""
    for name, specialist in config.specialists.items():
        mix = ", ".join(f"{d} {w:.0%}" for d, w in config.mix_of(name).items())
        plan.parts.append(student_part(name, specialist, mix + control, vocabulary))
        if plan.inventory.members and (
            reason := infeasible_reason(student_request(specialist.train), plan.inventory.members)
        ):
            plan.problems.append(f"specialists.{name}.train: it finds no place on this cluster: {reason}")
    if GENERALIST in config.evaluate.baselines:
        first = next(iter(config.specialists.values()))
        plan.parts.append(student_part(GENERALIST, first, "all domains equally", vocabulary))


def _find_problems(plan: RunPlan) -> None:
    """What does not fit, each with what to change."""
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
        memory = sum(p.count * p.memory for p in plan.parts if p.kind not in ("initial", "evaluator"))
        if memory > have.memory:
            plan.problems.append(
                f"teacher and specialists hold about {naturalsize(memory)} at once, "
                f"this machine has {naturalsize(have.memory)}: "
                "smaller teachers.*.score_tokens or batch, fewer workers, or fewer specialists"
            )
