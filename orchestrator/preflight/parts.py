"""The kinds of processes of a run: how many there are, what each reserves, and how much memory it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from humanize import naturalsize

from orchestrator.preflight.memory import kv_cache_bytes, linear_layers, student_size
from workers.evaluation.config import EvaluateConfig
from workers.model_files import expert_count, model_folder, read_model_config
from workers.model_sizes import DTYPE_BYTES, ModelSize, model_size
from workers.student.config import InitialConfig, ModelConfig, SpecialistConfig
from workers.student.losses.config import chunk_tokens
from workers.student.models.resources import ANSWER_TOKENS, initial_bytes, mixture_reads
from workers.teacher.config import TeacherConfig
from workers.teacher.generation.batches import HEAD_NUMBERS

_PROCESS_BYTES = 600 << 20
"""What a process that loaded torch, transformers and DeepSpeed holds before any weight."""


@dataclass(frozen=True)
class Part:
    """One kind of process: how many, what each reserves and holds."""

    kind: Literal["teacher", "initial", "student", "evaluator"]
    name: str
    count: int
    cpus: float
    gpus: float
    memory: int
    """Bytes of one process, weights and working memory."""
    detail: str
    least: int = 0
    """Processes that must be there at once for the run to go on."""


def teacher_part(name: str, teacher: TeacherConfig, folder: Path, longest_answer: int, vocabulary: int) -> Part:
    """The ranks of a teacher's replicas; without weights where they are not downloaded yet."""
    model, size = read_model_config(folder), model_size(folder) or ModelSize(0)
    dtype = teacher.dtype if teacher.dtype != "auto" else ("bfloat16" if teacher.gpus_per_rank else "float32")
    width = DTYPE_BYTES[dtype]
    weights = (size.dense + size.experts // teacher.ep_size) * width
    logits = 3 * min(teacher.score_tokens * vocabulary, HEAD_NUMBERS) * 4
    cache = kv_cache_bytes(model, teacher.batch * (longest_answer + 512), width)
    least, most = teacher.replicas
    experts = expert_count(model)
    what = f"{experts} experts over {teacher.ep_size} ranks, {teacher.dispatch}" if experts else "dense"
    what += ", vLLM" if teacher.engine == "vllm" else ""
    return Part(
        "teacher",
        f"teacher {name}",
        most * teacher.ep_size,
        teacher.cpus_per_rank,
        teacher.gpus_per_rank,
        weights + logits + cache + _PROCESS_BYTES,
        f"{least}-{most} replicas; {what}; weights {naturalsize(weights)} a rank, "
        f"logits {naturalsize(logits)}, cache {naturalsize(cache)}",
        least=least * teacher.ep_size,
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


def student_part(name: str, specialist: SpecialistConfig, mixture: str, vocabulary: int) -> Part:
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
        "student",
        f"specialist {name}",
        most,
        train.cpus_per_worker,
        train.gpus_per_worker,
        weights + gradients + optimiser + flat + logits + _PROCESS_BYTES,
        f"{workers}{parameters / 1e6:.1f} M parameters{what}, {shared}, {train.tokens:,} tokens of {mixture}",
        least=least,
    )


def evaluator_part(settings: EvaluateConfig, heldout_bytes: int, vocabulary: int, hidden_sizes: int) -> Part:
    """The evaluator, which holds the held-out store; of hidden states with the teachers' heads in float32.
    `hidden_sizes` is the sum of the teachers'."""
    logits = 4 * settings.batch_tokens * vocabulary * 4
    heads = hidden_sizes * vocabulary * 4 if settings.targets == "hidden" else 0
    return Part(
        "evaluator",
        "evaluator",
        1,
        settings.cpus,
        settings.gpus,
        logits + heldout_bytes + heads + _PROCESS_BYTES,
        f"after training; against {', '.join(settings.baselines) or 'nothing'}; logits {naturalsize(logits)}, "
        f"held-out store {naturalsize(heldout_bytes)}",
        least=1,
    )
