"""`stillhouse targets info | verify | show` on real stores of a tiny teacher, whole and damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from taught_run import TaughtRun, give_weights, teach
from transformers import AutoModelForCausalLM

from orchestrator.run_folder import RunFolder
from orchestrator.targets_show import Question, show_text, visible
from orchestrator.targets_show_view import print_text
from orchestrator.targets_source import open_targets
from workers.targets.arrays import UnitTargets
from workers.targets.inspection import find_problems
from workers.targets.log import TargetLog
from workers.targets.ranks import RankTable
from workers.targets.store import TargetStore

Command = Callable[..., Any]
RUN = "trial"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def shop(project: Any) -> Any:
    """A project whose teacher has weights; two domains of eight prompts, two of them held out, some answers given."""
    project.model("dense", experts=0, head_dim=16, num_key_value_heads=2)
    project.set("teacher.model", "dense")
    give_weights(project.folder / "dense")
    for domain in ("medical", "legal"):
        rows: list[dict[str, Any]] = [{"id": str(i), "prompt": f"the {domain} fever is {i}"} for i in range(8)]
        rows[3]["answer"] = "rest is the rule"
        project.rows(f"{domain}.jsonl", *rows)
    project.set("teacher.sampling", {"max_new_tokens": 6, "samples": 2})
    project.set("targets", {"prompts_per_unit": 2})
    project.set("evaluate", {"heldout": 0.25})
    return project


@pytest.fixture(scope="module")
def taught_once() -> list[Path]:
    """The project whose run was taught first: later ones are copies of it."""
    return []


@pytest.fixture
def taught(shop: Any, taught_once: list[Path]) -> TaughtRun:
    """The shop's run, whole."""
    if not taught_once:
        run = teach(shop)
        shutil.copytree(shop.folder / "runs", shop.folder / "untouched")
        taught_once.append(shop.folder)
        return run
    shutil.copytree(taught_once[0] / "untouched", shop.folder / "runs")
    file = shop.load()
    run = RunFolder.of(file.located())
    run.open(file)
    return TaughtRun(run)


def found(stillhouse: Command, *words: str, code: int = 0) -> dict[str, Any]:
    """What a command prints with --json."""
    outcome = stillhouse("targets", *words, "--json")
    assert outcome.code == code, outcome.err
    result: dict[str, Any] = json.loads(outcome.out)
    return result


def reasons(result: dict[str, Any]) -> dict[int | None, list[str]]:
    by_unit: dict[int | None, list[str]] = {}
    for fault in result["faults"]:
        by_unit.setdefault(fault["unit"], []).append(fault["reason"])
    return by_unit


# info -------------------------------------------------------------------------------------------------------


def test_info_adds_up_the_entries(taught: TaughtRun, stillhouse: Command) -> None:
    info, entries = found(stillhouse, "info", RUN), taught.entries()
    assert info["units"] == {"planned": len(entries), "committed": len(entries), "missing": 0}
    for name in ("rows", "tokens", "targets", "entries"):
        assert info[name] == sum(getattr(e, name) for e in entries)
    assert info["bytes"] == sum(taught.part(e.unit).stat().st_size for e in entries)
    assert info["bytes_per_token"] == round(info["bytes"] / info["targets"], 2)
    assert sum(d["targets"] for d in info["domains"].values()) == info["targets"]
    assert set(info["domains"]) == {"medical", "legal"}
    assert info["header"]["scheme"] == "systematic" and info["header"]["teachers"]["teacher"]["fingerprint"]


def test_info_reads_no_part(taught: TaughtRun, stillhouse: Command) -> None:
    before = found(stillhouse, "info", RUN)
    for entry in taught.entries():
        taught.part(entry.unit).unlink()
    assert found(stillhouse, "info", RUN) == before


def test_info_says_how_many_units_are_missing(shop: Any, stillhouse: Command) -> None:
    teach(shop, units={"train": 2})
    info = found(stillhouse, "info", RUN)
    assert info["units"]["committed"] == 2 and info["units"]["missing"] == info["units"]["planned"] - 2 > 0
    said = stillhouse("targets", "info", RUN).out
    assert f"{info['units']['missing']} of {info['units']['planned']} units are not taught yet" in said
    assert "stillhouse teach" in said


