"""Changes of settings that make a process smaller, each with what its part becomes by it: what is proposed fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.preflight.parts import Part
from orchestrator.preflight.planning.placing import TOGETHER
from orchestrator.preflight.planning.seats import Change
from workers.evaluation.config import EvaluateConfig
from workers.student.config import LoraConfig, SpecialistConfig
from workers.teacher.config import TeacherConfig

_FEWEST_TOKENS, _FEW_TOKENS = 512, 2048
"""Of a batch that is proposed: at least, and together with other changes."""


def smaller_students(specialist: SpecialistConfig, make: Callable[[SpecialistConfig], Part]) -> Iterator[Change]:
    """Less memory of a worker: activations recomputed, fewer tokens at once, shorter texts, more of its state shared
    out, adapters alone."""
    train, least = specialist.train, specialist.train.workers[0]

    def changed(**settings: object) -> Part:
        return make(specialist.model_copy(update={"train": train.model_copy(update=settings)}))

    now, uncompiled = make(specialist), ", compile: false" if train.compile else ""
    for tenths in range(1, 11):
        if (share := tenths / 10) > train.gradient_checkpointing:
            yield f"gradient_checkpointing: {share:.0%}", changed(gradient_checkpointing=share)
    yield from _halved("micro_tokens", train.micro_tokens, lambda n: changed(micro_tokens=n), now)
    yield from _halved("texts.max_tokens", 2 * train.micro_tokens, lambda n: make(_in_pieces(specialist, n)), now)
    for workers in (least, 2 * least, 4 * least, 8 * least):
        if train.zero != 3 or workers > least:
            part = changed(zero=3, workers=(workers, max(workers, train.workers[1])))
            yield f"zero: 3 over workers: {workers}{uncompiled}", part
    if specialist.model.lora is None and specialist.model.source is not None:
        yield "adapters alone (model.lora)", make(specialist.model_copy(update={"model": _with_lora(specialist)}))
    few = min(_FEW_TOKENS, train.micro_tokens)
    for workers in (least, 2 * least, 4 * least, 8 * least):
        most = max(workers, train.workers[1])
        part = changed(gradient_checkpointing=1.0, micro_tokens=few, zero=3, workers=(workers, most))
        settings = f"gradient_checkpointing: true, micro_tokens: {few}, zero: 3, workers: {workers}{uncompiled}"
        yield f"{TOGETHER}: {settings}", part


def _in_pieces(specialist: SpecialistConfig, tokens: int) -> SpecialistConfig:
    """With texts of so many tokens at most."""
    most = min(tokens, specialist.texts.max_tokens or tokens)
    return specialist.model_copy(update={"texts": specialist.texts.model_copy(update={"max_tokens": most})})


def _with_lora(specialist: SpecialistConfig) -> object:
    return specialist.model.model_copy(update={"lora": LoraConfig()})


def smaller_teachers(teacher: TeacherConfig, experts: int, make: Callable[[TeacherConfig], Part]) -> Iterator[Change]:
    """Less memory of a rank: fewer texts at once, fewer experts."""

    def changed(**settings: object) -> Part:
        return make(teacher.model_copy(update=settings))

    now = make(teacher)
    yield from _halved("batch", teacher.slots, lambda n: changed(batch=n), now, fewest=1)
    if teacher.engine == "transformers":
        for ranks in (teacher.ep_size * 2**k for k in range(1, 7)):
            if experts and experts % ranks == 0:
                yield f"ep_size: {ranks}", changed(ep_size=ranks)
    engine = "engine: vllm with " if teacher.engine == "transformers" else ""
    for gpus in (2, 4, 8) if teacher.gpus_per_rank else ():
        if engine or gpus > teacher.gpus_per_rank:
            vllm = teacher.vllm.model_copy(update={"tensor_parallel": gpus})
            part = changed(engine="vllm", gpus_per_rank=gpus, ep_size=1, vllm=vllm)
            yield f"{engine}gpus_per_rank and vllm.tensor_parallel: {gpus}", part


def smaller_evaluators(settings: EvaluateConfig, make: Callable[[EvaluateConfig], Part]) -> Iterator[Change]:
    """Less memory of the evaluator: fewer tokens at once, or nothing for which it loads the teacher."""
    now = make(settings)

    def changed(tokens: int) -> Part:
        return make(settings.model_copy(update={"batch_tokens": tokens}))

    yield from _halved("batch_tokens", settings.batch_tokens, changed, now)
    if settings.loads_teacher:
        cost = settings.cost.model_copy(update={"teacher": False})
        baselines = [b for b in settings.baselines if b != "teacher_4bit"]
        nothing = dict.fromkeys(("harness", "gate", "bridges", "own_text"))
        without: dict[str, Any] = {"tasks": {}, "cost": cost, "baselines": baselines, **nothing}
        there = {
            "tasks: {}": settings.tasks,
            "harness: null": settings.harness,
            "bridges: null": settings.bridges,
            "own_text: null": settings.own_text,
            "cost.teacher: false": settings.cost.teacher,
            "no teacher_4bit in baselines": len(baselines) < len(settings.baselines),
        }
        yield ", ".join(name for name, value in there.items() if value), make(settings.model_copy(update=without))


def _halved(
    key: str, value: int, make: Callable[[int], Part], now: Part, *, fewest: int = _FEWEST_TOKENS
) -> Iterator[Change]:
    """A number halved, and halved again, where that makes the part smaller."""
    while value // 2 >= fewest:
        value //= 2
        part = make(value)
        if part.gpu_memory < now.gpu_memory:
            yield f"{key}: {value}", part
