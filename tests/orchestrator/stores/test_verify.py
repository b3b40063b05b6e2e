"""`stillhouse targets verify` on real stores of a tiny teacher, whole and damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.captured_run import RUN, CapturedRun, Command, capture, found
from support.project import Project

from orchestrator.stores.opening import open_targets
from workers.targets.commits.log import TargetLog
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.vocab_order import VocabOrder
from workers.targets.inspection import find_problems
from workers.targets.store import TargetStore


def reasons(result: dict[str, Any]) -> dict[int | None, list[str]]:
    by_unit: dict[int | None, list[str]] = {}
    for fault in result["faults"]:
        by_unit.setdefault(fault["unit"], []).append(fault["reason"])
    return by_unit


# What is sound --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        {},
        {"positions": "all"},
        {"draws": 1},
        {"scheme": "multinomial", "draws": 50},
        {"scheme": "threshold", "draws": 9},
        {"scheme": "full"},
        {"scheme": "full", "precision": "float16"},
        {"scheme": "hidden", "positions": "all", "temperature": 2},
        {"precision": "float16"},
        {"withhold": {"medical": ["the"]}},
        {"scheme": "topk", "top_k": 4},
        {"scheme": "topk", "top_k": 99, "always_keep": ["<eos>"], "temperature": 3},
        {"redraws": 3, "always_keep": ["<eos>", "fever"]},
        {"scheme": "threshold", "draws": 9, "redraws": 2, "always_keep": ["the"]},
        {"redraws": 2, "withhold": {"medical": ["the"]}},
        {"temperature": {"legal": 2}},
    ],
    ids=str,
)
def test_what_a_teacher_wrote_is_sound(capture_project: Project, stillhouse: Command, targets: dict[str, Any]) -> None:
    capture_project.set("targets", {"prompts_per_unit": 2} | targets)
    captured = capture(capture_project)
    result, entries = found(stillhouse, "verify", RUN), captured.entries()
    assert result["faults"] == [] and result["ok"]
    assert result["units"]["sound"] == result["units"]["planned"] == len(entries)
    assert sum(d["targets"] for d in result["domains"].values()) == sum(e.targets for e in entries)


def test_a_hidden_store_is_sound_and_needs_its_head(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("evaluate.targets", "hidden")
    capture_project.set("targets.scheme", "hidden")
    captured = capture(capture_project)
    for split in ("heldout", "train"):
        assert found(stillhouse, "verify", RUN, "--split", split)["ok"]
        captured.run.storage.delete(captured.store(split).head_key("teacher"))
        [fault] = found(stillhouse, "verify", RUN, "--split", split, code=1)["faults"]
        assert "teacher.safetensors" in fault["part"] and "stillhouse capture" in fault["reason"]


def test_verify_means_are_those_of_the_targets(captured: CapturedRun, stillhouse: Command) -> None:
    domains = found(stillhouse, "verify", RUN, "--split", "heldout")["domains"]
    plan = open_targets(RUN, "heldout").plan
    for domain, sums in domains.items():
        units = [captured.targets(u, "heldout") for u in plan.of_domain(domain)]
        assert sums["entropy"] == pytest.approx(np.concatenate([u.entropy for u in units]).mean(), abs=1e-4)
        assert sums["token_logprob"] == pytest.approx(np.concatenate([u.token_logprob for u in units]).mean(), abs=1e-4)
        assert 0 < sums["entropy"] < np.log(12)


# What is damaged ------------------------------------------------------------------------------------------------


def truncate(run: CapturedRun) -> None:
    path = run.part(1)
    path.write_bytes(path.read_bytes()[:-20])


def flip(run: CapturedRun) -> None:
    path, data = run.part(1), bytearray(run.part(1).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(run: CapturedRun) -> None:
    run.part(1).unlink()


def no_parquet(run: CapturedRun) -> None:
    """Bytes that are no Parquet, committed with a right checksum."""
    path, data = run.part(1), b"not a part" * 9
    path.write_bytes(data)
    entry = json.loads(run.log_entry(1).read_text())
    entry["parts"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    run.log_entry(1).write_text(json.dumps(entry))


def other_content(run: CapturedRun) -> None:
    entry = json.loads(run.log_entry(1).read_text())
    run.log_entry(1).write_text(json.dumps(entry | {"content_hash": "ab" * 32}))


def other_amount(run: CapturedRun) -> None:
    entry = json.loads(run.log_entry(1).read_text())
    run.log_entry(1).write_text(json.dumps(entry | {"targets": entry["targets"] + 1}))


def id_beyond_the_table(run: CapturedRun) -> None:
    """A unit written with a larger vocabulary order than the store has."""
    targets, store = run.targets(1), TargetStore(run.run.storage, "train")
    store._header = dataclasses.replace(store.header, vocabulary=50)
    store._vocab_order = VocabOrder.identity(50)
    targets.ids[-1] = 44
    run.recommit(1, targets, store=store)


DAMAGE = {
    "are not those that were committed": [truncate, flip],
    "is missing": [delete],
    "cannot be decoded": [no_parquet],
    "content hash": [other_content],
    "its entry promises": [other_amount],
    "holds an id outside the vocabulary of 12": [id_beyond_the_table],
}


@pytest.mark.parametrize(
    "reason, damage", [(r, d) for r, all_ in DAMAGE.items() for d in all_], ids=lambda x: getattr(x, "__name__", "")
)
def test_verify_finds_damage(
    reason: str, damage: Callable[[CapturedRun], None], captured: CapturedRun, stillhouse: Command
) -> None:
    key = captured.entries()[1].parts[0].key
    damage(captured)
    result = found(stillhouse, "verify", RUN, code=1)
    assert not result["ok"] and set(reasons(result)) == {1}
    assert any(reason in said for said in reasons(result)[1]), reasons(result)
    assert result["units"]["sound"] == result["units"]["committed"] - 1
    said = stillhouse("targets", "verify", RUN)
    assert said.code == 1 and "unit 1 (" in said.out and reason in said.out
    if damage is not id_beyond_the_table:
        assert key in said.out


def change(name: str, value: float, at: int = -1) -> Callable[[UnitTargets], None]:
    """Set one number of an array."""

    def apply(targets: UnitTargets) -> None:
        getattr(targets, name)[at] = value

    return apply


def strange_prompt(targets: UnitTargets) -> None:
    targets.prompt_uids[0] = "nobody"


def longer_text(targets: UnitTargets) -> None:
    targets.texts[0] += "!"


def too_many_counts(targets: UnitTargets) -> None:
    position = int(np.argmax(targets.num_kept > 1))
    targets.counts[int(targets.num_kept[:position].sum()) + 1] = 40


WRONG_IN_FULL = {
    "is 99: not below the vocabulary": change("tokens", 99),
    "mass of 1 positions is not 1": change("logprobs", 0.5),
    "an entropy of": change("entropy", 2.6),
    "is nan: outside 0": change("entropy", np.nan),
    "not 0 or less": change("token_logprob", 0.01),
    "do not end where the text's bytes end": longer_text,
    "does not give to this unit": strange_prompt,
}


@pytest.mark.parametrize("reason", WRONG_IN_FULL)
def test_verify_finds_numbers_that_cannot_be(reason: str, capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets.scheme", "full")
    captured = capture(capture_project)
    targets = captured.targets(2)
    for name in ("tokens", "logprobs", "entropy", "token_logprob", "starts"):
        setattr(targets, name, getattr(targets, name).copy())
    WRONG_IN_FULL[reason](targets)
    captured.recommit(2, targets)
    result = found(stillhouse, "verify", RUN, code=1)
    assert set(reasons(result)) == {2}
    assert any(reason in said for said in reasons(result)[2]), reasons(result)


def test_verify_finds_counts_that_do_not_sum_to_the_draws(captured: CapturedRun, stillhouse: Command) -> None:
    targets = captured.targets(2)
    too_many_counts(targets)
    captured.recommit(2, targets)
    [said] = [r for r in reasons(found(stillhouse, "verify", RUN, code=1))[2] if "not to the 21 draws" in r]
    assert repr(targets.prompt_uids[0]) in said


def test_verify_finds_weights_without_a_fixed_sum_that_are_too_many(
    capture_project: Project, stillhouse: Command
) -> None:
    capture_project.set("targets", {"prompts_per_unit": 2, "scheme": "threshold", "draws": 9})
    captured = capture(capture_project)
    targets = captured.targets(2)
    targets.counts[0] += 16 * 9
    captured.recommit(2, targets)
    assert "mass of 1 positions is not 1" in reasons(found(stillhouse, "verify", RUN, code=1))[2][0]


def test_numbers_that_no_part_could_hold(captured: CapturedRun) -> None:
    header, targets = captured.store().header, captured.targets(0)
    assert find_problems(targets, header, targets.prompt_uids) == []
    for name, at, value, reason in (
        ("ends", 1, targets.ends[0] - 1, "ends before the one before it"),
        ("starts", 0, 0, "lies outside the text"),
        ("starts", 0, targets.lengths[0] + 1, "lies outside the text"),
        ("ids", 0, 12, "a kept id of text"),
    ):
        other = dataclasses.replace(targets, **{name: getattr(targets, name).copy()})
        getattr(other, name)[at] = value
        [problem] = find_problems(other, header, targets.prompt_uids)
        assert reason in problem and repr(targets.prompt_uids[0]) in problem
    shorter = dataclasses.replace(targets, entropy=targets.entropy[1:])
    [problem] = find_problems(shorter, header, targets.prompt_uids)
    assert problem.startswith("entropy: ")


def test_verify_reads_further_draws_too(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets.redraws", 2)
    captured = capture(capture_project)
    part = captured.entries()[1].parts[1]
    captured.run.storage.delete(part.key)
    [fault] = found(stillhouse, "verify", RUN, code=1)["faults"]
    assert (fault["unit"], fault["part"]) == (1, part.key) and "missing" in fault["reason"]


def test_verify_finds_another_temperature(captured: CapturedRun, stillhouse: Command) -> None:
    targets = dataclasses.replace(captured.targets(2), temperature=2.0)
    captured.recommit(2, targets)
    assert reasons(found(stillhouse, "verify", RUN, code=1))[2] == ["captured at temperature 2 where the store has 1"]


def test_verify_finds_a_tail_that_does_not_fill_up_to_1(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets", {"prompts_per_unit": 2, "scheme": "topk", "top_k": 3})
    captured = capture(capture_project)
    targets = captured.targets(2)
    targets.tail = targets.tail.copy()
    targets.tail[0] += 500  # a code is minus a logarithm
    captured.recommit(2, targets)
    assert "mass of 1 positions is not 1" in reasons(found(stillhouse, "verify", RUN, code=1))[2][0]


def test_an_entry_that_cannot_be_read_stops_nothing(captured: CapturedRun, stillhouse: Command) -> None:
    captured.log_entry(0).write_text('{"unit": 0')
    flip(captured)
    by_unit = reasons(found(stillhouse, "verify", RUN, code=1))
    assert "its entry cannot be read" in by_unit[0][0] and "committed" in by_unit[1][0] and set(by_unit) == {0, 1}


def test_a_unit_that_the_plan_does_not_have(captured: CapturedRun, stillhouse: Command) -> None:
    entry = json.loads(captured.log_entry(0).read_text())
    captured.log_entry(99).write_text(json.dumps(entry | {"unit": 99}))
    assert "and not this one" in reasons(found(stillhouse, "verify", RUN, code=1))[99][0]


def test_without_its_table_of_ranks_no_unit_can_be_read(captured: CapturedRun, stillhouse: Command) -> None:
    captured.run.storage.delete("targets/train/vocab_order.parquet")
    result = found(stillhouse, "verify", RUN, code=1)
    assert list(reasons(result)) == [None] and result["units"]["sound"] == result["units"]["committed"] > 0
    assert "its copy serves" in stillhouse("targets", "verify", RUN).out
    captured.run.storage.write("targets/train/vocab_order.copy.parquet", b"x")
    result = found(stillhouse, "verify", RUN, code=1)
    assert list(reasons(result)) == [None] and len(result["faults"]) == 2 and result["marked"] == []
    assert "no unit can be read without one" in stillhouse("targets", "verify", RUN).out


def test_units_whose_bytes_have_changed_are_marked_and_no_others(
    captured: CapturedRun, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher looks again before it repairs: it finds no damage in what reads as it was committed."""
    marks: list[tuple[Any, ...]] = []
    monkeypatch.setattr(TargetLog, "mark_damaged", lambda log, *words: marks.append(words), raising=False)
    key = captured.entries()[1].parts[0].key
    flip(captured)
    captured.log_entry(0).write_text("{")
    targets = captured.targets(2)
    longer_text(targets)
    captured.recommit(2, targets)
    captured.part(3).unlink()
    said = stillhouse("targets", "verify", RUN)
    assert said.code == 1 and "`stillhouse capture CONFIG` recomputes them" in said.out
    assert "no repair fixes it" in said.out
    assert [m[0] for m in marks] == [1, 3]
    unit, revision, part, reason, by = marks[0]
    assert (unit, revision, part, by) == (1, 0, key, "stillhouse targets verify") and "committed" in reason


def test_a_run_that_may_only_be_read_is_verified_all_the_same(
    captured: CapturedRun, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(log: TargetLog, *words: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(TargetLog, "mark_damaged", refuse, raising=False)
    flip(captured)
    said = stillhouse("targets", "verify", RUN)
    assert said.code == 1 and "cannot be marked" in said.out and "read-only" in said.out
    assert "5 of 6 committed units are sound" in said.out
