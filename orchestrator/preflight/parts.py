"""The kinds of processes of a run: how many there are, what each reserves, and how much memory it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from humanize import naturalsize

from orchestrator.preflight.memory import activation_bytes, decoder_of, kv_cache_bytes, linear_layers, student_size
from workers.evaluation.config import CHUNK_NUMBERS, LOGITS_HELD, EvaluateConfig
from workers.fetching.folder import model_folder
from workers.model_files import expert_count, read_model_config
from workers.model_sizes import DTYPE_BYTES, PROCESS_BYTES, ModelSize, model_size
from workers.student.config import InitialConfig, ModelConfig, SpecialistConfig, TrainConfig
from workers.student.losses.config import chunk_tokens
from workers.student.models.dense_sibling import active_width
from workers.student.models.resources import ANSWER_TOKENS, initial_bytes, mixture_reads
from workers.teacher.config import TeacherConfig
from workers.teacher.generation.batches import HEAD_NUMBERS

_CONTEXT_BYTES = 1 << 30
"""What CUDA, its libraries and NCCL hold on a GPU before any weight, about."""

_GPU_HOST_BYTES = 3 << 30
"""What a process that computes on a GPU holds in the node's memory before any weight, about."""


USABLE = 0.95
"""Of a GPU's memory; the rest is what torch's allocator cannot use between its blocks."""


@dataclass(frozen=True)
class Part:
    """One kind of process: how many, what each reserves and holds."""

    kind: Literal["teacher", "initial", "student", "evaluator"]
    name: str
    count: int
    cpus: float
    gpus: float
    memory: int
    """Bytes of one process in its node's memory: weights and working memory, where it has no GPU."""
    detail: str
    least: int = 0
    """Processes that must be there at once for the run to go on."""
    gpu_memory: int = 0
    """Bytes of one process on its GPUs: weights and working memory. 0 without."""
    spreads: bool = False
    """Whether that is spread over all GPUs of the process, not on one of them."""
    placed: dict[str, int] = field(default_factory=dict)
    """In a plan for known nodes: how many of the `least` processes are on nodes of each kind. Empty: no place."""
    waits: bool = False
    """In such a plan: finds its place only when other parts of the run have ended."""

    def gpu_share(self, gpu_memory: int) -> float:
        """Bytes that one process may hold on GPUs of so many each; of a part of a GPU, that part of its memory."""
        return USABLE * gpu_memory * (self.gpus if self.spreads else min(self.gpus, 1.0))

    def fits_gpus(self, gpu_memory: int) -> bool:
        """Whether one process finds room on its GPUs, of so many bytes each."""
        return self.gpu_memory <= self.gpu_share(gpu_memory)


