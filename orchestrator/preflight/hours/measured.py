"""How long parts take by what an earlier run measured. Nothing is scaled but by how many tokens, replicas and workers
there are; rates of other models, or of other hardware, are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from cluster.nodes.kinds import NodeKind
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import Student
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.hours.estimates import Estimate, student_tokens
from orchestrator.preflight.parts import student_parameters
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.runs.rates import RunRates
from workers.model_sizes import model_size
from workers.student.config import ModelConfig, SpecialistConfig
from workers.teacher.config import TeacherConfig

_ALIKE = 0.05
"""Part by which parameters may differ that are counted otherwise (norms are left out of some)."""

_OF_TEACHER = ("engine", "ep_size", "dispatch", "gpus_per_rank", "dtype")
_OF_STUDENT = ("gpus_per_worker", "dtype", "gradient_checkpointing")
"""Settings without which a rate is of something else."""

_NOTED = ("batch_tokens", "micro_tokens", "packing", "compile", "zero", "threads_per_worker", "cpus_per_worker")
"""Settings of training that change its pace somewhat."""

_REMEDY = "rates of other models are not used; name a run of these ones, or leave --rates out"


class Measured:
    """Estimates by the rates of a run."""

    def __init__(self, rates: RunRates, plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
        """Raises ValueError, naming the difference, where the run was one of other models."""
        self._rates, self._plan, self._config = rates, plan, config
        self._source = f"measured in {rates.run} on {rates.on}"
        self._teachers = {name: self._teacher_of(name, found) for name in config.teachers if name in plan.slots}
        self._students = {name: self._student_of(name, vocabulary) for name in config.specialists}
        self.share = self._share()
        """Of the target tokens that the plan counts at most, how many there were in that run."""

    def replica(self, teacher: str, kind: NodeKind | None) -> Estimate:
        if (theirs := self._teachers.get(teacher)) is None:
            return Estimate(why=f"{self._rates.run} made nothing with it")
        tokens = self._plan.workload.teachers[teacher].targets * self.share
        seconds = tokens / self._rates.teachers[theirs]
        start = self._rates.starts.get(theirs, 0.0)
        return Estimate(seconds, None, self._source, {"start": start, "capture": seconds}, start)

    def students(self, group: list[Student], kind: NodeKind | None) -> Estimate:
        own = self._students.get(group[0].name) or next(iter(self._students.values()))
        steps = {}
        for student in group:
            same = f"{own}{student.name.removeprefix(group[0].name)}"
            rate = self._rates.students.get(same) or self._rates.students[own]
            steps[student.name] = student_tokens(student) / rate / student.config.train.workers[0]
        return Estimate(sum(steps.values()), None, self._source, steps)

    def evaluation(self, kind: NodeKind | None) -> Estimate:
        theirs, own = self._rates.config.evaluate.gpus, self._config.evaluate.gpus
        if bool(theirs) != bool(own):
            return Estimate(why=f"evaluate.gpus was {theirs:g} in {self._rates.run}, and is {own:g} here")
        if not (seconds := self._rates.evaluate_s):
            return Estimate(why=f"{self._rates.run} tells nothing of its evaluation")
        return Estimate(seconds, None, self._source, {"scoring": seconds})

    def notes(self) -> list[str]:
        """What its rates do not tell."""
        rates, notes = self._rates, []
        if self.share < 1:
            notes.append(
                f"hours: training texts of {rates.run} had {rates.text_targets:.3g} target tokens on average; of those "
                f"that are counted here at most, {self.share:.0%} are taken"
            )
        notes.append(
            f"hours: evaluation and export take as long as in {rates.run}, whatever there is to score; its hardware "
            "is not compared with what is planned for"
        )
        for name, theirs in self._students.items():
            other = self._rates.config.specialists[theirs].train
            own = self._config.specialists[name].train
            changed = [
                f"{key} {getattr(other, key)} there, {getattr(own, key)} here"
                for key in _NOTED
                if getattr(other, key) != getattr(own, key)
            ]
            if changed:
                notes.append(f"hours: specialists.{name} is reckoned with the pace of {theirs}; {'; '.join(changed)}")
        return notes

    def _share(self) -> float:
        """1 where answers are asked otherwise: then only `at most` is known."""
        asked = {name: t.sampling for name, t in self._config.teachers.items()}
        alike = asked == {name: t.sampling for name, t in self._rates.config.teachers.items()}
        alike &= self._config.targets.positions == self._rates.config.targets.positions
        texts, mean = self._plan.workload.train_texts, self._rates.text_targets
        if not alike or not texts or not mean or not self._plan.train_tokens:
            return 1.0
        return min(mean * texts / self._plan.train_tokens, 1.0)

    def _teacher_of(self, name: str, found: Checked) -> str:
        """The teacher of the run whose rate is this one's."""
        own, size = self._config.teachers[name], model_size(found.teacher_folders[name])
        parameters, whys = None if size is None else size.parameters, []
        for theirs, other in self._rates.config.teachers.items():
            if theirs not in self._rates.teachers:
                whys.append(f"{theirs} made no units there")
                continue
            known = self._rates.parameters.get("teacher") if theirs == next(iter(self._rates.config.teachers)) else None
            if not (differs := list(_teachers_differ(other, own, known, parameters))):
                return theirs
            whys.append(f"{theirs}: {', '.join(differs)}")
        raise ValueError(self._refusal(self._config.teacher_key(name), "teacher", whys))

    def _student_of(self, name: str, vocabulary: int) -> str:
        """The specialist of the run whose rate is this one's: of the same name first."""
        own, theirs = self._config.specialists[name], self._rates.config.specialists
        parameters, whys = student_parameters(own.model, vocabulary), []
        for other in sorted(theirs, key=lambda n: n != name):
            if other not in self._rates.students:
                whys.append(f"{other} was not trained to its end there")
                continue
            known = self._rates.parameters.get(other)
            if not (differs := list(_students_differ(theirs[other], own, known, parameters))):
                return other
            whys.append(f"{other}: {', '.join(differs)}")
        raise ValueError(self._refusal(f"specialists.{name}", "student", whys))

    def _refusal(self, key: str, kind: str, whys: list[str]) -> str:
        there = "; ".join(whys[:_SHOWN]) or "there is none"
        return f"--rates: {self._rates.uri} had no {kind} as {key} is ({there}): {_REMEDY}"


