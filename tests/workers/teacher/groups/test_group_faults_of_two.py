"""A worker group of two ranks that share the experts: a rank's fault leaves its peer in a collective, and is told as
the cause.

Also what stops a run: worker groups that do not start, and worker groups that never captured anything.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.comparing.borders import same_texts
from support.comparing.tolerances import of_logits
from support.group_faults import SPEC, Lead, asked, fault_ray, given, leading, meanwhile, ranks

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.groups.recovery import CannotCapture

pytestmark = pytest.mark.long

GOOD = ["a", "bb", "ccc", "dddd", "ee"]
LONG = asked(*GOOD, new_tokens=400)


@pytest.fixture(scope="module")
def two_ranks(tiny_moe: Path) -> Iterator[Lead]:
    with fault_ray(), leading(tiny_moe, ep_size=2, score_tokens=256, hang_deadline_s=8) as lead:
        lead.start()
        lead.leader.capture("unit 0", given("first"), SPEC)
        yield lead


@pytest.fixture(scope="module")
def undisturbed(two_ranks: Lead) -> UnitTargets:
    return two_ranks.leader.capture("unit 1", LONG, SPEC).targets


@pytest.fixture
def lead(two_ranks: Lead, undisturbed: UnitTargets) -> Lead:
    two_ranks.said.clear()
    return two_ranks


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_killed_or_stopped_while_it_generates(
    lead: Lead, undisturbed: UnitTargets, rank: int, number: signal.Signals
) -> None:
    pid = ranks()[rank]
    with meanwhile(0.7, lambda: os.kill(pid, number)):
        answer = lead.leader.capture("unit 1", LONG, SPEC)
    assert answer.targets.content_hash() == undisturbed.content_hash()
    (said,) = lead.said
    assert f"(process {pid} on " in said and said.endswith("run again")
    # Its own silence, or its peer's in the collective: both have the same deadline.
    found = ["died (killed"] if number == signal.SIGKILL else ["did not answer for 8 s", "kept the others waiting"]
    assert any(words in said for words in found)


def test_a_rank_killed_while_it_scores(lead: Lead) -> None:
    requests = given(*(f"p{i}" for i in range(600)), length=37)
    whole = lead.leader.capture("unit 2", requests, SPEC)
    pid = ranks()[0]
    with meanwhile(0.2, lambda: os.kill(pid, signal.SIGKILL)):
        answer = lead.leader.capture("unit 2", requests, SPEC)
    assert answer.targets.content_hash() == whole.targets.content_hash()
    assert f"(process {pid} on " in lead.said[-1] and "died (killed" in lead.said[-1]


def test_a_rank_killed_between_units(lead: Lead, undisturbed: UnitTargets) -> None:
    os.kill(ranks()[1], signal.SIGKILL)
    time.sleep(1)
    assert lead.leader.capture("unit 1", LONG, SPEC).targets.content_hash() == undisturbed.content_hash()
    assert len(lead.said) == 1


def test_a_rank_killed_while_it_starts(lead: Lead, undisturbed: UnitTargets) -> None:
    lead.leader.close()

    def kill_one() -> None:
        while not (started := ranks()):
            time.sleep(0.1)
        os.kill(started[0], signal.SIGKILL)

    with meanwhile(3, kill_one):
        answer = lead.leader.capture("unit 1", LONG, SPEC)
    assert answer.targets.content_hash() == undisturbed.content_hash()
    assert "did not start, once more: rank " in lead.said[0] and "died" in lead.said[0]


def test_the_rank_that_failed_is_told_and_not_its_peer(lead: Lead) -> None:
    requests, spec = asked("a", "bb", "ccc"), dataclasses.replace(SPEC, scheme="full")
    whole = lead.leader.capture("unit 1", requests, spec).targets
    answer = lead.leader.capture("unit 1", asked("a", "bb", "poison", "ccc"), spec)
    for targets in (whole, answer.targets):
        lead.leader.detokenize(targets)
    same_texts(answer.targets, whole, requests, spec, of_logits(np.abs(whole.logprobs).max()))
    assert [s["id"] for s in answer.rejected] == ["poison"]
    assert all("RuntimeError: 'poison' fails" in said for said in lead.said)


def test_out_of_memory_in_one_rank(lead: Lead) -> None:
    requests = given(*(f"p{i}" for i in range(40)), length=20)
    answer = lead.leader.capture("unit 1", requests, SPEC)
    assert answer.batch_scale == 0.5 and answer.targets.rows == 40
    assert len(lead.said) == 1 and "MemoryError" in lead.said[0]


def test_a_unit_that_a_worker_group_dies_of_is_not_its_prompts_fault_unless_the_worker_group_works(lead: Lead) -> None:
    """Killed whenever it runs: the third death asks for the known_good, which dies too."""
    stop: list[int] = []

    def kill_all() -> None:
        while not stop:
            for pid in ranks():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)

    with meanwhile(0, kill_all):
        try:
            with pytest.raises(CannotCapture) as caught:
                lead.leader.capture("unit 1", LONG, SPEC)
        finally:
            stop.append(1)
    assert "died" in str(caught.value) and "in a row" in str(caught.value)


def test_a_model_that_cannot_be_loaded_stops_with_its_own_error(tiny_moe: Path, tmp_path: Path, lead: Lead) -> None:
    folder = shutil.copytree(tiny_moe, tmp_path / "broken")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with leading(folder, ep_size=2) as broken, pytest.raises(CannotCapture) as caught:
        broken.start()
    assert "did not start 3 times in a row" in str(caught.value)
    assert "SafetensorError" in str(caught.value) and "in rank 0" in str(caught.value)
    assert len(broken.said) == 2


def test_ranks_that_do_not_start_in_time_are_named(tiny_moe: Path, lead: Lead) -> None:
    with leading(tiny_moe, ep_size=1, start_deadline_s=1) as late, pytest.raises(CannotCapture) as caught:
        late.start()
    assert "rank 0 did not start in 1 s (teacher.start_deadline_s)" in str(caught.value)


def test_prompts_are_not_blamed_by_a_worker_group_that_never_captured(tiny_moe: Path, lead: Lead) -> None:
    with leading(tiny_moe) as fresh, pytest.raises(CannotCapture) as caught:
        fresh.leader.capture("unit 0", asked("poison", "poison2", "poison3"), SPEC)
    assert "unit 0: RuntimeError: 'poison' fails" in str(caught.value) and "has captured nothing" in str(caught.value)


def test_equal_work_for_ranks_keeps_the_order_of_rows(lead: Lead) -> None:
    requests = given(*(f"p{i}" for i in range(9)), length=12) + asked(*GOOD, samples=2)
    answer = lead.leader.capture("unit 1", requests, SPEC)
    keys = list(zip(answer.targets.prompt_uids, answer.targets.samples.tolist(), strict=True))
    assert keys == [(r.prompt_uid, r.sample) for r in requests]
    assert np.all(np.isfinite(answer.targets.token_logprob))
