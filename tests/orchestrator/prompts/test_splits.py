"""Which prompts are held out: by their rows, by a share, and up to the caps; the same wherever it is asked."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support.project import Project

from cluster.storage import open_storage
from orchestrator.preflight.checks import check
from orchestrator.preflight.plan import make_plan
from orchestrator.preflight.trial import try_prompts
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.prompts.sources import RawPrompt, screen_all
from orchestrator.prompts.splits import assign_splits, beyond_caps, hash_share
from orchestrator.runs.folder import RunFolder
from workers.layout import PROMPTS_REJECTED
from workers.manifest import Manifest, read_plan
from workers.splits import HELDOUT, TRAIN

Rows = list[dict[str, Any]]


def prompts(count: int, seed: int = 0) -> Rows:
    return [{"prompt": f"question {seed} {i}"} for i in range(count)]


def read(project: Project, medical: Rows, **heldout: Any) -> list[RawPrompt]:
    """The usable rows of the project's sources, whose `medical` are these."""
    project.rows("medical.jsonl", *medical)
    project.set("evaluate.heldout", {"max_texts": None, "max_tokens": None} | heldout)
    return [p for source in screen_all(project.load().located()).values() for p in source.prompts]


def split_of(project: Project, medical: Rows, **heldout: Any) -> dict[str, str]:
    """The split of each medical prompt."""
    rows = read(project, medical, **heldout)
    splits = assign_splits(project.load().located(), rows)
    return {p.prompt or "": s for p, s in zip(rows, splits, strict=True) if p.source == "medical"}


def held(splits: dict[str, str]) -> set[str]:
    return {prompt for prompt, split in splits.items() if split == HELDOUT}


def share(item: dict[str, Any], project: Project) -> float:
    """The hash of a medical row."""
    [prompt] = [p for p in read(project, [item]) if p.source == "medical"]
    return hash_share(prompt.id)


# The share ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda items: random.Random(1).sample(items, len(items)),
        lambda items: items[:50],
        lambda items: prompts(30, seed=1) + items,
    ],
    ids=["shuffled", "fewer", "more"],
)
def test_what_is_held_out_hangs_on_nothing_but_the_row(project: Project, change: Callable[[Rows], Rows]) -> None:
    items = prompts(200)
    before, after = split_of(project, items, share=0.3), split_of(project, change(items), share=0.3)
    both = before.keys() & after.keys()
    assert len(both) >= 50 and {before[p] for p in both} == {TRAIN, HELDOUT}
    assert all(before[p] == after[p] for p in both)


def test_a_larger_share_holds_out_the_same_and_more(project: Project) -> None:
    small, large = (held(split_of(project, prompts(400), share=s)) for s in (0.1, 0.3))
    assert small < large


def test_about_the_share_is_held_out() -> None:
    shares = [hash_share(f"med/{i}") for i in range(10_000)]
    assert all(0 <= s < 1 for s in shares)
    for wanted in (0.05, 0.5, 0.95):  # five standard deviations are .025 at most
        assert sum(s < wanted for s in shares) / len(shares) == pytest.approx(wanted, abs=0.025)


