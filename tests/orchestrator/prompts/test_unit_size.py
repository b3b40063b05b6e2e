"""Sizes of units: small on CPUs, by slots and tokens on GPUs; and which of them are made together."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.unit_size import (
    TOGETHER_TOKENS,
    UNIT_TOKENS,
    share_in_use,
    texts_of,
    together_tokens,
    unit_size,
    units_together,
)
from workers.targets.config import TargetsConfig
from workers.units import Unit, UnitSize


def config(teacher: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return validate(
        {
            "name": "trial",
            "teacher": {"model": "t", "gpus_per_rank": 1, **(teacher or {})},
            "prompts": {"medical": "m.jsonl"},
            "specialists": {"medical": {"model": "s"}},
            **changes,
        }
    )


def size(made: RunConfig, split: str = "train", prompts: int | None = None) -> UnitSize:
    return unit_size(made, "teacher", split, prompts)


def units(count: int, *, prompts: int = 16, tokens: int = 4096) -> list[Unit]:
    return [Unit(i, ("medical",), "teacher", prompts, tokens, True) for i in range(count)]


def lengths(made: RunConfig, planned: list[Unit], most: int = TOGETHER_TOKENS) -> list[int]:
    teacher = made.teachers["teacher"]
    groups = units_together(teacher, planned, lambda u: texts_of(made, u, "train"), most)
    assert [u for group in groups for u in group] == planned
    return [len(group) for group in groups]


@pytest.mark.parametrize(
    ("teacher", "prompts"),
    [
        ({}, 4 * 128),
        ({"batch": 16}, 4 * 16),
        ({"ep_size": 8}, 4 * 128 * 8),
        ({"ep_size": 8, "dispatch": "all_reduce"}, 4 * 128),  # the ranks share each text
        ({"sampling": {"samples": 4}}, 128),
        ({"gpus_per_rank": 0}, 16),
    ],
)
def test_a_unit_on_a_gpu_gives_each_slot_four_texts(teacher: dict[str, Any], prompts: int) -> None:
    gpu = teacher.get("gpus_per_rank", 1) > 0
    assert size(config(teacher)) == UnitSize(prompts, UNIT_TOKENS if gpu else None)
    assert size(config(teacher), "heldout") == UnitSize(32)


def test_a_unit_is_what_the_settings_say() -> None:
    assert size(config(targets={"prompts_per_unit": 7})) == UnitSize(7, UNIT_TOKENS)
    assert size(config({"gpus_per_rank": 0}, targets={"prompts_per_unit": 7})) == UnitSize(7)
    for gpus in (0, 1):
        found = size(config({"gpus_per_rank": gpus}, targets={"unit_tokens": "2M"}))
        assert found.tokens == 2_000_000 and found.prompts > 10**6
    assert size(config(targets={"unit_tokens": 100, "prompts_per_unit": 3})) == UnitSize(3, 100)


def test_few_prompts_are_cut_so_that_all_replicas_have_some() -> None:
    """3,000 prompts over 4 replicas: four units each, where 4,096 texts would be a unit of one of them."""
    made = config({"ep_size": 8, "replicas": 4})
    assert size(made, prompts=3000).prompts == 188 and size(made, prompts=10**6).prompts == 4096
    assert size(made, prompts=40).prompts == 16
    assert size(config({"gpus_per_rank": 0, "replicas": 4}), prompts=40).prompts == 16


def test_a_unit_with_whole_distributions_finds_room() -> None:
    for scheme, tokens in (("full", 1 << 12), ("hidden", 1 << 18)):
        assert size(config(targets={"scheme": scheme})).tokens == tokens
        assert together_tokens(TargetsConfig(scheme=scheme), 1 << 18) == tokens  # type: ignore[arg-type]
    assert together_tokens(TargetsConfig(), 1 << 18) == TOGETHER_TOKENS
    many = TargetsConfig(scheme="topk", top_k=4096)
    assert size(config(targets=many.model_dump())).tokens == together_tokens(many, 1 << 18) == (1 << 32) // (6 * 4096)


def test_a_unit_is_sized_by_the_texts_that_its_own_prompts_get() -> None:
    """128 slots with four texts each: given answers are one text of a prompt, whatever the teacher samples."""
    made = config({"sampling": {"samples": 8}})
    assert unit_size(made, "teacher", "train").prompts == 64
    assert unit_size(made, "teacher", "train", texts=1).prompts == 512
    assert unit_size(made, "teacher", "train", texts=16).prompts == 32


def test_units_are_made_together_until_each_slot_has_enough_texts() -> None:
    vllm = {"engine": "vllm"}
    assert lengths(config(vllm), units(300)) == [64] * 4 + [44]
    assert lengths(config(vllm | {"sampling": {"samples": 2}}), units(300)) == [32] * 9 + [12]
    assert lengths(config(vllm), units(6, prompts=512)) == [2, 2, 2]
    assert lengths(config(), units(300)) == [32] * 9 + [12], "the next ones are begun meanwhile"
    assert lengths(config(), units(6, prompts=512)) == [1] * 6
    assert lengths(config({"gpus_per_rank": 0}), units(3)) == [1, 1, 1]
    assert lengths(config({"units_at_once": 4}), units(10)) == [4, 4, 2]


def test_units_made_together_are_bounded_by_tokens_and_shared_by_replicas() -> None:
    assert lengths(config(), units(10, tokens=1000), most=2500) == [2] * 5
    assert lengths(config(), units(3, tokens=9000), most=2500) == [1, 1, 1], "one that is too large is made alone"
    assert lengths(config({"replicas": 4}), units(32)) == [4] * 8


def test_more_texts_keep_more_slots_in_use() -> None:
    """Beside what an engine that only sleeps has in use (slots.py of tests/benchmarks/size_bench)."""
    counted = {1 / 16: (0.039, 0.077), 1 / 2: (0.26, 0.515), 1: (0.515, 0.791), 4: (0.74, 0.922), 8: (0.831, 0.932)}
    for each, shares in counted.items():
        for share, begins_next in zip(shares, (False, True), strict=True):
            assert share_in_use(each * 128, 128, begins_next=begins_next) == pytest.approx(share, abs=0.02)
