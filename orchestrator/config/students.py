"""Which students a run trains, and one after which.

A specialist and then its controls, in the same workers: a control differs in nothing but its loss, its texts and where
it ends, and loading torch and DeepSpeed once more costs seconds. Last its quantised sibling, which goes on from its
trained weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.config.schema import RunConfig
from workers.layout import AT_CONTROL_TOKENS, StudentLayout
from workers.quantise.config import QuantiseConfig, QuantisedConfig
from workers.student.config import LossConfig, SpecialistConfig, TrainConfig

INITIAL, HARD_LABELS, GENERALIST, SINGLE_EXPERT = "initial", "hard_labels", "generalist", "single_expert"
GIVEN_ANSWERS, TEACHER_4BIT = "given_answers", "teacher_4bit"
"""What specialists are measured against (`evaluate.baselines`)."""
CONTROLS = (HARD_LABELS, GIVEN_ANSWERS)
"""Of these, students that are trained beside each specialist, for as many tokens as one another."""
QUANTISED, PTQ = "quantised", "ptq"
"""A specialist's sibling that was trained on a lattice, and the specialist with its weights put on that lattice without
training (post-training quantisation)."""
TEACHER, UNIGRAM = "teacher", "unigram"
"""What else has scores: the teacher on the probes; and, where the truth is known, how often each token occurs."""


def compared_with_control(config: RunConfig, specialist: str) -> str:
    """The model that a specialist's controls are compared with: itself, after as many tokens."""
    return f"{specialist}.{AT_CONTROL_TOKENS}" if config.control_is_short(specialist) else specialist


def measured_domains(config: RunConfig, asked: Collection[str]) -> dict[str, list[str]]:
    """By specialist those of some domains that its mix has; by model that was not trained here all of them."""
    found = {n: [d for d in asked if config.mix_of(n).get(d, 0) > 0] for n in config.specialists}
    return found | {name: list(asked) for name in config.evaluate.models}


def harness_teachers(config: RunConfig) -> dict[str, list[str]]:
    """Teachers that specialists, and models that were not trained here, are held against on tasks that have no domain:
    of a specialist the one of its own domain, else the first. None where no such tasks are asked."""
    if config.evaluate.harness is None:
        return {}
    found: dict[str, list[str]] = {}
    for name in (*config.specialists, *config.evaluate.models):
        own = name in config.specialists
        found.setdefault(config.teacher_of(config.own_domain(name)) if own else config.first_teacher(), []).append(name)
    return found


def milestone_name(student: str, tokens: int) -> str:
    """What a student after so many target tokens is called among models that are scored."""
    return f"{student}.{StudentLayout.milestone(tokens)}"


def split_milestone(model: str) -> tuple[str, int] | None:
    """The inverse of `milestone_name`; None for another model's name."""
    student, _, kept = model.rpartition(".")
    tokens = kept.removeprefix("after-")
    return (student, int(tokens)) if kept != tokens and tokens.isdigit() else None


_QUANTISED_LR, _QUANTISED_TOKENS, _QUANTISED_STEPS, _QUANTISED_MOST = 0.5, 0.1, 100, 4
"""Of a quantised sibling, where its settings leave that open: its peak rate and tokens as parts of the specialist's,
its least number of steps, and how many times the specialist's tokens they may take. SmolLM2-135M loses a fifth of what
rounding costs it so; with a fifth of the rate, or a tenth of the tokens of so short a training, half of it."""


@dataclass(frozen=True)
class Student:
    """A model to train: a specialist, or a control beside it."""

    name: str
    config: SpecialistConfig
    mix: dict[str, float]
    control_of: str | None = None
    quantised_of: str | None = None
    """The specialist whose trained weights it goes on from."""
    end_tokens: int | None = None
    """Target tokens at which a control ends, on the schedule of its specialist's whole budget. None: at that budget."""
    snapshot_tokens: int | None = None
    """Target tokens at which a specialist keeps its weights, for they are what its control is compared with. None: its
    final ones are."""
    given_only: bool = False
    """Whether it learns from nothing but texts whose answers were given."""
    milestones: tuple[int, ...] = ()
    """Target tokens at which it keeps its weights, for the floor that they tend to (`evaluate.floor`)."""


def student_groups(config: RunConfig) -> list[list[Student]]:
    """Who trains after whom: each list is one trainer's, a specialist and then its controls."""
    groups = []
    for name, specialist in config.specialists.items():
        tokens = config.control_tokens_of(name) if config.control_is_short(name) else None
        # Whatever is measured now: `baselines` may change, and a control that is added later needs them.
        milestones = milestones_of(config, specialist)
        group = [Student(name, specialist, config.mix_of(name), snapshot_tokens=tokens, milestones=milestones)]
        group += [_control(group[0], kind) for kind in controls_of(config, name)]
        group += [_quantised(group[0], specialist.quantised)] if specialist.quantised is not None else []
        groups.append(group)
    if config.specialists and GENERALIST in config.evaluate.baselines:
        first = next(iter(config.specialists.values()))
        domains = sorted({d for n in config.specialists for d in config.mix_of(n)})
        mix = {d: 1 / len(domains) for d in domains}
        groups.append([Student(GENERALIST, first, mix, milestones=milestones_of(config, first))])
    return groups