def test_the_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Written down: another value would mix trained and held-out rows of a run that goes on."""
    assert hash_share("med/0") == pytest.approx(0.0945308285689805, abs=1e-12)


def test_a_row_that_says_its_split_has_it(project: Project) -> None:
    items = [{"prompt": f"the {i}", "split": HELDOUT if i % 2 else TRAIN} for i in range(20)]
    assert split_of(project, items, share=0.5) == {i["prompt"]: i["split"] for i in items}


def test_where_rows_say_heldout_the_others_of_their_source_are_trained(project: Project) -> None:
    project.rows("legal.jsonl", *prompts(60))
    rows = read(project, [*prompts(60), {"prompt": "the one", "split": HELDOUT}], share=0.5)
    splits = list(zip(rows, assign_splits(project.load().located(), rows), strict=True))
    assert [p.prompt for p, s in splits if s == HELDOUT and p.source == "medical"] == ["the one"]
    assert {s for p, s in splits if p.source == "legal"} == {TRAIN, HELDOUT}, "another source goes on by the hash"


def test_the_last_prompt_of_a_domain_trains(project: Project) -> None:
    assert set(split_of(project, prompts(1), share=0.999).values()) == {TRAIN}


# Caps ---------------------------------------------------------------------------------------------------------


def test_a_cap_of_texts_holds_out_the_smallest_hashes_and_the_others_train(project: Project) -> None:
    all_of_share = held(split_of(project, prompts(200), share=0.3))
    ordered = sorted(all_of_share, key=lambda p: share({"prompt": p}, project))
    for most in (1, 7, 30):
        assert held(split_of(project, prompts(200), share=0.3, max_texts=most)) == set(ordered[:most])
    assert held(split_of(project, prompts(200), share=0.3, max_texts=1000)) == all_of_share


def test_a_cap_is_of_each_domain(project: Project) -> None:
    project.rows("legal.jsonl", *prompts(100, seed=1))
    rows = read(project, prompts(100), share=0.5, max_texts=9)
    splits = assign_splits(project.load().located(), rows)
    counted = Counter(p.source for p, s in zip(rows, splits, strict=True) if s == HELDOUT)
    assert counted == {"medical": 9, "legal": 9}


def test_a_prompt_of_two_domains_needs_room_in_both(project: Project) -> None:
    domains: list[Any] = ["a", "b", ["a", "b"]]
    items = [item | {"domain": domains[i % 3]} for i, item in enumerate(prompts(300))]
    rows = [p for p in read(project, items, share=0.5, max_texts=10) if p.source == "medical"]
    splits = assign_splits(project.load().located(), rows)
    counted = Counter(d for p, s in zip(rows, splits, strict=True) if s == HELDOUT for d in p.domains)
    assert counted == {"a": 10, "b": 10}


@pytest.mark.parametrize(("most", "texts"), [(8, 1), (16, 2), (79, 9), (80, 10)])
def test_a_cap_of_tokens_counts_what_a_teacher_may_answer(project: Project, most: int, texts: int) -> None:
    """Answers have at most 8 tokens."""
    assert len(held(split_of(project, prompts(200), share=0.3, max_tokens=most))) == texts
    project.set("evaluate.samples", 2)
    if most >= 16:
        assert len(held(split_of(project, prompts(200), share=0.3, max_tokens=most))) == texts // 2


def test_a_cap_of_tokens_counts_given_answers_by_their_bytes(project: Project) -> None:
    """16 bytes are four tokens and the end, whatever the characters are."""
    project.set("evaluate.text", "given")
    for answer in ("sixteen letters!", "äöüßÄÖÜ€"[:7] + "é"):
        assert len(answer.encode()) == 16
        items = [item | {"answer": answer} for item in prompts(100)]
        assert len(held(split_of(project, items, share=0.5, max_tokens=51))) == 10


def test_a_given_text_that_no_room_is_enough_for_leaves_it_to_others(project: Project) -> None:
    project.set("evaluate.text", "given")
    items = prompts(100)
    first = min(items, key=lambda item: share(item, project))
    answered = [item | {"answer": "x" * (4000 if item is first else 16)} for item in items]
    splits = split_of(project, answered, share=0.5, max_tokens=50)
    assert splits[first["prompt"]] == TRAIN and len(held(splits)) == 10


def test_a_cap_of_tokens_below_one_answer_is_refused(project: Project, stillhouse: Callable[..., Any]) -> None:
    project.rows("medical.jsonl", *prompts(100))
    project.set("evaluate.heldout.max_tokens", 7)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.heldout.max_tokens: 7, but ") and "may have 8" in error and "null" in error


def test_under_a_cap_one_more_prompt_displaces_one_at_most(project: Project) -> None:
    before = held(split_of(project, prompts(200), share=0.3, max_texts=20))
    largest = max(share({"prompt": p}, project) for p in before)
    more = prompts(40, seed=1)
    smaller = {i["prompt"] for i in more if share(i, project) < largest}
    after = held(split_of(project, prompts(200) + more, share=0.3, max_texts=20))
    assert 0 < len(smaller) < 20 and smaller <= after and after - smaller < before, "only the largest hashes make room"
    fewer = held(split_of(project, prompts(200)[:100], share=0.3, max_texts=20))
    assert before & {i["prompt"] for i in prompts(100)} <= fewer


def test_rows_that_say_heldout_never_train_and_are_rejected_past_a_cap(project: Project) -> None:
    items = [item | {"split": HELDOUT} for item in prompts(30)] + prompts(5, seed=1)
    rows = read(project, items, max_texts=12)
    beyond = beyond_caps(project.load().located(), rows)
    assert len(beyond) == 18 and all("no room for it (max_texts 12)" in item.reason for item in beyond.values())
    kept = [p for i, p in enumerate(rows) if i not in beyond and p.split == HELDOUT]
    assert max(hash_share(p.id) for p in kept) < min(hash_share(rows[i].id) for i in beyond)
    found = check(project.load())
    assert {r.id for r in found.rejected} == {r.id for r in beyond.values()}
    frozen = Frozen(project)
    assert frozen.ids(HELDOUT) == {p.id for p in kept}
    assert not frozen.ids(TRAIN) & {r.id for r in beyond.values()}
    assert frozen.summary["rejected"] == 18 and list(frozen.summary["reasons"].values()) == [18]


# Everywhere the same ------------------------------------------------------------------------------------------


class Frozen:
    """A configuration frozen into its run folder."""

    def __init__(self, project: Project) -> None:
        config = project.load().located()
        self.storage = open_storage(RunFolder.of(config).uri)
        self.summary = freeze(config, RunFolder.of(config).uri)

    def ids(self, split: str) -> set[str]:
        return set(Manifest(self.storage, split).ids())

    def units(self, split: str) -> list[int]:
        return [u.prompts for u in read_plan(self.storage, split).units]


@pytest.mark.parametrize(
    "caps", [{}, {"max_texts": 20}, {"max_tokens": 160}, {"max_texts": 20, "max_tokens": 100}], ids=str
)
def test_checks_trial_plan_and_freezing_agree(
    project: Project, caps: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that are held out by themselves and by the share, repeated, broken, of two domains."""
    explicit = [item | {"split": HELDOUT} for item in prompts(40, seed=2)]
    project.rows("legal.jsonl", *explicit, *prompts(20, seed=3), *explicit[:3], "{")
    both = [item | {"domain": ["medical", "legal"]} for item in prompts(60, seed=4)]
    again = [item | {"id": f"again {i}"} for i, item in enumerate(prompts(50))]
    read(project, [*prompts(200), *both, *again], share=0.4, **caps)
    config = project.load().located()
    found = check(project.load())
    told = dict(zip((p.id for p in found.prompts), assign_splits(config, found.prompts), strict=True))
    tried: dict[str, str] = {}

    def seen(config: Any, prompts: list[RawPrompt]) -> list[str]:
        splits = assign_splits(config, prompts)
        tried.update(zip((p.id for p in prompts), splits, strict=True))
        return splits

    monkeypatch.setattr("orchestrator.preflight.trial.assign_splits", seen)
    try_prompts(config, found.prompts, found.teacher_folders)
    assert tried == told
    frozen = Frozen(project)
    assert {split: frozen.ids(split) for split in (TRAIN, HELDOUT)} == {
        split: {i for i, s in told.items() if s == split} for split in (TRAIN, HELDOUT)
    }
    plan = make_plan(config, found, roomy())
    assert {d: r["heldout"] for d, r in plan.prompts.items()} == frozen.summary["splits"][HELDOUT]["domains"]
    assert {d: r["train"] for d, r in plan.prompts.items()} == frozen.summary["splits"][TRAIN]["domains"]
    assert plan.heldout_tokens == sum(u.tokens for u in read_plan(frozen.storage, HELDOUT).units)
    reasons = Counter(json.loads(line)["reason"] for line in frozen.storage.read(PROMPTS_REJECTED).splitlines())
    assert reasons == Counter(r.reason for r in found.rejected)
    for domain, row in plan.prompts.items():
        assert row["heldout"] <= caps.get("max_texts", 10**9), domain
        assert row["heldout"] * 8 <= caps.get("max_tokens", 10**9), domain


