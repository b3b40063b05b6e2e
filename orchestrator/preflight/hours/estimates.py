"""How long each part of a run takes on nodes of a kind, by the roofline; or why that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Protocol

from cluster.nodes.kinds import NodeKind
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, INITIAL, SINGLE_EXPERT, TEACHER_4BIT, Student, controls_of
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.hours.roofline import Bound, Gpu, Mixture, Ranks, Took, Trained, decode_step, prefill
from orchestrator.preflight.hours.roofline import scoring as scoring_time
from orchestrator.preflight.hours.roofline import training as training_time
from orchestrator.preflight.hours.workload import Text, Workload
from orchestrator.preflight.parts import student_shape
from orchestrator.preflight.planning.prices import single_expert_parameters
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.runs.exact_scheme import hidden_size
from workers.model_files import active_experts, expert_count, read_model_config, text_settings
from workers.model_sizes import DTYPE_BYTES, ModelSize, model_size
from workers.student.config import ModelConfig
from workers.teacher.engines.families import kv_cache_bytes

ROOFLINE = "roofline"


@dataclass(frozen=True)
class Estimate:
    """Seconds of a part's work on one place, or why they are not known."""

    seconds: float | None = None
    bound: Bound | None = None
    source: str | None = None
    steps: dict[str, float] = field(default_factory=dict)
    """What it does one after another, in seconds; of a student first itself, then what its workers train beside it."""
    start: float = 0.0
    """Seconds before its work begins, which more places do not shorten."""
    why: str = ""

    @staticmethod
    def of(steps: dict[str, Took], bound: Took | None = None) -> Estimate:
        """What steps take one after another."""
        took = reduce(add, steps.values())
        each = {name: step.seconds for name, step in steps.items()}
        return Estimate(took.seconds, (bound or took).bound, ROOFLINE, each)


class Estimates(Protocol):
    """Who knows how long parts take; of a kind of node that is None, the kind is not known."""

    def replica(self, teacher: str, kind: NodeKind | None) -> Estimate:
        """One replica of a teacher does all of that teacher's work."""
        ...

    def students(self, group: list[Student], kind: NodeKind | None) -> Estimate:
        """The least workers of a specialist train it, and then what is trained beside it."""
        ...

    def evaluation(self, kind: NodeKind | None) -> Estimate:
        """One process scores all models."""
        ...