_SHOWN = 4
"""Models of a run that a refusal names."""


def _teachers_differ(there: TeacherConfig, here: TeacherConfig, known: int | None, own: int | None) -> Iterator[str]:
    if _last(there.model) != _last(here.model):
        yield f"model {_last(there.model)} there, {_last(here.model)} here"
    yield from _sizes_differ(known, own)
    for key in _OF_TEACHER:
        if getattr(there, key) != getattr(here, key):
            yield f"{key} {getattr(there, key)} there, {getattr(here, key)} here"


def _students_differ(
    there: SpecialistConfig, here: SpecialistConfig, known: int | None, own: int | None
) -> Iterator[str]:
    theirs, ours = _flat(there.model), _flat(here.model)
    for key in dict.fromkeys([*theirs, *ours]):
        if theirs.get(key) != ours.get(key):
            yield f"model.{key} {theirs.get(key)} there, {ours.get(key)} here"
    yield from _sizes_differ(known, own)
    for key in _OF_STUDENT:
        if getattr(there.train, key) != getattr(here.train, key):
            yield f"train.{key} {getattr(there.train, key)} there, {getattr(here.train, key)} here"


def _sizes_differ(there: int | None, here: int | None) -> Iterator[str]:
    if there and here and abs(there - here) > _ALIKE * max(there, here):
        yield f"{there:,} parameters there, {here:,} here"


def _flat(model: ModelConfig) -> dict[str, Any]:
    """What a model is made of, and of its folders their names: the same models lie elsewhere on another machine."""
    found = model.model_dump(mode="json", exclude={"revision"})
    found |= {key: _last(found[key]) for key in ("base", "merge_experts") if found[key] is not None}
    sizes = found.pop("config") or {}
    return {key: value for key, value in found.items() if value is not None} | {
        f"config.{key}": value for key, value in sizes.items()
    }


def _last(model: str) -> str:
    """The last part of a model's name or folder."""
    return PurePosixPath(model).name
