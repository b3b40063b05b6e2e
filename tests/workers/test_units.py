"""The unit plan: a pure function of the prompts, in which every domain keeps pace with its demand."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import LocalStorage
from workers.layout import old_manifest_keys
from workers.manifest import PROMPT_SCHEMA, Manifest, is_frozen, read_plan, write_manifest
from workers.units import Prompt, UnitPlan, UnitSize, build_units

SETTINGS: dict[str, Any] = {"sizes": {"teacher": UnitSize(4)}, "seed": 3, "split": "train"}


def prompt(name: str, *domains: str, **fields: Any) -> Prompt:
    asked: dict[str, Any] = {
        "teacher": "teacher",
        "samples": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 8,
        "prompt_token_ids": [3, 4, 5],
        "answer_token_ids": None,
    }
    return Prompt(name, domains, **(asked | fields))


def mixed_prompts() -> list[Prompt]:
    """Three domains, prompts of two of them at once, given answers and several sampling settings."""
    found = [prompt(f"m{i}", "medical") for i in range(18)]
    found += [prompt(f"l{i}", "legal", samples=1) for i in range(7)]
    found += [prompt(f"l-cold{i}", "legal", temperature=0.5) for i in range(3)]
    found += [prompt(f"g{i}", "code", answer_token_ids=list(range(3, 4 + i))) for i in range(9)]
    found += [prompt(f"ml{i}", "medical", "legal") for i in range(5)]
    return found + [prompt(f"lm{i}", "legal", "medical") for i in range(2)]


def served_shares(blocks: Sequence[Sequence[Prompt]], domain: str) -> list[int]:
    """Running sum of a domain's tokens after each unit."""
    total, running = 0, []
    for block in blocks:
        total += sum(p.most_target_tokens for p in block) if domain in block[0].domains else 0
        running.append(total)
    return running


def test_the_plan_does_not_depend_on_the_order_of_prompts() -> None:
    demand = {"medical": 3.0, "legal": 1.0, "code": 1.0}
    plan, blocks = build_units(mixed_prompts(), demand, **SETTINGS)
    for seed in range(5):
        shuffled = mixed_prompts()
        random.Random(seed).shuffle(shuffled)
        assert build_units(iter(shuffled), dict(reversed(demand.items())), **SETTINGS) == (plan, blocks)


def test_prompts_that_end_otherwise_never_share_a_unit() -> None:
    others = [prompt(f"s{i}", "medical", stop=("END",)) for i in range(3)]
    others += [prompt(f"n{i}", "medical", min_new_tokens=2) for i in range(3)]
    _, blocks = build_units([*mixed_prompts(), *others], {}, **SETTINGS)
    assert all(len({(p.stop, p.min_new_tokens) for p in block if p.answer_token_ids is None}) <= 1 for block in blocks)