class Roofline:
    """Estimates by what GPUs can do at most, and the part of it that is taken to be reached."""

    def __init__(self, plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
        self._plan, self._config, self._found, self._vocabulary = plan, config, found, vocabulary
        self._efficiency = config.cluster.efficiency

    @property
    def _workload(self) -> Workload:
        return self._plan.workload

    def replica(self, teacher: str, kind: NodeKind | None) -> Estimate:
        settings, folder = self._config.teachers[teacher], self._found.teacher_folders[teacher]
        vllm = settings.engine == "vllm"
        gpu = _gpu(kind, settings.gpus_per_rank, settings.precision, whole=vllm)
        if isinstance(gpu, str):
            return Estimate(why=gpu)
        if (size := model_size(folder)) is None:
            return Estimate(why=f"weights of {settings.model!r} are not downloaded")
        model, width = read_model_config(folder), DTYPE_BYTES[settings.precision]
        text = text_settings(model)
        mixture = Mixture(
            dense=size.dense,
            experts=size.experts,
            count=expert_count(model) if size.experts else 0,
            active=active_experts(model),
            layers=int(text.get("num_hidden_layers") or 0),
            cache_bytes=kv_cache_bytes(text, 1, width),
            width=width,
        )
        layer_s = 0.0 if vllm else self._efficiency.layer_ms / 1000
        ranks = Ranks(settings.ep_size, gpu, settings.dispatch == "all_reduce", layer_s)
        work = self._workload.teachers[teacher]
        slots = self._plan.slots.get(teacher)
        texts = max(min(slots.in_use if slots is not None else settings.replica_slots, work.texts), 1.0)
        context = work.context / work.written if work.written else 0.0
        step = decode_step(mixture, ranks, texts, context, self._efficiency)
        read = prefill(mixture, ranks, work.read, self._efficiency)
        return Estimate.of({"reading": read, "writing": step.times(work.written / texts)})

    def students(self, group: list[Student], kind: NodeKind | None) -> Estimate:
        train = group[0].config.train
        precision = "float32" if train.dtype == "float32" else "bfloat16"
        gpu = _gpu(kind, train.gpus_per_worker, precision)
        if isinstance(gpu, str):
            return Estimate(why=gpu)
        steps = {}
        for student in group:
            if (shape := self._trained(student)) is None:
                return Estimate(why=f"weights of {student.config.model.source!r} are not downloaded")
            targets = student_tokens(student)
            tokens = targets * tokens_of_target(self._workload, student.mix)
            steps[student.name] = training_time(shape, gpu, targets, tokens, self._efficiency)
        return Estimate.of(steps, next(iter(steps.values())))

    def _trained(self, student: Student) -> Trained | None:
        """The shape of a student; None where that is not known."""
        train, model = student.config.train, student.config.model
        if (shape := student_shape(model, self._vocabulary)) is None:
            return None
        least, width = train.workers[0], 2
        head = 0
        if self._config.targets.scheme == "hidden" and student.config.loss.soft:
            of = {name for d in student.mix for name in self._plan.teachers.get(d, ())}
            head = max((self._head(name) for name in of), default=0)
        return Trained(
            body=shape.body,
            head=shape.head,
            trained=shape.trained,
            width=width,
            recomputed=train.gradient_checkpointing,
            adapters=model.lora is not None,
            teacher_head=head,
            workers=least,
            shares_state=train.zero_stage(least, "bfloat16") > 0,
            batch_tokens=train.batch_tokens,
            micro_tokens=train.micro_tokens,
        )

    def evaluation(self, kind: NodeKind | None) -> Estimate:
        settings = self._config.evaluate
        gpu = _gpu(kind, settings.gpus, "bfloat16")
        if isinstance(gpu, str):
            return Estimate(why=gpu)
        took = Took(0.0, "compute")
        heads = max(map(self._head, self._config.teachers)) if self._plan.heldout_scheme == "hidden" else 0
        for weights, domains in self._scored():
            if not weights:
                return Estimate(why="weights of a model that is scored are not downloaded")
            tokens = sum(self._workload.heldout.get(d, Text()).tokens for d in domains)
            took += scoring_time(weights + heads, 2, tokens, settings.batch_tokens, gpu, self._efficiency)
        return Estimate.of({"scoring": took})

    def _scored(self) -> Iterable[tuple[float, list[str]]]:
        """Weights that a token of each model that is scored meets, and the held-out domains that it is scored on."""
        config, everywhere = self._config, list(self._plan.prompts)
        baselines, first = config.evaluate.baselines, config.first_teacher()
        floor = config.evaluate.floor.points if config.evaluate.floor is not None else 0
        for name, specialist in config.specialists.items():
            shape, own = student_shape(specialist.model, self._vocabulary), [config.own_domain(name)]
            weights = shape.body + shape.head if shape is not None else 0
            controls = len(controls_of(config, name))
            beside = controls + (controls > 0 and config.control_is_short(name)) + floor
            beside += (INITIAL in baselines) + 2 * (specialist.quantised is not None)
            yield weights, everywhere
            yield from ((weights, own) for _ in range(beside))
            if GENERALIST in baselines and name == next(iter(config.specialists)):
                yield weights, everywhere
        folder = self._found.teacher_folders[first]
        if SINGLE_EXPERT in baselines:
            yield single_expert_parameters(folder), everywhere
        if TEACHER_4BIT in baselines:
            active = (model_size(folder) or ModelSize(0)).active(read_model_config(folder))
            yield active, [d for d in everywhere if config.teacher_of(d) == first]
        for measured in config.evaluate.models.values():
            further = ModelConfig(base=measured.model, revision=measured.revision)
            shape = student_shape(further, self._vocabulary)
            yield shape.body + shape.head if shape is not None else 0, everywhere

    def _head(self, teacher: str) -> int:
        """Weights of a teacher's head."""
        return hidden_size(read_model_config(self._found.teacher_folders[teacher])) * self._vocabulary


def student_tokens(student: Student) -> int:
    """Target tokens that a student trains on."""
    return student.end_tokens or student.config.train.tokens


def tokens_of_target(workload: Workload, mix: dict[str, float]) -> float:
    """Tokens of texts for each of their target tokens, in a mixture of domains."""
    known = {d: workload.train[d] for d in mix if d in workload.train and workload.train[d].targets}
    whole = sum(mix[d] for d in known)
    return sum(mix[d] * text.tokens / text.targets for d, text in known.items()) / whole if whole else 1.0


def _gpu(kind: NodeKind | None, gpus: float, precision: str, *, whole: bool = False) -> Gpu | str:
    """The GPU of a process; `whole`: all of its GPUs as one. Or why its figures are not known."""
    if not gpus:
        return "how fast CPUs compute is not known"
    if kind is None:
        return "which GPUs there are is not known (--nodes names them)"
    lacking = [key for key in ("bf16_tflops", "memory_bandwidth") if getattr(kind, key) is None]
    if kind.bf16_tflops is None or kind.memory_bandwidth is None:
        return f"cluster.node_kinds.{kind.name} says no {' and no '.join(lacking)}"
    if precision == "float32":
        return "it computes in float32, and what GPUs can do is known for 16 bits"
    return Gpu(kind.bf16_tflops * 1e12, kind.memory_bandwidth).part(gpus if whole else min(gpus, 1.0))
