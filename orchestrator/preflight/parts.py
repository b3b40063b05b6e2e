"""The kinds of processes of a run: how many there are, what each reserves, and how much memory it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from humanize import naturalsize

from orchestrator.preflight.memory import (
    activation_bytes,
    decoder_of,
    linear_layers,
    part_bytes,
    state_bytes,
    state_cache_bytes,
    student_size,
)
from workers.evaluation.config import CHUNK_NUMBERS, LOGITS_HELD, EvaluateConfig
from workers.fetching.folder import model_folder
from workers.model_files import expert_count, read_model_config, text_settings
from workers.model_sizes import DTYPE_BYTES, PROCESS_BYTES, ModelSize, model_size
from workers.student.config import InitialConfig, ModelConfig, SpecialistConfig, TrainConfig
from workers.student.losses.config import Chunk
from workers.student.models.dense_sibling import active_width
from workers.student.models.resources import ANSWER_TOKENS, initial_bytes, mixture_reads
from workers.teacher.config import TeacherConfig
from workers.teacher.engines.families import kv_cache_bytes
from workers.teacher.sampling.chunks import GPU_NUMBERS, HEAD_NUMBERS, NUMBER_BYTES

_CONTEXT_BYTES = 1 << 30
"""What CUDA, its libraries and NCCL hold on a GPU before any weight, about."""

_GPU_HOST_BYTES = 3 << 30
"""What a process that computes on a GPU holds in the node's memory before any weight, about."""


_LARGE_GPU = 1 << 40
"""Bytes of a GPU that holds whatever is taken at most."""


_CACHE_ROOM = 1.5
"""Columns of a cache for those of the longest text: it grows by half, and has a quarter before its first text."""


_TEACHER_PROCESS_BYTES, _STUDENT_PROCESS_BYTES = 480 << 20, 740 << 20
"""Likewise, of one on a CPU: a rank without DeepSpeed, and a worker with it and Ray Train (size_bench/planned.py)."""


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
    """Bytes of one process on its GPUs: weights and working memory. 0 without. Of GPUs that are not known, at most."""
    spreads: bool = False
    """Whether that is spread over all GPUs of the process, not on one of them."""
    placed: dict[str, int] = field(default_factory=dict)
    """In a plan for known nodes: how many of the `least` processes are on nodes of each kind. Empty: no place."""
    further: dict[str, int] = field(default_factory=dict)
    """Likewise, of the processes above the least: those that find room beside all others."""
    waits: bool = False
    """In such a plan: finds its place only when other parts of the run have ended."""
    memory_of: dict[str, int] = field(default_factory=dict)
    """What `memory` is the sum of, bytes by name."""
    gpu_memory_of: dict[str, int] = field(default_factory=dict)
    """What `gpu_memory` is the sum of, likewise."""
    chunk: Chunk | None = None
    """What `gpu_memory_of["logits"]` follows from; None where it is one on all GPUs."""

    def on(self, gpu_memory: int) -> Part:
        """The same on GPUs of so many bytes."""
        if self.chunk is None or not self.gpus:
            return self
        pieces = {**self.gpu_memory_of, "logits": self.chunk.bytes_on(gpu_memory * min(self.gpus, 1.0))}
        return replace(self, gpu_memory=sum(pieces.values()), gpu_memory_of=pieces)

    def gpu_share(self, gpu_memory: int) -> float:
        """Bytes that one process may hold on GPUs of so many each; of a part of a GPU, that part of its memory."""
        return USABLE * gpu_memory * (self.gpus if self.spreads else min(self.gpus, 1.0))

    def fits_gpus(self, gpu_memory: int) -> bool:
        """Whether one process finds room on its GPUs, of so many bytes each."""
        return self.on(gpu_memory).gpu_memory <= self.gpu_share(gpu_memory)