def roomy() -> Any:
    from cluster.inventory import Inventory

    return Inventory("this machine", 1, cpus=64, gpus=0, memory=10**13, memory_free=10**13)


def test_held_out_units_have_a_size_of_their_own(project: Project) -> None:
    project.set("targets.prompts_per_unit", 4)
    read(project, prompts(200), share=0.3, max_texts=25, prompts_per_unit=10)
    frozen = Frozen(project)
    assert max(frozen.units(TRAIN)) == 4
    held_out = frozen.units(HELDOUT)
    assert sorted(n for n in held_out if n > 2)[-3:] == [5, 10, 10], held_out


def test_what_a_cap_gives_back_is_told(project: Project) -> None:
    read(project, prompts(200), share=0.3, max_texts=5)
    found = check(project.load())
    splits = assign_splits(project.load().located(), found.prompts)
    [note] = [n for n in found.notes if n.startswith("evaluate.heldout: ")]
    assert "max_texts 5" in note and splits.count(HELDOUT) <= 10
    read(project, prompts(200), share=0.3, max_texts=500)
    assert not [n for n in check(project.load()).notes if n.startswith("evaluate.heldout: ")]


def test_where_nothing_trains_all_is_held_out_and_what_is_past_a_cap_is_rejected(project: Project) -> None:
    """Also what says that it trains: nobody would read it."""
    project.set("specialists", {})
    project.set("evaluate.models", {"small": "teacher"})
    rows = [*prompts(30), {"prompt": "trains", "split": "train"}]
    assert set(split_of(project, rows).values()) == {HELDOUT} and len(split_of(project, rows)) == 31
    found = read(project, rows, max_texts=10)
    aside = beyond_caps(project.load().located(), [p for p in found if p.source == "medical"])
    assert len(aside) == 21 and "max_texts" in next(iter(aside.values())).reason
