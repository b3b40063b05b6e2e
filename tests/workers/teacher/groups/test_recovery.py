"""What a replica does about a fault: which trials follow, who is rejected, and when the group itself is doubted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from workers.teacher.groups.recovery import LEAST_BATCH_SCALE, BatchScaleMemory, GroupFault, Kind, Recovery, Trial

Fate = Callable[[Trial], Kind | None]


def play(recovery: Recovery, fate: Fate, *, works: bool = True, most: int = 500) -> list[Trial]:
    """Run a unit to its end, or until the worker group is doubted and does not work; the trials."""
    trials = []
    while (trial := recovery.trial) is not None:
        trials.append(trial)
        assert len(trials) < most
        kind = fate(trial)
        if kind is None:
            recovery.succeeded()
        else:
            recovery.failed(GroupFault(kind, f"{kind} {len(trials)}"))
        if recovery.suspect:
            if not works:
                return trials
            recovery.healthy = True
    return trials


def once(kind: Kind) -> Fate:
    """The first trial fails, and no other."""
    fates: list[Kind | None] = [kind]
    return lambda trial: fates.pop() if fates else None


def of_poison(*prompts: int, kind: Kind = "error") -> Fate:
    return lambda trial: kind if set(prompts) & set(trial.prompts) else None


def test_a_unit_without_faults_is_one_trial() -> None:
    recovery = Recovery(5)
    assert play(recovery, lambda trial: None) == [Trial((0, 1, 2, 3, 4), 1.0)]
    assert not recovery.rejected and recovery.least == 1.0


@pytest.mark.parametrize("kind", ["dead", "hung"])
def test_a_lost_rank_is_the_same_trial_again(kind: Kind) -> None:
    recovery = Recovery(3)
    assert play(recovery, once(kind)) == [Trial((0, 1, 2), 1.0)] * 2
    assert not recovery.rejected


def test_the_second_death_halves_the_budget() -> None:
    recovery = Recovery(3)
    trials = play(recovery, lambda t: "dead" if t.batch_scale == 1 else None)
    assert [t.batch_scale for t in trials] == [1, 1, 0.5] and recovery.least == 0.5 and not recovery.rejected


def test_out_of_memory_halves_the_budget_and_keeps_the_prompts_together() -> None:
    recovery = Recovery(4)
    trials = play(recovery, lambda t: "memory" if t.batch_scale > 0.2 else None)
    assert trials == [Trial((0, 1, 2, 3), b) for b in (1, 0.5, 0.25, 0.125)]
    assert recovery.least == 0.125 and not recovery.rejected


def test_a_prompt_that_fits_no_memory_is_rejected_and_the_others_are_captured() -> None:
    recovery = Recovery(4)
    trials = play(recovery, of_poison(2, kind="memory"))
    assert list(recovery.rejected) == [2] and recovery.succeeded_prompts == 3
    assert min(t.batch_scale for t in trials) == LEAST_BATCH_SCALE


@pytest.mark.parametrize("kind", ["error", "dead", "hung"])
@pytest.mark.parametrize("poison", [(0,), (7,), (3, 4), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_poison_is_found_and_nothing_else_is_rejected(kind: Kind, poison: tuple[int, ...]) -> None:
    recovery = Recovery(8)
    trials = play(recovery, of_poison(*poison, kind=kind))
    assert sorted(recovery.rejected) == list(poison)
    assert recovery.succeeded_prompts == 8 - len(poison)
    captured = [p for t in trials if not set(t.prompts) & set(poison) for p in t.prompts]
    assert sorted(captured) == sorted(set(range(8)) - set(poison)), "each once"
    for prompt in poison:
        failed = [t for t in trials if prompt in t.prompts]
        assert len(failed) >= 3 and [len(t.prompts) for t in failed[-2:]] == [1, 1]


def test_one_poison_prompt_of_many_takes_few_trials() -> None:
    trials = play(Recovery(64), of_poison(40))
    assert sum(40 in t.prompts for t in trials) == 8 and len(trials) == 8 + 6


def test_a_single_prompt_fails_three_times() -> None:
    recovery = Recovery(1)
    assert len(play(recovery, of_poison(0))) == 3 and recovery.rejected == {0: "error 3"}
    assert recovery.causes[0] == "error 1"


def test_an_accident_while_a_prompt_is_alone_does_not_reject_it() -> None:
    """Three failures, of which one is alone."""
    fates: list[Kind | None] = ["error", "error", "dead"]
    recovery = Recovery(4)
    play(recovery, lambda t: fates.pop(0) if fates and 0 in t.prompts else None)
    assert not recovery.rejected and recovery.succeeded_prompts == 4


@pytest.mark.parametrize(("kind", "most"), [("dead", 3), ("hung", 3), ("error", 13)])
def test_a_worker_group_that_never_works_is_suspect_soon(kind: Kind, most: int) -> None:
    recovery = Recovery(64)
    assert len(play(recovery, lambda t: kind, works=False)) <= most
    assert recovery.suspect and recovery.causes[0] == f"{kind} 1"


def test_some_poison_leaves_the_worker_group_healthy() -> None:
    recovery = Recovery(8)
    play(recovery, of_poison(2, 5, 6, 7), works=False)
    assert recovery.trial is None and len(recovery.rejected) == 4


def test_nothing_to_capture_is_done() -> None:
    assert Recovery(0).trial is None


def test_a_budget_that_two_units_in_a_row_needed_is_kept_for_a_while() -> None:
    memory = BatchScaleMemory()
    memory.captured(0.5)
    assert memory.batch_scale == 1
    memory.captured(1)
    memory.captured(0.25)
    assert memory.batch_scale == 1
    memory.captured(0.5)
    assert memory.batch_scale == 0.5
    units = 0
    while memory.batch_scale < 1:
        memory.captured(memory.batch_scale)
        units += 1
    assert units == 16


def test_a_kept_budget_shrinks_with_what_memory_allows() -> None:
    memory = BatchScaleMemory()
    for least in (0.5, 0.5, 0.125):
        memory.captured(least)
    assert memory.batch_scale == 0.125
