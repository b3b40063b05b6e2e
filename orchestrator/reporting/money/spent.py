"""What a run took, in seconds of GPUs and CPUs and, where `cluster.prices` has prices, in dollars: by part, by
specialist with its share of the teacher, and beside as many separate runs.

A specialist's share of the teacher: specialists of one domain read its units in one order, so each reads the beginning
of it, up to its tokens. Every token is paid for by those that trained on it, in equal parts (the airport game of
Littlechild and Owen, 1973: its Shapley value). Held-out units are paid for by those that are measured on them. In a
run of its own a specialist pays all that it uses; what both ways cost alike (preparing, evaluation, export) is left
out, and so is loading the teacher more than once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.nodes.prices import Place, rate_of
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import Student, student_groups
from orchestrator.reporting.money.held import Held
from workers.splits import TRAIN

CONTROLS_OF = "."
"""Between a specialist's name and that of what is trained beside it."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What something took. Places are counted as long as they were held, busy or not."""

    gpu_s: float = 0.0
    """Seconds of one GPU."""
    cpu_s: float = 0.0
    """Seconds of one CPU."""
    dollars: float | None = None
    """None where a part of it has no price."""

    def __add__(self, other: Amount) -> Amount:
        both = None if self.dollars is None or other.dollars is None else self.dollars + other.dollars
        return Amount(gpu_s=self.gpu_s + other.gpu_s, cpu_s=self.cpu_s + other.cpu_s, dollars=both)

    def share(self, part: float) -> Amount:
        """A part of it."""
        dollars = None if self.dollars is None else self.dollars * part
        return Amount(gpu_s=self.gpu_s * part, cpu_s=self.cpu_s * part, dollars=dollars)


def nothing(config: RunConfig) -> Amount:
    """Zero, also in dollars where there are prices."""
    return Amount(dollars=None if config.cluster.prices is None else 0.0)


@dataclass(frozen=True, kw_only=True)
class SpecialistSpent:
    """What a specialist took."""

    training: Amount
    beside: Amount
    """Training of its controls and of its quantised sibling."""
    teacher: Amount
    """Its share of what teachers took."""
    teacher_share: float
    """The same as a part of it."""
    together: Amount
    """All of it."""
    alone: Amount
    """The same in a run of its own, where it pays for all that it uses of the teacher."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What all attempts at a run took, as far as what they told can be read."""

    total: Amount
    prepare: Amount
    capture: dict[str, Amount]
    """By teacher."""
    training: dict[str, Amount]
    """By student: specialists, controls, siblings, the generalist."""
    evaluate: Amount
    export: Amount
    specialists: dict[str, SpecialistSpent]
    """Empty where the log is of a version that did not note what units are about."""
    unused: Amount
    """Of the teachers' work, what no specialist has used (yet)."""
    separate: Amount
    """What specialists take in runs of their own, all together."""
    saved: float | None
    """1 less what specialists took together over that; None where it is not known."""
    saved_by: Literal["dollars", "gpu_s", "cpu_s"]
    """What that is a share of."""


def spent_of(held: Held, config: RunConfig) -> Spent:
    """What was held, priced by a configuration. A part that it does not have (any more) counts as one CPU."""
    held, students = held.so_far(), {s.name: s for group in student_groups(config) for s in group}
    priced, zero = _Priced(config), nothing(config)
    capture = {name: priced.teacher(name, seconds) for name, seconds in held.teachers.items()}
    training = {
        name: sum((priced.student(students.get(name), n, s) for n, s in by.items()), zero)
        for name, by in held.students.items()
    }
    evaluate = priced.amount(priced.evaluator, held.scoring * config.evaluate.workers)
    prepare = priced.amount(_ONE_CPU, held.stages.get("prepare", 0.0))
    export = priced.amount(priced.evaluator, held.stages.get("export", 0.0))  # one at a time, in places as those
    fan_out = _FanOut(config, held, capture)
    specialists = {n: _specialist(n, training, fan_out, zero) for n in config.specialists} if fan_out.known else {}
    together = sum((s.together for s in specialists.values()), zero)
    separate = sum((s.alone for s in specialists.values()), zero)
    saved, by = _saved(together, separate)
    return Spent(
        total=sum([prepare, evaluate, export, *capture.values(), *training.values()], zero),
        prepare=prepare,
        capture=capture,
        training=training,
        evaluate=evaluate,
        export=export,
        specialists=specialists,
        unused=fan_out.unused,
        separate=separate,
        saved=saved,
        saved_by=by,
    )


_ONE_CPU = Place(1.0, 0.0)


