"""What will run where and how much it takes: configuration and inventory in, numbers out. Pure but for file headers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.inventory import Inventory, local_inventory
from cluster.room import lack
from cluster.storage import free_bytes
from orchestrator.answering import Answering, Answerings, chat_of
from orchestrator.checks import Checked
from orchestrator.config import RunConfig
from orchestrator.prompt_sources import RawPrompt, assign_splits
from orchestrator.text_notes import text_notes
from workers.evaluation.config import EvaluateConfig
from workers.model_files import expert_count, model_folder, read_model_config
from workers.sizes import DTYPE_BYTES, ModelSize, kv_cache_bytes, linear_layers, model_size, student_size, target_bytes
from workers.splits import HELDOUT
from workers.student.config import SpecialistConfig
from workers.student.loss_config import chunk_tokens
from workers.student.place import wanted_place as student_place
from workers.teacher.batches import HEAD_NUMBERS
from workers.teacher.place import wanted_place

_CHARACTERS_PER_TOKEN = 4
"""Of English prose in a usual vocabulary; the plan's token counts of given text are estimates."""

_PROCESS_BYTES = 600 << 20
"""What a process that loaded torch, transformers and DeepSpeed holds before any weight."""


@dataclass(frozen=True)
class Part:
    """One kind of process: how many, what each reserves and holds."""

    name: str
    count: int
    cpus: float
    gpus: float
    memory: int
    """Bytes of one process, weights and working memory."""
    detail: str
    least: int = 0
    """Processes that must be there at once for the run to go on."""


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
    set_aside: int = 0
    train_tokens: int = 0
    heldout_tokens: int = 0
    train_bytes: int = 0
    heldout_bytes: int = 0
    free_bytes: int | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inventory_for(config: RunConfig, connect: bool) -> Inventory:
    """This machine, or the cluster that the run would join."""
    if not connect:
        return local_inventory(config.cluster.cpus)
    import ray

    from cluster.inventory import cluster_inventory

    ray.init(address=config.cluster.address or "auto", logging_level="ERROR")
    try:
        return cluster_inventory()
    finally:
        ray.shutdown()


def make_plan(config: RunConfig, found: Checked, inventory: Inventory) -> RunPlan:
    """The plan of a checked configuration (with absolute paths)."""
    plan = RunPlan(config.name, f"{config.storage}/{config.name}", inventory, free_bytes=free_bytes(config.storage))
    vocabulary = _vocabulary(config, found)
    _plan_prompts(plan, config, found, vocabulary)
    _plan_teachers(plan, config, found, vocabulary)
    _plan_students(plan, config, vocabulary)
    _plan_evaluator(plan, config.evaluate, vocabulary)
    _find_problems(plan)
    return plan


def _vocabulary(config: RunConfig, found: Checked) -> int:
    return int(read_model_config(found.teacher_folders[config.first_teacher()]).get("vocab_size", 0))