def test_info_counts_what_was_set_aside_by_reason(shop: Any, stillhouse: Command) -> None:
    shop.set("targets.withhold", {"medical": ["rule"]})
    taught = teach(shop)
    aside = [item["reason"] for e in taught.entries() for item in e.set_aside]
    assert aside
    assert found(stillhouse, "info", RUN)["texts_set_aside"] == {"contains the withheld 'rule'": len(aside)}
    assert f"{len(aside)} × contains the withheld 'rule'" in stillhouse("targets", "info", RUN).out


def test_info_of_the_heldout_store(taught: TaughtRun, stillhouse: Command) -> None:
    info = found(stillhouse, "info", RUN, "--split", "heldout")
    assert info["header"]["scheme"] == "full" and info["entries_per_token"] == info["header"]["vocabulary"]
    assert "full, float32" in stillhouse("targets", "info", RUN, "--split", "heldout").out


def test_info_names_what_else_is_kept(shop: Any, stillhouse: Command) -> None:
    shop.set("targets", {"redraws": 2, "always_keep": ["<eos>"], "temperature": {"legal": 2}})
    teach(shop, units={"train": 0})
    said = stillhouse("targets", "info", RUN).out
    assert "systematic, 21 draws a position 2 times, always-kept ids 1, at temperature 2 (legal), else 1" in said


def test_a_split_that_is_not_there(taught: TaughtRun, stillhouse: Command) -> None:
    assert "no probes targets; it has train, heldout" in stillhouse("targets", "info", RUN, "--split", "probes").error
    assert "no such split; there are train" in stillhouse("targets", "info", RUN, "--split", "test").error
    assert "no run at" in stillhouse("targets", "verify", "nowhere").error


@pytest.mark.parametrize("verb", ["info", "verify", "show"])
def test_a_store_of_another_format_is_refused(taught: TaughtRun, stillhouse: Command, verb: str) -> None:
    path = taught.run.storage.local_path("targets/train/store.json")
    assert path is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    assert "format version 1" in stillhouse("targets", verb, RUN).error


# verify: what is sound -----------------------------------------------------------------------------------------


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
def test_what_a_teacher_wrote_is_sound(shop: Any, stillhouse: Command, targets: dict[str, Any]) -> None:
    shop.set("targets", {"prompts_per_unit": 2} | targets)
    taught = teach(shop)
    result, entries = found(stillhouse, "verify", RUN), taught.entries()
    assert result["faults"] == [] and result["ok"]
    assert result["units"]["sound"] == result["units"]["planned"] == len(entries)
    assert sum(d["targets"] for d in result["domains"].values()) == sum(e.targets for e in entries)


def test_verify_means_are_those_of_the_targets(taught: TaughtRun, stillhouse: Command) -> None:
    domains = found(stillhouse, "verify", RUN, "--split", "heldout")["domains"]
    plan = open_targets(RUN, "heldout").plan
    for domain, sums in domains.items():
        units = [taught.targets(u, "heldout") for u in plan.of_domain(domain)]
        assert sums["entropy"] == pytest.approx(np.concatenate([u.entropy for u in units]).mean(), abs=1e-4)
        assert sums["realised"] == pytest.approx(np.concatenate([u.realised for u in units]).mean(), abs=1e-4)
        assert 0 < sums["entropy"] < np.log(12)


# verify: what is damaged ---------------------------------------------------------------------------------------


def truncate(run: TaughtRun) -> None:
    path = run.part(1)
    path.write_bytes(path.read_bytes()[:-20])