def test_what_ends_an_answer_survives_the_manifest(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    asked = [prompt("a", "x", stop=("\n\n", "é"), min_new_tokens=3)]
    write_manifest(storage, *build_units(asked, {}, **SETTINGS))
    assert Manifest(storage, "train").prompts(0) == asked


def test_manifests_from_before_they_had_shards_are_read(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    plan, blocks = build_units(mixed_prompts(), {"medical": 1}, **SETTINGS)
    rows = [[{**asdict(p), "unit": unit} for p in block] for unit, block in enumerate(blocks)]
    plan_key, key = old_manifest_keys("train")
    (tmp_path / key).parent.mkdir(parents=True)
    schema = pa.schema([("unit", pa.uint32()), *PROMPT_SCHEMA])
    with pq.ParquetWriter(tmp_path / key, schema) as writer:
        for block in rows:
            writer.write_table(pa.Table.from_pylist(block, schema), row_group_size=len(block))
    data = {"split": "train", "generation": "g0000", "units": [asdict(u) for u in plan.units]}
    storage.write(plan_key, json.dumps(data).encode())
    manifest = Manifest(storage, "train")
    assert read_plan(storage, "train") == plan and is_frozen(storage, "train")
    assert [manifest.prompts(u.index) for u in plan.units] == blocks
    assert manifest.unit_of("m3") == next(i for i, block in enumerate(blocks) if "m3" in {p.id for p in block})
    assert manifest.prompt_lengths(0) == {p.id: len(p.prompt_token_ids) for p in blocks[0]}


def test_every_prompt_is_in_exactly_one_unit() -> None:
    _, blocks = build_units(mixed_prompts(), {"medical": 1}, **SETTINGS)
    assert Counter(p.id for block in blocks for p in block) == Counter(p.id for p in mixed_prompts())


def test_a_unit_holds_few_prompts_of_one_kind() -> None:
    plan, blocks = build_units(mixed_prompts(), {"medical": 1, "legal": 1}, **SETTINGS)
    assert [u.index for u in plan.units] == list(range(len(blocks)))
    for unit, block in zip(plan.units, blocks, strict=True):
        assert 1 <= len(block) <= 4 and unit.prompts == len(block)
        assert {tuple(sorted(p.domains)) for p in block} == {unit.domains}
        assert {p.answer_token_ids is None for p in block} == {unit.generates}
        if unit.generates:
            assert len({(p.samples, p.temperature, p.top_p, p.max_new_tokens) for p in block}) == 1
        assert unit.tokens == sum(p.most_target_tokens for p in block)


def test_units_with_given_answers_keep_their_numbers() -> None:
    plan, blocks = build_units(mixed_prompts(), {"medical": 1}, **SETTINGS)
    given = plan.given()
    assert 0 < len(given.units) < len(plan.units) and given.generation == plan.generation
    assert all(p.answer_token_ids is not None for unit in given.units for p in blocks[unit.index])
    assert {u.index for u in plan.units} - {u.index for u in given.units} == {
        u.index for u in plan.units if u.generates
    }


def test_a_unit_ends_before_it_has_too_many_tokens() -> None:
    given = [prompt(f"g{i}", "code", answer_token_ids=[3] * (5 + 7 * (i % 4))) for i in range(30)]
    given.append(prompt("long", "code", answer_token_ids=[3] * 200))
    plan, blocks = build_units(given, {}, {"teacher": UnitSize(8, tokens=60)}, 3, "train")
    assert [len(b) for b in blocks if "long" in {p.id for p in b}] == [1]
    assert all(u.tokens <= 60 or u.prompts == 1 for u in plan.units)
    assert max(u.prompts for u in plan.units) > 1
    assert Counter(p.id for block in blocks for p in block) == Counter(p.id for p in given)


def test_prompts_are_shuffled_by_seed() -> None:
    prompts = [prompt(f"p{i:03}", "medical") for i in range(40)]
    plans = [build_units(prompts, {}, SETTINGS["sizes"], seed, "train")[1] for seed in (1, 2)]
    orders = [tuple(p.id for block in blocks for p in block) for blocks in plans]
    companies = [frozenset(frozenset(p.id for p in block) for block in blocks) for blocks in plans]
    assert len(set(companies)) == 2  # not just the same units in another order
    assert len(set(orders)) == 2
    assert tuple(p.id for p in prompts) not in orders


@pytest.mark.parametrize(
    "demand", [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 5.0, "b": 2.0, "c": 1.0}, {"a": 3e7, "b": 1e7, "c": 1e6}]
)
def test_domains_keep_pace_with_their_demand(demand: dict[str, float]) -> None:
    """While all have units left, served tokens over demand differ by at most one unit's."""
    prompts = [prompt(f"{d}{i}", d, max_new_tokens=4 + 3 * k) for k, d in enumerate(demand) for i in range(80)]
    plan, blocks = build_units(prompts, demand, **SETTINGS)
    running = {d: served_shares(blocks, d) for d in demand}
    for n in range(len(blocks)):
        if any(running[d][n] == running[d][-1] for d in demand):
            break
        paces = {d: running[d][n] / demand[d] for d in demand}
        largest = max(u.tokens / demand[u.domains[0]] for u in plan.units)
        assert max(paces.values()) - min(paces.values()) <= largest * (1 + 1e-9)


def test_a_unit_of_two_domains_serves_both() -> None:
    prompts = [prompt(f"a{i}", "a") for i in range(40)] + [prompt(f"b{i}", "b") for i in range(40)]
    prompts += [prompt(f"ab{i}", "a", "b") for i in range(40)]
    plan, blocks = build_units(prompts, {"a": 1, "b": 1}, **SETTINGS)
    a, b = served_shares(blocks, "a"), served_shares(blocks, "b")
    assert all(abs(x - y) <= max(u.tokens for u in plan.units) for x, y in zip(a, b, strict=True))
    both = [u.index for u in plan.units if u.domains == ("a", "b")]
    assert len(both) == 10
    assert set(both) == set(plan.of_domain("a")) & set(plan.of_domain("b"))
    assert plan.of_domain("a") == sorted(plan.of_domain("a"))


def test_what_nobody_asks_for_goes_last() -> None:
    prompts = [prompt(f"{d}{i}", d) for d in ("asked", "idle", "zero") for i in range(12)]
    plan, _ = build_units(prompts, {"asked": 1.0, "zero": 0.0}, **SETTINGS)
    assert [u.domains == ("asked",) for u in plan.units] == [True] * 3 + [False] * 6
    assert plan.domains == ["asked", "idle", "zero"]


def test_no_prompts_make_no_units() -> None:
    assert build_units([], {"a": 1.0}, **SETTINGS) == (UnitPlan("train", ()), [])


def test_the_manifest_gives_back_prompts_and_plan(local: LocalStorage) -> None:
    prompts = [
        *mixed_prompts(),
        prompt("empty answer", "code", answer_token_ids=[]),
        prompt("é\n", "code", prompt_token_ids=[200_000]),
    ]
    plan, blocks = build_units(prompts, {"medical": 2, "code": 1}, **SETTINGS)
    with pytest.raises(FileNotFoundError):
        read_plan(local, "train")
    write_manifest(local, plan, blocks)
    assert read_plan(local, "train") == plan
    manifest = Manifest(local, "train")
    for index in [*range(len(blocks)), 0]:
        assert manifest.prompts(index) == blocks[index]
        assert manifest.prompt_lengths(index) == {p.id: len(p.prompt_token_ids) for p in blocks[index]}
    assert sorted(manifest.ids()) == sorted(p.id for p in prompts)
    assert "é\n" in {p.id for p in blocks[manifest.unit_of("é\n") or 0]} and manifest.unit_of("no") is None


def test_splits_have_manifests_of_their_own(local: LocalStorage) -> None:
    for split in ("train", "heldout"):
        write_manifest(local, *build_units([prompt(split, "a")], {}, {"teacher": UnitSize(4)}, 3, split))
    assert [Manifest(local, s).prompts(0)[0].id for s in ("train", "heldout")] == ["train", "heldout"]
    assert read_plan(local, "heldout").split == "heldout"