def teacher_part(name: str, teacher: TeacherConfig, folder: Path, longest_answer: int, vocabulary: int) -> Part:
    """The ranks of a teacher's replicas; without weights where they are not downloaded yet."""
    model, size = read_model_config(folder), model_size(folder) or ModelSize(0)
    width = DTYPE_BYTES[teacher.precision]
    weights = (size.dense + size.experts // teacher.ep_size) * width
    logits = 3 * min(teacher.score_tokens * vocabulary, HEAD_NUMBERS) * 4
    cache = kv_cache_bytes(model, teacher.slots * (longest_answer + 512), width)
    least, most = teacher.replicas
    experts = expert_count(model)
    what = f"{experts} experts over {teacher.ep_size} ranks, {teacher.dispatch}" if experts else "dense"
    what += ", vLLM" if teacher.engine == "vllm" else ""
    through_host = weights if teacher.ep_size == 1 else 0  # shards go straight to their GPU
    memory, gpu_memory = _on_host_and_gpu(teacher.gpus_per_rank, weights + logits + cache, through_host)
    return Part(
        "teacher",
        f"teacher {name}",
        most * teacher.ep_size,
        teacher.cpus_per_rank,
        teacher.gpus_per_rank,
        memory,
        f"{least}-{most} replicas; {what}; weights {naturalsize(weights)} a rank, "
        f"logits {naturalsize(logits)}, cache {naturalsize(cache)}",
        least=least * teacher.ep_size,
        gpu_memory=gpu_memory,
        spreads=teacher.engine == "vllm",
    )


def initial_part(models: list[ModelConfig], settings: InitialConfig) -> Part | None:
    """The process that makes the initial weights of students of these models, if any has a source; it ends before they
    train."""
    if not (size := initial_bytes(models, settings)):
        return None
    details = ["before training"]
    for model in {m.merge_experts: m for m in models if m.merge_experts is not None}.values():
        layers, again = mixture_reads(model, settings)
        details.append(f"{model.merge_experts} layer by layer ({naturalsize(layers)})")
        if again:
            details.append(
                f"{naturalsize(again)} of it read again for each of {ANSWER_TOKENS} tokens of answers (initial.memory)"
            )
    return Part("initial", "initial weights", 1, settings.cpus, 0, size, "; ".join(details), least=1)


def _on_host_and_gpu(gpus: float, held: int, through_host: int) -> tuple[int, int]:
    """Bytes on the host and on its GPUs of a process that holds so many to compute with, of which some are loaded
    through the host's memory."""
    if not gpus:
        return held + PROCESS_BYTES, 0
    return through_host + _GPU_HOST_BYTES, held + _CONTEXT_BYTES


def student_part(name: str, specialist: SpecialistConfig, mixture: str, vocabulary: int, heads: int = 0) -> Part:
    """Weights, gradients, AdamW's two states, ZeRO's flat copies, activations of a micro-batch, logits of a chunk.
    `heads` are the bytes of teachers' heads, which every worker holds where targets are hidden states.

    Measured beside it: a worker of 127 M parameters (ZeRO-1, float32, 49k ids) held 4.2 GB.
    """
    train = specialist.train
    folder, base_config = _source_of(specialist.model)
    parameters = student_size(specialist.model, folder, base_config, vocabulary) or 0
    width = student_width(train)
    least, most = train.workers  # the fewer, the more each of them holds
    stage = train.zero_stage(least, "float32" if width == 4 else "bfloat16")
    whole = parameters * width
    weights = whole // (least if stage == 3 else 1)
    trained, what = parameters, ""
    if (lora := specialist.model.lora) is not None and folder is not None:
        sizes = linear_layers(specialist.model, folder, read_model_config(folder))
        trained = lora.rank * sum(n for name, n in sizes.items() if not lora.targets or name in lora.targets)
        what = f", {trained / 1e6:.2f} M in adapters"
    what += f", teacher's head {naturalsize(heads)}" if heads else ""
    gradients = trained * 4 // (least if stage >= 2 else 1)
    optimiser = trained * (12 if stage else 8) // least
    if specialist.roundings:  # rounded, beside masters that the stages 1 and 2 have anyway
        optimiser += parameters * (4 if stage == 0 else width // least if stage == 3 else 0)
    flat = trained * width // (least if stage == 3 else 1) if stage else 0
    logits = 3 * chunk_tokens("cuda" if train.gpus_per_worker else "cpu", max(vocabulary, 1)) * vocabulary * 4
    # Of a text, as much again may be its prompt, of which there need be no targets.
    tokens = min(train.micro_tokens, 2 * train.batch_tokens // least)
    decoder = decoder_of(specialist.model, base_config)
    activations = activation_bytes(decoder, tokens, width, checkpointing=train.gradient_checkpointing)
    held = weights + gradients + optimiser + flat + logits + heads + activations
    memory, gpu_memory = _on_host_and_gpu(train.gpus_per_worker, held, whole)
    workers = f"{least}-{most} workers; " if most > least else ""
    shared = f"ZeRO-{stage}" if stage else "no ZeRO"
    return Part(
        "student",
        f"specialist {name}",
        most,
        train.cpus_per_worker,
        train.gpus_per_worker,
        memory,
        f"{workers}{parameters / 1e6:.1f} M parameters{what}, {shared}, {train.tokens:,} tokens of {mixture}; weights "
        f"{naturalsize(weights)} a worker, gradients {naturalsize(gradients)}, optimiser "
        f"{naturalsize(optimiser + flat)}, activations {naturalsize(activations)}",
        least=least,
        gpu_memory=gpu_memory,
    )


def _source_of(model: ModelConfig) -> tuple[Path | None, dict[str, Any] | None]:
    """The folder and the config.json that a student starts from; None for random weights."""
    folder = model_folder(model.source, model.revision, weights=False) if model.source else None
    return folder, read_model_config(folder) if folder else None


def student_parameters(model: ModelConfig, vocabulary: int) -> int:
    """Parameters of a student; 0 where its base is not downloaded yet."""
    return student_size(model, *_source_of(model), vocabulary) or 0


def student_width(train: TrainConfig) -> int:
    """Bytes of a number that a student computes with."""
    return 2 if train.dtype == "bfloat16" or (train.dtype == "auto" and train.gpus_per_worker) else 4


def evaluator_part(
    settings: EvaluateConfig, unit_bytes: int, vocabulary: int, hidden_sizes: int, largest_model: int, layer: int
) -> Part:
    """The processes that score: each holds a unit of the held-out store in its node's memory; and where it computes,
    one model at a time (also the teacher, where it is asked tasks), a layer's working memory, logits of a chunk, and of
    hidden states the teachers' heads in float32.

    `unit_bytes` are those of a unit, `hidden_sizes` is the sum of the teachers' (0 of a `full` store), `largest_model`
    the parameters of the largest model, `layer` the numbers that a layer works with of a token.
    """
    logits = LOGITS_HELD * CHUNK_NUMBERS["cuda" if settings.gpus else "cpu"] * 4
    heads = hidden_sizes * vocabulary * 4
    width = 2 if settings.gpus else 4
    model, layers = largest_model * width, settings.batch_tokens * layer * width
    memory, gpu_memory = _on_host_and_gpu(settings.gpus, logits + heads + model + layers, model)
    return Part(
        "evaluator",
        "evaluator",
        settings.workers,
        settings.cpus,
        settings.gpus,
        memory + unit_bytes,
        f"after training; against {', '.join(settings.baselines) or 'nothing'}; logits {naturalsize(logits)}, "
        f"teachers' heads {naturalsize(heads)}, a unit {naturalsize(unit_bytes)}, largest model {naturalsize(model)}",
        least=1,
        gpu_memory=gpu_memory,
    )


def student_layer(model: ModelConfig) -> int:
    """Numbers that a layer of a student works with of a token, about; 0 where its base is not downloaded yet."""
    decoder = decoder_of(model, _source_of(model)[1])
    return activation_bytes({**decoder, "num_hidden_layers": 1}, 1, 1, checkpointing=False) if decoder else 0


def asked_layer(model_config: dict[str, Any]) -> int:
    """Numbers that a layer of a model works with of a token that it writes, about, and those of its keys and values in
    all layers."""
    text = {**model_config, **(model_config.get("text_config") or {})}
    width = active_width(text) if expert_count(text) else int(text.get("intermediate_size") or 0)
    one = {**text, "num_hidden_layers": 1, "intermediate_size": width}
    return activation_bytes(one, 1, 1, checkpointing=False) + kv_cache_bytes(text, 1, 1)