def flip(run: TaughtRun) -> None:
    path, data = run.part(1), bytearray(run.part(1).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(run: TaughtRun) -> None:
    run.part(1).unlink()


def no_parquet(run: TaughtRun) -> None:
    """Bytes that are no Parquet, committed with a right checksum."""
    path, data = run.part(1), b"not a part" * 9
    path.write_bytes(data)
    entry = json.loads(run.log_entry(1).read_text())
    entry["parts"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    run.log_entry(1).write_text(json.dumps(entry))


def other_content(run: TaughtRun) -> None:
    entry = json.loads(run.log_entry(1).read_text())
    run.log_entry(1).write_text(json.dumps(entry | {"content_hash": "ab" * 32}))


def other_amount(run: TaughtRun) -> None:
    entry = json.loads(run.log_entry(1).read_text())
    run.log_entry(1).write_text(json.dumps(entry | {"targets": entry["targets"] + 1}))


def id_beyond_the_table(run: TaughtRun) -> None:
    """A unit written with a larger table of ranks than the store has."""
    targets, store = run.targets(1), TargetStore(run.run.storage, "train")
    store._header = dataclasses.replace(store.header, vocabulary=50)
    store._ranks = RankTable.identity(50)
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
    reason: str, damage: Callable[[TaughtRun], None], taught: TaughtRun, stillhouse: Command
) -> None:
    key = taught.entries()[1].parts[0].key
    damage(taught)
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
    targets.prompt_ids[0] = "nobody"


def longer_text(targets: UnitTargets) -> None:
    targets.texts[0] += "!"


def too_many_counts(targets: UnitTargets) -> None:
    position = int(np.argmax(targets.entries > 1))
    targets.counts[int(targets.entries[:position].sum()) + 1] = 40


WRONG_IN_FULL = {
    "is 99: not below the vocabulary": change("tokens", 99),
    "mass of 1 positions is not 1": change("logprobs", 0.5),
    "an entropy of": change("entropy", 2.6),
    "is nan: outside 0": change("entropy", np.nan),
    "not 0 or less": change("realised", 0.01),
    "do not end where the text's bytes end": longer_text,
    "does not give to this unit": strange_prompt,
}


@pytest.mark.parametrize("reason", WRONG_IN_FULL)
def test_verify_finds_numbers_that_cannot_be(reason: str, shop: Any, stillhouse: Command) -> None:
    shop.set("targets.scheme", "full")
    taught = teach(shop)
    targets = taught.targets(2)
    for name in ("tokens", "logprobs", "entropy", "realised", "starts"):
        setattr(targets, name, getattr(targets, name).copy())
    WRONG_IN_FULL[reason](targets)
    taught.recommit(2, targets)
    result = found(stillhouse, "verify", RUN, code=1)
    assert set(reasons(result)) == {2}
    assert any(reason in said for said in reasons(result)[2]), reasons(result)


def test_verify_finds_counts_that_do_not_sum_to_the_draws(taught: TaughtRun, stillhouse: Command) -> None:
    targets = taught.targets(2)
    too_many_counts(targets)
    taught.recommit(2, targets)
    [said] = [r for r in reasons(found(stillhouse, "verify", RUN, code=1))[2] if "not to the 21 draws" in r]
    assert repr(targets.prompt_ids[0]) in said


def test_verify_finds_weights_without_a_fixed_sum_that_are_too_many(shop: Any, stillhouse: Command) -> None:
    shop.set("targets", {"prompts_per_unit": 2, "scheme": "threshold", "draws": 9})
    taught = teach(shop)
    targets = taught.targets(2)
    targets.counts[0] += 16 * 9
    taught.recommit(2, targets)
    assert "mass of 1 positions is not 1" in reasons(found(stillhouse, "verify", RUN, code=1))[2][0]


def test_numbers_that_no_part_could_hold(taught: TaughtRun) -> None:
    header, targets = taught.store().header, taught.targets(0)
    assert find_problems(targets, header, targets.prompt_ids) == []
    for name, at, value, reason in (
        ("ends", 1, targets.ends[0] - 1, "ends before the one before it"),
        ("starts", 0, 0, "lies outside the text"),
        ("starts", 0, targets.lengths[0] + 1, "lies outside the text"),
        ("ids", 0, 12, "a kept id of text"),
    ):
        other = dataclasses.replace(targets, **{name: getattr(targets, name).copy()})
        getattr(other, name)[at] = value
        [problem] = find_problems(other, header, targets.prompt_ids)
        assert reason in problem and repr(targets.prompt_ids[0]) in problem
    shorter = dataclasses.replace(targets, entropy=targets.entropy[1:])
    [problem] = find_problems(shorter, header, targets.prompt_ids)
    assert problem.startswith("entropy: ")


def test_verify_reads_further_draws_too(shop: Any, stillhouse: Command) -> None:
    shop.set("targets.redraws", 2)
    taught = teach(shop)
    part = taught.entries()[1].parts[1]
    taught.run.storage.delete(part.key)
    [fault] = found(stillhouse, "verify", RUN, code=1)["faults"]
    assert (fault["unit"], fault["part"]) == (1, part.key) and "missing" in fault["reason"]


def test_verify_finds_another_temperature(taught: TaughtRun, stillhouse: Command) -> None:
    targets = dataclasses.replace(taught.targets(2), temperature=2.0)
    taught.recommit(2, targets)
    assert reasons(found(stillhouse, "verify", RUN, code=1))[2] == ["captured at temperature 2 where the store has 1"]


def test_verify_finds_a_tail_that_does_not_fill_up_to_1(shop: Any, stillhouse: Command) -> None:
    shop.set("targets", {"prompts_per_unit": 2, "scheme": "topk", "top_k": 3})
    taught = teach(shop)
    targets = taught.targets(2)
    targets.tail = targets.tail.copy()
    targets.tail[0] += 500  # a code is minus a logarithm
    taught.recommit(2, targets)
    assert "mass of 1 positions is not 1" in reasons(found(stillhouse, "verify", RUN, code=1))[2][0]


def test_an_entry_that_cannot_be_read_stops_nothing(taught: TaughtRun, stillhouse: Command) -> None:
    taught.log_entry(0).write_text('{"unit": 0')
    flip(taught)
    by_unit = reasons(found(stillhouse, "verify", RUN, code=1))
    assert "its entry cannot be read" in by_unit[0][0] and "committed" in by_unit[1][0] and set(by_unit) == {0, 1}


def test_a_unit_that_the_plan_does_not_have(taught: TaughtRun, stillhouse: Command) -> None:
    entry = json.loads(taught.log_entry(0).read_text())
    taught.log_entry(99).write_text(json.dumps(entry | {"unit": 99}))
    assert "and not this one" in reasons(found(stillhouse, "verify", RUN, code=1))[99][0]


def test_without_its_table_of_ranks_no_unit_can_be_read(taught: TaughtRun, stillhouse: Command) -> None:
    taught.run.storage.delete("targets/train/ranks.parquet")
    result = found(stillhouse, "verify", RUN, code=1)
    assert list(reasons(result)) == [None] and result["units"]["sound"] == result["units"]["committed"] > 0
    assert "its copy serves" in stillhouse("targets", "verify", RUN).out
    taught.run.storage.write("targets/train/ranks.copy.parquet", b"x")
    result = found(stillhouse, "verify", RUN, code=1)
    assert list(reasons(result)) == [None] and len(result["faults"]) == 2 and result["marked"] == []
    assert "no unit can be read without one" in stillhouse("targets", "verify", RUN).out


def test_units_whose_bytes_have_changed_are_marked_and_no_others(
    taught: TaughtRun, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher looks again before it repairs: it finds no damage in what reads as it was committed."""
    marks: list[tuple[Any, ...]] = []
    monkeypatch.setattr(TargetLog, "mark_damaged", lambda log, *words: marks.append(words), raising=False)
    key = taught.entries()[1].parts[0].key
    flip(taught)
    taught.log_entry(0).write_text("{")
    targets = taught.targets(2)
    longer_text(targets)
    taught.recommit(2, targets)
    taught.part(3).unlink()
    said = stillhouse("targets", "verify", RUN)
    assert said.code == 1 and "`stillhouse teach CONFIG` teaches them again" in said.out
    assert "no repair mends it" in said.out
    assert [m[0] for m in marks] == [1, 3]
    unit, revision, part, reason, by = marks[0]
    assert (unit, revision, part, by) == (1, 0, key, "stillhouse targets verify") and "committed" in reason


def test_a_run_that_may_only_be_read_is_verified_all_the_same(
    taught: TaughtRun, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(log: TargetLog, *words: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(TargetLog, "mark_damaged", refuse, raising=False)
    flip(taught)
    said = stillhouse("targets", "verify", RUN)
    assert said.code == 1 and "cannot be marked" in said.out and "read-only" in said.out
    assert "5 of 6 committed units are sound" in said.out


# show -------------------------------------------------------------------------------------------------------


def test_show_prints_the_first_text_token_by_token(taught: TaughtRun, stillhouse: Command) -> None:
    targets = taught.targets(0)
    shown = found(stillhouse, "show", RUN)
    start, length = int(targets.starts[0]), int(targets.lengths[0])
    assert (shown["prompt_id"], shown["text"]) == (targets.prompt_ids[0], targets.texts[0])
    assert [p["position"] for p in shown["positions"]] == list(range(start, length))
    assert [p["token"][0] for p in shown["positions"]] == targets.tokens[start:length].tolist()
    assert " ".join(p["token"][1] for p in shown["positions"]) == shown["text"].split(" ", start)[-1]
    at = 0
    for t, position in enumerate(shown["positions"]):
        stored, kept = position["stored"], int(targets.entries[t])
        counts = dict(zip(targets.ids[at : at + kept].tolist(), targets.counts[at : at + kept].tolist(), strict=True))
        assert {i: round(w * 21) for i, _, w in stored["ids"]} == counts
        assert sum(w for *_, w in stored["ids"]) == pytest.approx(1)
        assert [w for *_, w in stored["ids"]] == sorted((w for *_, w in stored["ids"]), reverse=True)
        assert stored["entropy"] == pytest.approx(targets.entropy[t])
        assert stored["realised"] == pytest.approx(targets.realised[t])
        at += kept
    said = stillhouse("targets", "show", RUN).out
    assert targets.texts[0] in said and "noisy and unbiased" in said and "--exact" in said


def test_show_finds_a_prompt_and_a_sample(taught: TaughtRun, stillhouse: Command) -> None:
    targets = taught.targets(1)
    row = max(r for r, sample in enumerate(targets.samples) if sample == 1)
    shown = found(stillhouse, "show", RUN, "--prompt", targets.prompt_ids[row], "--sample", "1")
    assert (shown["unit"], shown["sample"], shown["text"]) == (1, 1, targets.texts[row])
    assert found(stillhouse, "show", RUN, "--unit", "1")["text"] == targets.texts[0]


def test_show_of_topk_ends_with_the_tail_and_names_what_is_exact(shop: Any, stillhouse: Command) -> None:
    shop.set("targets", {"prompts_per_unit": 2, "scheme": "topk", "top_k": 3, "always_keep": ["<eos>"]})
    teach(shop)
    shown = found(stillhouse, "show", RUN)
    for position in shown["positions"]:
        stored = position["stored"]
        assert len(stored["ids"]) == 4 and "<eos>" in [text for _, text, _ in stored["ids"]]
        assert sum(w for *_, w in stored["ids"]) + stored["tail"] == pytest.approx(1, abs=1e-3)
    said = stillhouse("targets", "show", RUN).out
    assert "tail " in said and "Exact at every position: <eos>" in said and "unbiased" not in said


def test_show_stops_at_the_limit_and_says_so(taught: TaughtRun, stillhouse: Command) -> None:
    targets = taught.targets(0)
    left = int(targets.lengths[0] - targets.starts[0]) - 2
    assert left > 0 and len(found(stillhouse, "show", RUN, "--limit", "2")["positions"]) == 2
    assert f"{left} more positions" in stillhouse("targets", "show", RUN, "--limit", "2").out


@pytest.mark.parametrize("temperature", [None, 0.5, 3.0])
def test_show_of_a_full_store_is_exact_at_any_temperature(
    taught: TaughtRun, stillhouse: Command, temperature: float | None
) -> None:
    targets = taught.targets(0, "heldout")
    logits_TV = torch.from_numpy(targets.logprobs.reshape(-1, 12).copy()).double() / (temperature or 1)
    p_TV = logits_TV.softmax(-1)
    words = [] if temperature is None else ["--temperature", str(temperature)]
    shown = found(stillhouse, "show", RUN, "--split", "heldout", "--top", "5", *words)
    for t, position in enumerate(shown["positions"]):
        stored, best = position["stored"], p_TV[t].topk(5)
        assert [i for i, *_ in stored["ids"]] == best.indices.tolist()
        assert [p for *_, p in stored["ids"]] == pytest.approx(best.values.tolist())
        assert stored["entropy"] == pytest.approx(torch.distributions.Categorical(p_TV[t]).entropy().item())
        assert stored["realised"] == pytest.approx(p_TV[t][position["token"][0]].log().item())
    assert "noisy" not in stillhouse("targets", "show", RUN, "--split", "heldout").out


def test_exact_shows_the_teachers_own_distribution(taught: TaughtRun, shop: Any, stillhouse: Command) -> None:
    targets = taught.targets(0)
    start, length = int(targets.starts[0]), int(targets.lengths[0])
    model = AutoModelForCausalLM.from_pretrained(shop.folder / "dense", dtype=torch.float32)
    with torch.no_grad():
        logits_SV = model(torch.from_numpy(targets.tokens[:length].astype(np.int64))[None]).logits[0]
    for words, temperature in (([], 1.0), (["--temperature", "2"], 2.0)):
        p_TV = (logits_SV[start - 1 : length - 1].double() / temperature).softmax(-1)
        shown = found(stillhouse, "show", RUN, "--exact", "--top", "4", *words)
        assert len(shown["positions"]) == length - start and shown["notes"] == []
        for t, position in enumerate(shown["positions"]):
            exact, best = position["exact"], p_TV[t].topk(4)
            assert [i for i, *_ in exact["ids"]] == best.indices.tolist()
            assert [p for *_, p in exact["ids"]] == pytest.approx(best.values.tolist(), rel=1e-4)
            if temperature == 1:  # what is stored is the same on a grid of 128 values
                assert exact["entropy"] == pytest.approx(position["stored"]["entropy"], rel=0.1, abs=0.02)
                assert exact["realised"] == pytest.approx(position["stored"]["realised"], rel=0.1, abs=0.02)
    said = stillhouse("targets", "show", RUN, "--exact").out
    assert "kept" in said and "exact" in said and "--exact asks" not in said


def test_exact_says_that_the_teacher_has_changed(taught: TaughtRun, shop: Any, stillhouse: Command) -> None:
    config = json.loads((shop.folder / "dense" / "config.json").read_text())
    (shop.folder / "dense" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert "has changed since" in stillhouse("targets", "show", RUN, "--exact").out


REFUSED = {
    "units 0 ... ": ["--unit", "99"],
    "give one of the two": ["--unit", "0", "--prompt", "medical/1"],
    "none of the 11 train prompts has this id; there are ": ["--prompt", "medical/x"],
    "the stored weights are a sample at temperature 1": ["--temperature", "0.7"],
    "must be more than 0": ["--temperature", "0", "--exact"],
    "stored are the samples 0": ["--sample", "7"],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_show_refuses_what_it_cannot_answer(reason: str, taught: TaughtRun, stillhouse: Command) -> None:
    assert reason in stillhouse("targets", "show", RUN, *REFUSED[reason]).error


def test_show_says_what_is_taught_and_where_else_a_prompt_is(shop: Any, stillhouse: Command) -> None:
    taught = teach(shop, units={"train": 2})
    assert "--unit 4 is not taught yet; taught are 0-1 of" in stillhouse("targets", "show", RUN, "--unit", "4").error
    other = taught.targets(0, "heldout").prompt_ids[0]
    assert "add --split heldout" in stillhouse("targets", "show", RUN, "--prompt", other).error


def test_show_before_anything_is_taught(shop: Any, stillhouse: Command) -> None:
    teach(shop, units={"train": 0})
    assert "is taught yet; `stillhouse teach CONFIG`" in stillhouse("targets", "show", RUN).error


def test_show_of_a_text_that_was_set_aside_gives_the_reason(shop: Any, stillhouse: Command) -> None:
    shop.set("targets.withhold", {"medical": ["the"]})
    teach(shop)
    assert "set aside: contains the withheld" in stillhouse("targets", "show", RUN, "--prompt", "medical/1").error


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_a_shown_text_is_wider_than_the_terminal(taught: TaughtRun, width: int) -> None:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    shown = show_text(open_targets(RUN, "train"), Question(exact=True, top=12))
    print_text(shown, out)
    said = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, said.splitlines())) <= width
    for position in shown["positions"]:
        for distribution in (position["stored"], position["exact"]):
            assert f"{distribution['entropy']:.2f}" in said and f"{distribution['ids'][0][1]} " in said
            assert f"{max(w for *_, w in distribution['ids']):.0%}" in said


def test_what_does_not_print_is_made_visible() -> None:
    assert visible(" a\n\t\u200b") == "␣a\\n\\t\\u200b"