def teacher_part(
    name: str, teacher: TeacherConfig, folder: Path, longest: int, vocabulary: int, in_use: float = 1.0
) -> Part:
    """The ranks of a teacher's replicas, whose longest text has so many tokens; without weights where they are not
    downloaded yet. `in_use` is the share of slots with texts: the others' memory is taken on a GPU alone."""
    model, size = read_model_config(folder), model_size(folder) or ModelSize(0)
    width = DTYPE_BYTES[teacher.precision]
    weights = (size.dense + size.experts // teacher.ep_size) * width
    numbers = teacher.score_tokens * vocabulary
    logits = min(numbers, GPU_NUMBERS) * NUMBER_BYTES if teacher.gpus_per_rank else 3 * min(numbers, HEAD_NUMBERS) * 4
    slots = teacher.slots * (1.0 if teacher.gpus_per_rank else in_use)
    cache = kv_cache_bytes(model, round(slots * longest * _CACHE_ROOM), width)
    if teacher.kv_cache_memory is not None:
        cache = min(cache, teacher.kv_cache_memory)
    least, most = teacher.replicas
    experts = expert_count(model)
    what = f"{experts} experts over {teacher.ep_size} ranks, {teacher.dispatch}" if experts else "dense"
    what += ", vLLM" if teacher.engine == "vllm" else ""
    states = state_cache_bytes(model, slots)
    held = {"weights": weights, "logits": logits, "kv_cache": cache, "states": states}
    if not teacher.gpus_per_rank:
        held["weights_file"] = weights  # pages of it, which were read to copy them
    return Part(
        "teacher",
        f"teacher {name}",
        most * teacher.ep_size,
        teacher.cpus_per_rank,
        teacher.gpus_per_rank,
        **_on_host_and_gpu(teacher.gpus_per_rank, held, process=_TEACHER_PROCESS_BYTES),
        detail=f"{least}-{most} replicas; {what}; weights {naturalsize(weights)} a rank, "
        f"logits {naturalsize(logits)}, cache {naturalsize(cache + states)}",
        least=least * teacher.ep_size,
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
    detail, held = "; ".join(details), {"weights_and_layers": size - PROCESS_BYTES, "process": PROCESS_BYTES}
    return Part("initial", "initial weights", 1, settings.cpus, 0, size, detail, least=1, memory_of=held)


class _Held(TypedDict):
    memory: int
    gpu_memory: int
    memory_of: dict[str, int]
    gpu_memory_of: dict[str, int]


def _on_host_and_gpu(
    gpus: float, held: Mapping[str, int], through_host: int = 0, on_host: int = 0, process: int = PROCESS_BYTES
) -> _Held:
    """Bytes on the host and on its GPUs of a process that holds so many to compute with, of which some are loaded
    through the host's memory; `on_host` are those of a held-out unit, which stays there, `process` those of one on a
    CPU before all that."""
    if gpus:
        host = {"process": _GPU_HOST_BYTES, "weights_on_their_way": through_host}
        gpu = {**held, "cuda_context": _CONTEXT_BYTES}
    else:
        host, gpu = {**held, "process": process}, {}
    host["heldout_unit"] = on_host
    host, gpu = ({name: size for name, size in pieces.items() if size} for pieces in (host, gpu))
    return _Held(memory=sum(host.values()), gpu_memory=sum(gpu.values()), memory_of=host, gpu_memory_of=gpu)


@dataclass(frozen=True)
class Lessons:
    """What a student learns from."""

    mixture: str
    """Its domains and their shares, in words."""
    vocabulary: int
    scheme: str
    """Of the targets."""
    longest: int = 0
    """Tokens of the longest text, as far as that is known."""
    heads: int = 0
    """Bytes of teachers' heads, which every worker holds where targets are hidden states."""


def student_part(name: str, specialist: SpecialistConfig, lessons: Lessons) -> Part:
    """Weights, gradients, the optimiser's state (`state_bytes`), activations of a micro-batch, logits of a chunk and
    the gradient of the head that is made of them.

    Measured beside it: a worker of 127 M parameters (ZeRO-1, float32, 49k ids) held 4.2 GB.
    """
    train, vocabulary = specialist.train, max(lessons.vocabulary, 1)
    folder, base_config = _source_of(specialist.model)
    parameters = student_size(specialist.model, folder, base_config, lessons.vocabulary) or 0
    width = student_width(train)
    least, most = train.workers  # the fewer, the more each of them holds
    stage = train.zero_stage(least, "float32" if width == 4 else "bfloat16")
    trained, what = parameters, ""
    if specialist.model.lora is not None and folder is not None:
        trained = _trained(specialist.model, folder)
        what = f", {trained / 1e6:.2f} M in adapters"
    what += f", teacher's head {naturalsize(lessons.heads)}" if lessons.heads else ""
    state = state_bytes(train, stage, parameters, trained, width, rounded=bool(specialist.roundings))
    chunk = specialist.loss.chunk(lessons.scheme, vocabulary)
    # Of a text, as much again may be its prompt, of which there need be no targets. A text goes through as a whole.
    tokens = min(train.micro_tokens, 2 * train.batch_tokens // least)
    tokens = max(tokens, min(lessons.longest, specialist.texts.max_tokens or lessons.longest))
    decoder = decoder_of(specialist.model, base_config)
    activations = activation_bytes(decoder, tokens, width, recomputed=train.gradient_checkpointing)
    held = {**state, "activations": activations, "logits": chunk.bytes_on(_LARGE_GPU if train.gpus_per_worker else 0)}
    held |= {"head_gradient": _head_gradient(specialist.model, decoder, vocabulary, width)}
    held |= {"teacher_head": lessons.heads}
    on_their_way = part_bytes(decoder, parameters, lessons.vocabulary)  # of the first worker, which reads for all
    optimiser = state["moments"] + state["masters"]
    workers = f"{least}-{most} workers; " if most > least else ""
    shared = f"ZeRO-{stage}" if stage else "no ZeRO"
    return Part(
        "student",
        f"specialist {name}",
        most,
        train.cpus_per_worker,
        train.gpus_per_worker,
        **_on_host_and_gpu(train.gpus_per_worker, held, on_their_way, process=_STUDENT_PROCESS_BYTES),
        detail=f"{workers}{parameters / 1e6:.1f} M parameters{what}, {shared}, {train.tokens:,} tokens of "
        f"{lessons.mixture}; "
        f"weights {naturalsize(state['weights'])} a worker, gradients {naturalsize(state['gradients'])}, optimiser "
        f"{naturalsize(optimiser)}, activations {naturalsize(activations)}",
        least=least,
        chunk=chunk,
    )


def _head_gradient(model: ModelConfig, decoder: dict[str, Any], vocabulary: int, width: int) -> int:
    """Bytes of what the fused loss adds the head's gradient up in, in float32, beside a chunk's part of it in numbers
    of `width` bytes; none where the head is not trained."""
    numbers = int(decoder.get("vocab_size") or vocabulary) * int(decoder.get("hidden_size") or 0)
    return 0 if model.lora is not None else numbers * (4 if width == 4 else 4 + width)


def _source_of(model: ModelConfig) -> tuple[Path | None, dict[str, Any] | None]:
    """The folder and the config.json that a student starts from; None for random weights."""
    folder = model_folder(model.source, model.revision, weights=False) if model.source else None
    return folder, read_model_config(folder) if folder else None


def student_parameters(model: ModelConfig, vocabulary: int) -> int:
    """Parameters of a student; 0 where its base is not downloaded yet."""
    return student_size(model, *_source_of(model), vocabulary) or 0


@dataclass(frozen=True)
class StudentShape:
    """Numbers of a student's weights."""

    body: int
    """Without embeddings and head."""
    head: int
    """Of its head: vocabulary x hidden size."""
    trained: int
    """Those that are trained: all, or adapters."""


def student_shape(model: ModelConfig, vocabulary: int) -> StudentShape | None:
    """The shape of a student; None where its base is not downloaded yet."""
    folder, base_config = _source_of(model)
    parameters = student_size(model, folder, base_config, vocabulary)
    if not parameters:
        return None
    decoder = decoder_of(model, base_config)
    head = int(decoder.get("vocab_size") or vocabulary) * int(decoder.get("hidden_size") or 0)
    tied = bool(decoder.get("tie_word_embeddings"))
    body = max(parameters - head * (1 if tied else 2), 0)
    return StudentShape(body, head, _trained(model, folder) if model.lora is not None else parameters)


def _trained(model: ModelConfig, folder: Path | None) -> int:
    """Numbers of a student's adapters; 0 where its base is not downloaded yet."""
    assert model.lora is not None
    if folder is None:
        return 0
    sizes = linear_layers(model, folder, read_model_config(folder))
    return model.lora.rank * sum(n for name, n in sizes.items() if not model.lora.targets or name in model.lora.targets)


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
    held = {"weights": model, "activations": layers, "logits": logits, "teacher_head": heads}
    return Part(
        "evaluator",
        "evaluator",
        settings.workers,
        settings.cpus,
        settings.gpus,
        **_on_host_and_gpu(settings.gpus, held, model, unit_bytes),
        detail=f"after training; against {', '.join(settings.baselines) or 'nothing'}; logits {naturalsize(logits)}, "
        f"teachers' heads {naturalsize(heads)}, a unit {naturalsize(unit_bytes)}, largest model {naturalsize(model)}",
        least=1,
    )


def student_layer(model: ModelConfig) -> int:
    """Numbers that a layer of a student works with of a token, about; 0 where its base is not downloaded yet."""
    decoder = decoder_of(model, _source_of(model)[1])
    return activation_bytes({**decoder, "num_hidden_layers": 1}, 1, 1, recomputed=0) if decoder else 0


def asked_layer(model_config: dict[str, Any]) -> int:
    """Numbers that a layer of a model works with of a token that it writes, about, and those of its keys and values in
    all layers."""
    text = text_settings(model_config)
    width = active_width(text) if expert_count(text) else int(text.get("intermediate_size") or 0)
    one = {**text, "num_hidden_layers": 1, "intermediate_size": width}
    return activation_bytes(one, 1, 1, recomputed=0) + kv_cache_bytes(text, 1, 1)