def controls_of(config: RunConfig, specialist: str) -> list[str]:
    """The controls that are trained beside a specialist; one that learns from labels itself is its own."""
    own = config.specialists[specialist].loss
    itself = {HARD_LABELS} if own == _of_labels(own) else set()
    return [kind for kind in CONTROLS if kind in config.evaluate.baselines and kind not in itself]


def _of_labels(loss: LossConfig) -> LossConfig:
    """Cross-entropy that weighs as much as both parts of a loss."""
    return LossConfig(kl=0.0, ce=loss.kl + loss.ce)


def milestones_of(config: RunConfig, student: SpecialistConfig) -> tuple[int, ...]:
    """Target tokens at which a student keeps its weights: evenly apart in their logarithm, the last where the rate
    begins to fall, for a model at a falling rate is on another curve than one before."""
    floor, train = config.evaluate.floor, student.train
    if floor is None:
        return ()
    last = train.tokens * (1 - train.decay) if train.schedule == "wsd" else train.tokens
    first = floor.first * train.tokens
    if train.quantise is not None and train.quantise.start:
        first = max(first, train.quantise.start * train.tokens)  # models before are on another curve likewise
        if first > last:
            return ()
    steps = max(floor.points - 1, 1)
    return tuple(sorted({round(first * (last / first) ** (i / steps)) for i in range(floor.points)}))


def _control(of: Student, kind: str) -> Student:
    """The same student with cross-entropy: on the same tokens, or on given answers alone."""
    control, end = of.config.model_copy(update={"loss": _of_labels(of.config.loss)}), of.snapshot_tokens
    if end is not None:  # beside weights of one moment; a best checkpoint would be of another
        control = control.model_copy(update={"train": control.train.model_copy(update={"keep": "last"})})
    given = kind == GIVEN_ANSWERS
    return Student(f"{of.name}.{kind}", control, of.mix, control_of=of.name, end_tokens=end, given_only=given)


def _quantised(of: Student, settings: QuantisedConfig) -> Student:
    """The same student trained on from its trained weights, on a lattice, with its loss as that ended."""
    loss = of.config.loss
    kl = loss.kl if loss.kl_end is None else loss.kl_end
    ce = loss.ce if loss.ce_end is None else loss.ce_end
    if loss.weighting == "constant" or (kl and ce):  # else one part would be left to share positions out to
        loss = loss.model_copy(update={"kl": kl, "ce": ce, "kl_end": None, "ce_end": None})
    model = of.config.model.model_copy(update={"lora": None})  # its adapters are in the weights that it goes on from
    train = quantised_train(of.config.train, settings)
    changed = {"train": train, "loss": loss, "model": model, "quantised": None}
    return Student(f"{of.name}.{QUANTISED}", of.config.model_copy(update=changed), of.mix, quantised_of=of.name)


def quantised_train(train: TrainConfig, settings: QuantisedConfig) -> TrainConfig:
    """How the quantised sibling of a specialist that is trained as `train` says is trained."""
    own, batch = settings.train, settings.train.batch_tokens or train.batch_tokens
    match own.tokens:
        case None:
            steps = min(_QUANTISED_STEPS * batch, _QUANTISED_MOST * train.tokens)
            tokens = max(round(_QUANTISED_TOKENS * train.tokens), steps)
        case float():
            tokens = max(1, round(own.tokens * train.tokens))
        case _:
            tokens = own.tokens
    return train.model_copy(
        update={
            "tokens": tokens,
            "lr": train.lr * _QUANTISED_LR if own.lr is None else own.lr,
            "batch_tokens": own.batch_tokens or max(1, min(batch, tokens // _QUANTISED_STEPS)),
            "schedule": own.schedule,
            "warmup": own.warmup,
            "quantise": QuantiseConfig(**settings.rounding().model_dump()),
        }
    )


def starts_from(student: Student) -> StudentLayout:
    """Of whose weights a student's are made: a control's of its specialist's initial ones, a quantised sibling's of its
    trained ones."""
    return StudentLayout(student.control_of or student.quantised_of or student.name)


def initial_key(student: Student) -> str:
    """The folder of the weights that a student starts from."""
    return starts_from(student).initial if student.quantised_of is None else starts_from(student).final