def _plan_prompts(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    answerings, asked = Answerings(config), set()
    for prompt, split in zip(found.prompts, assign_splits(found.prompts, config.evaluate.heldout), strict=True):
        heldout = split == HELDOUT
        how = answerings.of(prompt.source, prompt.domains)
        tokens = _target_tokens(prompt, how, config, heldout)
        plan.longest_answer[how.teacher] = max(plan.longest_answer.get(how.teacher, 0), how.sampling.max_new_tokens)
        if not heldout and prompt.answer is None:
            asked.add((prompt.source, prompt.domains))
        for domain in prompt.domains:
            row = plan.prompts.setdefault(domain, {"train": 0, "heldout": 0, "tokens": 0})
            row["heldout" if heldout else "train"] += 1
            row["tokens"] += tokens
        if heldout:
            plan.heldout_tokens += tokens
        else:
            plan.train_tokens += tokens
    plan.set_aside = len(found.set_aside)
    plan.train_bytes = round(plan.train_tokens * target_bytes(config.targets, vocabulary))
    plan.heldout_bytes = plan.heldout_tokens * vocabulary * DTYPE_BYTES[config.evaluate.precision]
    for name in config.specialists:
        if not plan.prompts.get(config.own_domain(name), {}).get("heldout"):
            plan.notes.append(
                f"specialist {name}: no held-out prompt of {config.own_domain(name)} to score it on; "
                "raise evaluate.heldout, or give rows `split: heldout`"
            )
    for domain in plan.prompts:
        if config.demand().get(domain, 0) <= 0:
            plan.notes.append(f"no specialist asks for the domain {domain!r}: it is taught last")
    plan.notes += text_notes(config, asked)


def _target_tokens(prompt: RawPrompt, how: Answering, config: RunConfig, heldout: bool) -> int:
    """Upper bound (generated) or estimate (given) of a prompt's target tokens."""
    sampling = how.sampling
    given = prompt.answer is not None and (not heldout or config.evaluate.text == "given")
    answer = len(prompt.answer or "") // _CHARACTERS_PER_TOKEN + 1 if given else sampling.max_new_tokens
    texts = 1 if given else (config.evaluate.samples if heldout else sampling.samples)
    messages = chat_of(prompt, how)
    before = (prompt.prompt or "") if messages is None else "".join(str(m.get("content", "")) for m in messages)
    all_positions = config.targets.positions == "all" and not heldout
    return texts * (answer + (len(before) // _CHARACTERS_PER_TOKEN if all_positions else 0))


def _plan_teachers(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    for name, teacher in config.teachers.items():
        folder = found.teacher_folders[name]
        model, size = read_model_config(folder), model_size(folder)
        dtype = teacher.dtype if teacher.dtype != "auto" else ("bfloat16" if teacher.gpus_per_rank else "float32")
        width = DTYPE_BYTES[dtype]
        if size is None:
            plan.notes.append(
                f"{config.teacher_key(name)}: weights of {teacher.model!r} are not downloaded; its memory is left out"
            )
            size = ModelSize(0)
        weights = (size.dense + size.experts // teacher.ep_size) * width
        logits = 3 * min(teacher.score_tokens * vocabulary, HEAD_NUMBERS) * 4
        if name not in plan.longest_answer:
            plan.notes.append(f"{config.teacher_key(name)}: no prompt is for this teacher; it is not started")
        cache = kv_cache_bytes(model, teacher.batch * (plan.longest_answer.get(name, 0) + 512), width)
        least, most = teacher.replicas
        experts = expert_count(model)
        kind = f"{experts} experts over {teacher.ep_size} ranks, {teacher.dispatch}" if experts else "dense"
        if teacher.engine == "vllm":
            kind += ", vLLM"
            _note_walks(plan, config, found, name)
        plan.parts.append(
            Part(
                f"teacher {name}",
                most * teacher.ep_size,
                teacher.cpus_per_rank,
                teacher.gpus_per_rank,
                weights + logits + cache + _PROCESS_BYTES,
                f"{least}-{most} replicas; {kind}; weights {size_text(weights)} a rank, logits {size_text(logits)}, "
                f"cache {size_text(cache)}",
                least=least * teacher.ep_size,
            )
        )
        if plan.inventory.members and (lacking := lack(wanted_place(teacher), plan.inventory.members)):
            plan.problems.append(f"{config.teacher_key(name)}: a replica finds no place on this cluster: {lacking}")


def _note_walks(plan: RunPlan, config: RunConfig, found: Checked, teacher: str) -> None:
    """Given text takes vLLM a pass for each token, unless it can read it off."""
    answerings = Answerings(config)
    own = [p for p in found.prompts if answerings.of(p.source, p.domains).teacher == teacher]
    walked = ["given answers"] if any(p.answer is not None for p in own) else []
    walked += ["prompts (targets.positions: all)"] if config.targets.positions == "all" else []
    if walked and config.targets.scheme != "topk":
        plan.notes.append(
            f"{config.teacher_key(teacher)}.engine: vllm takes a pass for each token of {' and '.join(walked)} at "
            f"targets.scheme {config.targets.scheme}; topk, or engine transformers, takes one for a whole text"
        )


def _plan_students(plan: RunPlan, config: RunConfig, vocabulary: int) -> None:
    control = "; then its control (hard_labels)" if "hard_labels" in config.evaluate.against else ""
    for name, specialist in config.specialists.items():
        mix = ", ".join(f"{d} {w:.0%}" for d, w in config.mix_of(name).items())
        plan.parts.append(_student_part(f"specialist {name}", specialist, mix + control, vocabulary))
        if plan.inventory.members and (lacking := lack(student_place(specialist.train), plan.inventory.members)):
            plan.problems.append(f"specialists.{name}.train: it finds no place on this cluster: {lacking}")
        if (mixture := specialist.model.merge_experts) is not None:
            folder = model_folder(mixture, specialist.model.revision, weights=False)
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            plan.notes.append(
                f"specialists.{name}.model.merge_experts: before training, one process loads the whole mixture"
                + (f" ({size_text(size)})" if size else "")
            )
    if "generalist" in config.evaluate.against:
        first = next(iter(config.specialists.values()))
        plan.parts.append(_student_part("specialist generalist", first, "all domains equally", vocabulary))


def _student_part(name: str, specialist: SpecialistConfig, diet: str, vocabulary: int) -> Part:
    """Weights, gradients, AdamW's two states, ZeRO's flat copies, logits of a chunk; activations are left out.

    Measured beside it: a worker of 127 M parameters (ZeRO-1, float32, 49k ids) held 4.2 GB.
    """
    train, source = specialist.train, specialist.model.source
    folder = model_folder(source, specialist.model.revision, weights=False) if source else None
    parameters = student_size(specialist.model, folder, read_model_config(folder) if folder else None, vocabulary) or 0
    width = 2 if train.dtype == "bfloat16" or (train.dtype == "auto" and train.gpus_per_worker) else 4
    least, most = train.workers  # the fewer, the more each of them holds
    stage = train.zero_stage(least, "float32" if width == 4 else "bfloat16")
    weights = parameters * width // (least if stage == 3 else 1)
    trained, what = parameters, ""
    if (lora := specialist.model.lora) is not None and folder is not None:
        sizes = linear_layers(specialist.model, folder, read_model_config(folder))
        trained = lora.rank * sum(n for name, n in sizes.items() if not lora.targets or name in lora.targets)
        what = f", {trained / 1e6:.2f} M in adapters"
    gradients = trained * 4 // (least if stage >= 2 else 1)
    optimiser = trained * (12 if stage else 8) // least
    flat = trained * width // (least if stage == 3 else 1) if stage else 0
    logits = 3 * chunk_tokens("cuda" if train.gpus_per_worker else "cpu", max(vocabulary, 1)) * vocabulary * 4
    workers = f"{least}-{most} workers; " if most > least else ""
    shared = f"ZeRO-{stage}" if stage else "no ZeRO"
    return Part(
        name,
        most,
        train.cpus_per_worker,
        train.gpus_per_worker,
        weights + gradients + optimiser + flat + logits + _PROCESS_BYTES,
        f"{workers}{parameters / 1e6:.1f} M parameters{what}, {shared}, {train.tokens:,} tokens of {diet}",
        least=least,
    )


def _plan_evaluator(plan: RunPlan, settings: EvaluateConfig, vocabulary: int) -> None:
    logits = 4 * settings.batch_tokens * vocabulary * 4
    plan.parts.append(
        Part(
            "evaluator",
            1,
            settings.cpus,
            settings.gpus,
            logits + plan.heldout_bytes + _PROCESS_BYTES,
            f"after training; against {', '.join(settings.against) or 'nothing'}; logits {size_text(logits)}, "
            f"held-out store {size_text(plan.heldout_bytes)}",
            least=1,
        )
    )


def _find_problems(plan: RunPlan) -> None:
    """What does not fit, each with what to change."""
    have, worst = plan.inventory, plan.train_bytes + plan.heldout_bytes
    if plan.free_bytes is not None and worst > plan.free_bytes:
        plan.problems.append(
            f"targets take about {size_text(worst)}, the disk has {size_text(plan.free_bytes)} free: "
            "fewer prompts, "
            "evaluate.precision float16, or storage elsewhere"
        )
    for kind, there in (("cpus", have.cpus), ("gpus", have.gpus)):
        teachers = sum(p.least * getattr(p, kind) for p in plan.parts if p.name.startswith("teacher"))
        students = [p for p in plan.parts if p.name.startswith("specialist")]
        evaluators = sum(getattr(p, kind) for p in plan.parts if p.name == "evaluator")
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
        memory = sum(p.count * p.memory for p in plan.parts if p.name != "evaluator")
        if memory > have.memory:
            plan.problems.append(
                f"teacher and specialists hold about {size_text(memory)} at once, "
                f"this machine has {size_text(have.memory)}: "
                "smaller teachers.*.score_tokens or batch, fewer workers, or fewer specialists"
            )


def size_text(count: float) -> str:
    """Bytes for a person (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
