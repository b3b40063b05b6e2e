"""Several runs side by side, as after changing one setting: the same measures, and differences where they are of the
same text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.reporting.report import Report
from orchestrator.reporting.scores import Difference, Interval, Score
from workers.evaluation.metrics.capacity import floor_difference_of_seeds
from workers.evaluation.metrics.domain_scores import DomainScores, paired_differences


@dataclass(frozen=True)
class ComparedRun:
    """What a run is compared by."""

    name: str
    report: Report
    scores: Mapping[str, DomainScores]
    """Of specialists on their own domains."""
    heldout: Sequence[str]
    """Digests of its held-out text, unit by unit."""


@dataclass(frozen=True, kw_only=True)
class SpecialistBeside:
    """One specialist of one run."""

    run: str
    name: str
    domain: str
    tokens: int
    heldout: Score | None
    retention: Interval | None
    """Of its own domain's tasks."""
    difference: Difference | None
    """To the same specialist of the first run, on the same text; None where the texts are others."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The specialists of several runs, and what runs of several seeds say together."""

    specialists: tuple[SpecialistBeside, ...]
    same_text: bool
    """Whether all runs have the same held-out text."""
    floors: dict[str, str]
    """By specialist, whether its floor is lower than a generalist's over the seeds, in a sentence."""


def side_by_side(runs: Sequence[ComparedRun], resamples: int) -> SideBySide:
    """Runs beside the first of them. Raises ValueError where there are not two, or one is there twice."""
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(f"report: two different runs at least can be compared, and there are {', '.join(names)}")
    first, found = runs[0], []
    for name in dict.fromkeys(n for run in runs for n in run.report.students):
        for run in runs:
            if (student := run.report.students.get(name)) is None:
                continue
            task = student.tasks.get(student.domain)
            found.append(
                SpecialistBeside(
                    run=run.name,
                    name=name,
                    domain=student.domain,
                    tokens=student.tokens,
                    heldout=student.heldout,
                    retention=task.specialist.retention if task is not None else None,
                    difference=_difference(first, run, name, resamples),
                )
            )
    same = all(list(run.heldout) == list(first.heldout) for run in runs)
    return SideBySide(specialists=tuple(found), same_text=same, floors=_floors(runs))


def _difference(first: ComparedRun, run: ComparedRun, name: str, resamples: int) -> Difference | None:
    if run is first or name not in first.scores or name not in run.scores:
        return None
    of_one_domain = first.report.students[name].domain == run.report.students[name].domain
    if list(run.heldout) != list(first.heldout) or not of_one_domain:
        return None
    return Difference.of(paired_differences(run.scores[name], first.scores[name], resamples, run.report.seed))


def _floors(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Of runs that differ by seed, whose floors scatter with the training."""
    if len({run.report.seed for run in runs}) < len(runs):
        return {}
    found = {}
    for name in runs[0].report.students:
        students = [run.report.students.get(name) for run in runs]
        known = [s.capacity for s in students if s is not None and s.capacity is not None]
        pairs = [(c.generalist.floor, c.floor) for c in known if c.floor is not None and c.generalist is not None]
        if len(pairs) == len(runs):
            mixed, own = zip(*pairs, strict=True)
            found[name] = floor_difference_of_seeds(mixed, own).verdict
    return found
