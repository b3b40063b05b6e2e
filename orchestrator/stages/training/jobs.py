"""What the workers of a student are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from cluster.storage import open_storage
from orchestrator.config.students import Student, initial_key, starts_from
from orchestrator.runs.context import RunContext
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import generation_name, older_runs
from workers.layout import AT_CONTROL_TOKENS, StudentLayout
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.student.training.job import ReplayedRun, SpecialistJob
from workers.targets.contract import Contract
from workers.targets.store import TargetStore


def make_job(student: Student, ctx: RunContext, declared: Contract, *, repairs: bool) -> dict[str, Any]:
    """What the student's workers are given. `repairs`: whether damaged units are recomputed meanwhile."""
    continues = ctx.config.continues
    older = older_runs(ctx.run, continues)
    replay = replay_of(student, ctx, older)
    return asdict(
        SpecialistJob(
            name=student.name,
            run_uri=ctx.run.uri,
            initial=initial_key(student),
            mix=student.mix,
            loss=student.config.loss.model_dump(),
            texts=student.config.texts.model_dump(),
            train=student.config.train.model_dump(),
            seed=ctx.config.seed,
            declared=declared,
            epoch=ctx.epoch,
            board=ctx.board,
            repairs=repairs,
            lora=student.config.model.lora.model_dump() if student.config.model.lora else None,
            end_tokens=student.end_tokens,
            given_only=student.given_only,
            first_kl=_first_kl(student, ctx),
            snapshots=snapshots_of(student),
            goes_on=goes_on(student, older),
            replay=replay,
            replay_share=continues.replay if replay and continues is not None else 0.0,
        )
    )


def snapshots_of(student: Student) -> dict[str, int]:
    """The weights that it keeps on the way, by the name of their folder: after how many target tokens."""
    kept = {StudentLayout.milestone(tokens): tokens for tokens in student.milestones}
    return kept if student.snapshot_tokens is None else {AT_CONTROL_TOKENS: student.snapshot_tokens, **kept}


def goes_on(student: Student, older: Sequence[RunFolder]) -> bool:
    """Whether a student starts from what a specialist was in the last of the older generations."""
    before = older[-1] if older and student.quantised_of is None else None
    return before is not None and before.student_done(starts_from(student).name) is not None


def replay_of(student: Student, ctx: RunContext, older: Sequence[RunFolder]) -> tuple[ReplayedRun, ...]:
    """The older generations that have training texts of a student's domains, as far as they are to be replayed."""
    continues, found = ctx.config.continues, list[ReplayedRun]()
    for run in older if continues is not None and continues.replay else ():
        domains, declared = _texts_of(run.uri, student.given_only)
        if mix := {d: share for d, share in student.mix.items() if share > 0 and d in domains}:
            name, epoch = generation_name(run, ctx.run), max(ctx.run.generation - 1, 1)
            found.append(ReplayedRun(name, run.uri, mix, epoch, declared))
    return tuple(found)


@lru_cache(maxsize=64)
def _texts_of(uri: str, given_only: bool) -> tuple[frozenset[str], Contract]:
    """The domains of an older generation's training texts, and what its targets are: read once for all students, as
    nothing of it is written again and a large plan takes seconds."""
    storage = open_storage(uri)
    plan = read_plan(storage, TRAIN)
    domains = (plan.given() if given_only else plan).domains
    return frozenset(domains), Contract.of(TargetStore(storage, TRAIN).header)


def _first_kl(student: Student, ctx: RunContext) -> dict[str, Any] | None:
    """Of what learns from distributions; a control begins where its specialist does, and a quantised sibling where it
    ended."""
    measured = student.config.loss.soft and student.control_of is None and student.quantised_of is None
    return ctx.config.evaluate.first_kl.model_dump() if measured else None
