"""The kinds of processes of a run: how many there are, what each reserves, and how much memory it holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from humanize import naturalsize

from orchestrator.preflight.memory import activation_bytes, decoder_of, kv_cache_bytes, linear_layers, student_size
from workers.evaluation.config import EvaluateConfig
from workers.model_files import expert_count, model_folder, read_model_config
from workers.model_sizes import DTYPE_BYTES, ModelSize, model_size
from workers.student.config import ModelConfig, SpecialistConfig, TrainConfig
from workers.student.losses.config import chunk_tokens
from workers.teacher.config import TeacherConfig
from workers.teacher.generation.batches import HEAD_NUMBERS

_PROCESS_BYTES = 600 << 20
"""What a process that loaded torch, transformers and DeepSpeed holds before any weight."""

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
    cache = kv_cache_bytes(model, teacher.batch * (longest_answer + 512), width)
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


def _on_host_and_gpu(gpus: float, held: int, through_host: int) -> tuple[int, int]:
    """Bytes on the host and on its GPUs of a process that holds so many to compute with, of which some are loaded
    through the host's memory."""
    if not gpus:
        return held + _PROCESS_BYTES, 0
    return through_host + _GPU_HOST_BYTES, held + _CONTEXT_BYTES


def student_part(name: str, specialist: SpecialistConfig, mixture: str, vocabulary: int) -> Part:
    """Weights, gradients, AdamW's two states, ZeRO's flat copies, activations of a micro-batch, logits of a chunk.

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
    gradients = trained * 4 // (least if stage >= 2 else 1)
    optimiser = trained * (12 if stage else 8) // least
    flat = trained * width // (least if stage == 3 else 1) if stage else 0
    logits = 3 * chunk_tokens("cuda" if train.gpus_per_worker else "cpu", max(vocabulary, 1)) * vocabulary * 4
    # Of a text, as much again may be its prompt, of which there need be no targets.
    tokens = min(train.micro_tokens, 2 * train.batch_tokens // least)
    decoder = decoder_of(specialist.model, base_config)
    activations = activation_bytes(decoder, tokens, width, checkpointing=train.gradient_checkpointing)
    held = weights + gradients + optimiser + flat + logits + activations
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
    settings: EvaluateConfig, heldout_bytes: int, vocabulary: int, hidden_sizes: int, largest_model: int = 0
) -> Part:
    """The evaluator, which holds the held-out store in its node's memory; of hidden states with the teachers' heads in
    float32 where it computes. `hidden_sizes` is the sum of the teachers', `largest_model` the parameters of the largest
    model that it scores, one at a time."""
    logits = 4 * settings.batch_tokens * vocabulary * 4
    heads = hidden_sizes * vocabulary * 4 if settings.targets == "hidden" else 0
    model = largest_model * (2 if settings.gpus else 4)
    memory, gpu_memory = _on_host_and_gpu(settings.gpus, logits + heads + model, model)
    return Part(
        "evaluator",
        "evaluator",
        1,
        settings.cpus,
        settings.gpus,
        memory + heldout_bytes,
        f"after training; against {', '.join(settings.baselines) or 'nothing'}; logits {naturalsize(logits)}, "
        f"held-out store {naturalsize(heldout_bytes)}, largest model {naturalsize(model)}",
        least=1,
        gpu_memory=gpu_memory,
    )


def initial_part(models: Iterable[ModelConfig], vocabulary: int) -> Part | None:
    """The process that makes initial weights before training, one student after another; None where all are random,
    which takes no more than training does. A base is read in float32, a mixture in its own type with its dense model
    beside it."""
    most, largest = 0, ""
    for model in models:
        folder, _ = _source_of(model)
        if folder is None:
            continue
        size = 4 * student_parameters(model, vocabulary)
        if (whole := model_size(folder)) is not None:
            size = 4 * whole.parameters if model.merge_experts is None else size + file_bytes(folder)
        if size > most:
            most, largest = size, str(model.source)
    if not most:
        return None
    return Part("initial", "initial weights", 1, 0, 0, most + _PROCESS_BYTES, f"before training; of {largest}", least=1)


def file_bytes(folder: Path) -> int:
    """Bytes of a folder's files of weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
