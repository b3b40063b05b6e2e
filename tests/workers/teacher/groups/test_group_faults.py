"""A leader and its worker group, with real ranks: killed, stopped, out of memory, and failing on a prompt."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.comparing.borders import same_on_grid, same_texts
from support.comparing.tolerances import of_logits
from support.group_faults import SPEC, VOCABULARY, Lead, asked, fault_ray, given, leading, meanwhile, ranks, texts

from workers.teacher.groups.recovery import CannotCapture

GOOD = ["a", "bb", "ccc", "dddd", "ee"]


@pytest.fixture(scope="module")
def one_rank(tiny_moe: Path) -> Iterator[Lead]:
    with fault_ray(), leading(tiny_moe, score_tokens=256, hang_deadline_s=6) as lead:
        lead.start()
        yield lead


@pytest.fixture
def lead(one_rank: Lead) -> Lead:
    """The module's leader, which has captured something."""
    one_rank.leader.capture("unit 0", given("first"), SPEC)
    one_rank.said.clear()
    return one_rank


def test_an_undisturbed_unit_is_one_run(lead: Lead) -> None:
    answer = lead.leader.capture("unit 1", asked(*GOOD, samples=2), SPEC)
    assert answer.targets.rows == 10 and not answer.rejected and answer.batch_scale == 1 and not lead.said


def test_a_poison_prompt_is_rejected_and_the_others_are_as_they_would_be(lead: Lead) -> None:
    requests, spec = asked(*GOOD, samples=2), dataclasses.replace(SPEC, scheme="full")
    whole = lead.leader.capture("unit 1", requests, spec).targets
    answer = lead.leader.capture("unit 1", asked("a", "bb", "poison", "ccc", "dddd", "ee", samples=2), spec)
    for targets in (whole, answer.targets):
        assert not targets.texts, "they are made beside the next unit"
        lead.leader.detokenize(targets)
    tolerance = of_logits(np.abs(whole.logprobs).max())
    both = same_texts(answer.targets, whole, requests, spec, tolerance)
    pair = zip((answer.targets, whole), both, strict=True)
    found = [t.logprobs.reshape(-1, VOCABULARY)[seen] for t, seen in pair]
    np.testing.assert_allclose(*found, rtol=0, atol=tolerance)
    (aside,) = answer.rejected
    assert aside["id"] == "poison" and "RuntimeError: 'poison' fails" in aside["reason"]
    assert "unit 1: RuntimeError: 'poison' fails" in lead.said[0] and "rejected" in lead.said[-1]


def test_texts_that_were_begun_are_not_another_units_fault(lead: Lead) -> None:
    """The next unit's texts, seven of 36 tokens in a prefill, find no memory; and a poison of it is its own."""
    poisoned = asked("ee", "poison")
    first = lead.leader.capture("unit 2", asked(*GOOD, new_tokens=20), SPEC, poisoned)
    assert first.targets.rows == len(GOOD) and not lead.said
    second = lead.leader.capture("unit 3", poisoned, SPEC)
    assert second.targets.prompt_uids == ["ee"] and [r["id"] for r in second.rejected] == ["poison"]
    lead.said.clear()
    own, ids = asked("a", new_tokens=20), [3 + i for i in range(36)]
    large = [dataclasses.replace(r, prompt_token_ids=ids) for r in asked(*(f"n{i}" for i in range(8)))]
    large = [dataclasses.replace(r, prompt_token_ids=[*ids[i:], *ids[:i]]) for i, r in enumerate(large)]
    whole = lead.leader.capture("unit 1", own, SPEC).targets
    for _ in range(2):  # the second time they are not tried, as it would be the same
        answer = lead.leader.capture("unit 1", own, SPEC, large)
        assert answer.targets.content_hash() == whole.content_hash()
        assert answer.batch_scale == 1 and not answer.rejected
    [said] = lead.said
    assert "MemoryError" in said and said.endswith("run again without texts of the next one")


def test_a_unit_of_nothing_but_poison_is_empty_and_three_in_a_row_stop(lead: Lead) -> None:
    for unit in ("unit 1", "unit 2"):
        answer = lead.leader.capture(unit, asked("poison", "poison2"), SPEC)
        assert answer.targets.rows == 0 and [s["id"] for s in answer.rejected] == ["poison", "poison2"]
    with pytest.raises(CannotCapture, match=r"unit 3: all prompts of 3 units in a row failed.*'poison' fails"):
        lead.leader.capture("unit 3", asked("poison3"), SPEC)
    assert lead.leader.capture("unit 4", asked("a"), SPEC).targets.rows == 1


def test_out_of_memory_halves_the_budget_of_that_unit(lead: Lead) -> None:
    requests = given(*(f"p{i}" for i in range(20)), length=20)  # batches of 253 and of 115 tokens
    answer = lead.leader.capture("unit 1", requests, SPEC)
    assert answer.batch_scale == 0.5 and answer.targets.rows == 20 and not answer.rejected
    assert len(lead.said) == 1 and "MemoryError" in lead.said[0] and "0.5 of the batch sizes" in lead.said[0]
    small = lead.leader.capture("unit 2", given("p3", length=20), SPEC)
    assert small.batch_scale == 1
    row = answer.targets.select(np.array([3]))
    assert texts(row) == texts(small.targets)
    same_on_grid(row.token_logprob, small.targets.token_logprob, "token_logprob")


def test_a_killed_and_a_stopped_rank_cost_a_start_and_nothing_else(lead: Lead) -> None:
    requests = asked(*GOOD, new_tokens=400)
    whole = lead.leader.capture("unit 1", requests, SPEC).targets
    for number, message in ((signal.SIGKILL, "died (killed"), (signal.SIGSTOP, "did not answer for 6 s")):
        (pid,) = ranks()
        with meanwhile(0.5, lambda pid=pid, number=number: os.kill(pid, number)):  # type: ignore[misc]
            answer = lead.leader.capture("unit 1", requests, SPEC)
        assert answer.targets.content_hash() == whole.content_hash() and answer.batch_scale == 1
        assert f"rank 0 (process {pid} on " in lead.said[-1] and message in lead.said[-1]
        assert lead.said[-1].endswith("run again")