class _Priced:
    """What seconds of places are, by the settings of a run."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.evaluator = Place(config.evaluate.cpus, config.evaluate.gpus, labels=config.evaluate.label_selector)

    def amount(self, place: Place, seconds: float) -> Amount:
        """Of one place, held for so long."""
        gpu_s, cpu_s = place.gpus * seconds, place.cpus * seconds
        rate = rate_of(self._config.cluster, place)
        dollars = rate.dollars(gpu_s, cpu_s) if rate is not None else None if seconds else nothing(self._config).dollars
        return Amount(gpu_s=gpu_s, cpu_s=cpu_s, dollars=dollars)

    def teacher(self, name: str, seconds: float) -> Amount:
        """Of replicas, together held for so long."""
        if (teacher := self._config.teachers.get(name)) is None:
            return self.amount(_ONE_CPU, seconds)
        place = Place(*(teacher.cpus_per_rank, teacher.gpus_per_rank), teacher.accelerator_type, teacher.label_selector)
        return self.amount(place, seconds * teacher.ep_size)

    def student(self, student: Student | None, workers: int, seconds: float) -> Amount:
        """Of a student's workers; of the least of them where their number is not known."""
        if student is None:
            return self.amount(_ONE_CPU, seconds)
        train = student.config.train
        place = Place(train.cpus_per_worker, train.gpus_per_worker, labels=train.label_selector)
        return self.amount(place, seconds * (workers or train.workers[0]))


class _FanOut:
    """Which part of the teachers' work each specialist used."""

    def __init__(self, config: RunConfig, held: Held, capture: Mapping[str, Amount]) -> None:
        self.unused = zero = nothing(config)
        self.shares: dict[str, Amount] = dict.fromkeys(config.specialists, zero)
        self.alone: dict[str, Amount] = dict.fromkeys(config.specialists, zero)
        self.all = sum(capture.values(), zero)
        self.known = bool(held.busy) or not capture
        busy: dict[str, float] = {}
        for which, seconds in held.busy.items():
            busy[which.teacher] = busy.get(which.teacher, 0.0) + seconds
        for which, seconds in held.busy.items():
            if not busy[which.teacher] or which.teacher not in capture:
                continue
            cost = capture[which.teacher].share(seconds / busy[which.teacher])
            used = _used(config, held, which.domain, held.targets[which], train=which.split == TRAIN)
            for name, part in split_among(used).items():
                self.shares[name] += cost.share(part)
                self.alone[name] += cost.share(used[name])
            self.unused += cost.share(1 - max(used.values(), default=0.0))


def _used(config: RunConfig, held: Held, domain: str, targets: float, *, train: bool) -> dict[str, float]:
    """By specialist whose mix has a domain, the part of its tokens that it trained on; of others than training units
    all."""
    mixes = {name: config.mix_of(name).get(domain, 0.0) for name in config.specialists}
    if not train:
        return {name: 1.0 for name, share in mixes.items() if share}
    tokens = {name: share * held.tokens.get(name, 0) for name, share in mixes.items() if share}
    return {name: min(own / targets, 1.0) if targets else 0.0 for name, own in tokens.items()}


def split_among(used: Mapping[str, float]) -> dict[str, float]:
    """Shares of a thing, of which each uses the beginning up to a part 0 to 1: every bit of it is shared out equally
    among those that use it. They add up to the largest part."""
    shares, paid, each = {}, 0.0, 0.0
    order = sorted(used, key=lambda name: used[name])
    for i, name in enumerate(order):
        each += (used[name] - paid) / (len(order) - i)
        paid, shares[name] = used[name], each
    return shares


def _specialist(name: str, training: Mapping[str, Amount], fan_out: _FanOut, zero: Amount) -> SpecialistSpent:
    own = training.get(name, zero)
    beside = sum((a for n, a in training.items() if n.startswith(name + CONTROLS_OF)), zero)
    teacher, whole = fan_out.shares[name], fan_out.all
    measured, of = (teacher.gpu_s, whole.gpu_s) if whole.gpu_s else (teacher.cpu_s, whole.cpu_s)
    return SpecialistSpent(
        training=own,
        beside=beside,
        teacher=teacher,
        teacher_share=measured / of if of else 0.0,
        together=own + beside + teacher,
        alone=own + beside + fan_out.alone[name],
    )


def _saved(together: Amount, separate: Amount) -> tuple[float | None, Literal["dollars", "gpu_s", "cpu_s"]]:
    """What fan-out saved, by dollars, or else by GPUs, or else by CPUs."""
    if together.dollars is not None and separate.dollars:
        return 1 - together.dollars / separate.dollars, "dollars"
    if separate.gpu_s:
        return 1 - together.gpu_s / separate.gpu_s, "gpu_s"
    return (1 - together.cpu_s / separate.cpu_s, "cpu_s") if separate.cpu_s else (None, "cpu_s")
