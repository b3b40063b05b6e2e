"""Hours and dollars of `stillhouse plan --nodes`: which parts they are known of, how they follow from nodes and tokens,
and what is said where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.project import Project

Command = Callable[..., Any]


def plan(project: Project, stillhouse: Command, *words: str) -> dict[str, Any]:
    outcome = stillhouse("plan", project.write(), "--json", *words)
    assert outcome.code in (0, 1) and outcome.out, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def on(project: Project, stillhouse: Command, nodes: str, *words: str) -> dict[str, Any]:
    return plan(project, stillhouse, "--nodes", nodes, *words)


def part(found: dict[str, Any], name: str) -> dict[str, Any]:
    own: dict[str, Any] = found["hours"]["parts"][name]
    return own


def test_every_part_has_its_hours(large: Project, stillhouse: Command) -> None:
    for domain in ("medical", "legal"):
        split = [*["train"] * 6, *["heldout"] * 2]
        large.rows(f"{domain}.jsonl", *({"prompt": f"the {domain} {i}", "split": s} for i, s in enumerate(split)))
    hours = on(large, stillhouse, "h100:8x2")["hours"]
    assert list(hours["parts"]) == ["teacher teacher", "specialist medical", "specialist legal", "evaluator"]
    assert hours["efficiencies"] == {"training": 0.35, "prefill": 0.5, "bandwidth": 0.6, "layer_ms": 2.0}
    for own in hours["parts"].values():
        assert own["hours"] > 0 and own["source"] == "roofline" and own["bound"]
        assert own["ends"] >= own["starts"] + own["hours"] - 1e-12
    assert hours["wall"] == hours["parts"]["evaluator"]["ends"] and hours["rates"] is None
    students = [hours["parts"][f"specialist {name}"] for name in ("medical", "legal")]
    assert {own["starts"] for own in students} == {0}, "they train while the teacher works"
    assert hours["parts"]["evaluator"]["starts"] == max(own["ends"] for own in students)


def test_a_teacher_by_hand(large: Project, stillhouse: Command) -> None:
    """16 texts of 8 tokens at most on two replicas of four ranks: 8 steps of each. A rank reads a gigabyte of dense
    weights twice over, and a quarter of those experts that 16 texts are sent to (two of four each)."""
    model = json.loads((large.folder / "teacher/config.json").read_text())
    large.json("teacher/config.json", model | {"num_experts_per_tok": 2})
    efficiency = json.dumps({"layer_ms": 0, "bandwidth": 1, "prefill": 1})
    found = on(large, stillhouse, "h100:8x2", "--set", f"cluster.efficiency={efficiency}")
    work, slots = found["hours"]["parts"]["teacher teacher"], found["slots"]["teacher"]
    assert work["bound"] == "bandwidth" and set(work["steps"]) == {"reading", "writing"}
    texts = min(slots["in_use"], 16)
    touched = 14e9 * (1 - 0.5**texts)
    step = 2 * (1e9 + touched / 4) / 3.35e12
    assert work["steps"]["writing"] * 3600 == pytest.approx(step * 16 * 8 / texts, rel=1e-3), "the cache is small"
    assert work["hours"] == pytest.approx((work["steps"]["writing"] + work["steps"]["reading"]) / 2), "two replicas"


def test_a_student_by_hand(large: Project, stillhouse: Command) -> None:
    large.set("evaluate.baselines", [])
    nodes = {"bf16_tflops": 100, "memory_bandwidth": "900T"}
    kind = ["--set", f"cluster.node_kinds.h100={json.dumps(nodes)}", "--set", "cluster.efficiency.training=50%"]
    own = part(on(large, stillhouse, "h100:8x2", *kind), "specialist medical")
    body = 28 * (2048 * 128 * (2 * 16 + 2 * 8) + 3 * 2048 * 6144)
    tokens = 1000 * (8 + len("the medical fever 1") // 4) / 8  # prompts are read with their answers
    flops = 6 * body * tokens + 6 * 12 * 2048 * 1000
    assert own["bound"] in ("compute", "teacher")
    assert own["hours"] * 3600 == pytest.approx(flops / (2 * 100e12 * 0.5), rel=1e-3)
    assert own["tokens_per_s"] == pytest.approx(1000 / (own["hours"] * 3600))


def test_twice_the_nodes_are_never_slower_and_more_tokens_never_faster(large: Project, stillhouse: Command) -> None:
    walls = [on(large, stillhouse, f"h100:8x{n}")["hours"]["wall"] for n in (1, 2, 4)]
    assert walls == sorted(walls, reverse=True)
    assert on(large, stillhouse, "h200:8x2")["hours"]["wall"] <= walls[1]
    large.set("defaults.train.tokens", 2000)
    large.set("teacher.sampling.max_new_tokens", 16)
    assert on(large, stillhouse, "h100:8x2")["hours"]["wall"] > walls[1]


def test_who_waits_for_a_place_begins_when_another_ends(large: Project, stillhouse: Command) -> None:
    found = on(large, stillhouse, "h100:6x1")
    first, second = part(found, "specialist medical"), part(found, "specialist legal")
    ends = [part(found, "teacher teacher")["ends"], first["ends"]]
    assert second["starts"] == min(ends) and second["ends"] > second["starts"]
    assert part(found, "evaluator")["starts"] >= second["ends"]


def test_a_student_cannot_end_before_the_teacher_has_made_what_it_reads(large: Project, stillhouse: Command) -> None:
    slow = ["--set", "cluster.efficiency.layer_ms=100000"]
    found = on(large, stillhouse, "h100:8x2", *slow)
    own, teacher = part(found, "specialist medical"), part(found, "teacher teacher")
    assert teacher["bound"] == "launches" and own["bound"] == "teacher" and own["ends"] > teacher["ends"]
    large.set("teacher.engine", "vllm")
    large.set("teacher.ep_size", 1)
    assert part(on(large, stillhouse, "h100:8x2", *slow), "teacher teacher")["bound"] != "launches"


# What is not known --------------------------------------------------------------------------------------------


def test_this_machine_has_no_hours(project: Project, stillhouse: Command) -> None:
    found = plan(project, stillhouse)
    assert found["hours"]["wall"] is None and found["dollars"] is None
    assert all(own["hours"] is None for own in found["hours"]["parts"].values())
    [note] = [n for n in found["notes"] if n.startswith("hours of ")]
    assert "how fast CPUs compute is not known" in note and "--rates RUN" in note
    assert "in all:" not in stillhouse("plan", project.write()).out


@pytest.mark.parametrize("lacking", ["bf16_tflops", "memory_bandwidth"])
def test_a_kind_whose_speed_is_not_known_has_none(large: Project, stillhouse: Command, lacking: str) -> None:
    rig = {"gpu_memory": "80G", "host_memory": "2T", "cpus": 192, "gpus": 8}
    rig |= {"bf16_tflops": 400, "memory_bandwidth": "2T"}
    large.set("cluster.node_kinds", {"rig": {k: v for k, v in rig.items() if k != lacking}})
    found = on(large, stillhouse, "rig:8x2")
    assert found["problems"] == [] and found["hours"]["wall"] is None
    assert any(f"cluster.node_kinds.rig says no {lacking}" in note for note in found["notes"])
    large.set("cluster.node_kinds", {"rig": rig})
    assert on(large, stillhouse, "rig:8x2")["hours"]["wall"] > 0


def test_float32_on_gpus_has_none(large: Project, stillhouse: Command) -> None:
    large.set("defaults.train.dtype", "float32")
    found = on(large, stillhouse, "h200:8x2")
    assert part(found, "specialist medical")["hours"] is None and part(found, "teacher teacher")["hours"] > 0
    assert found["hours"]["wall"] is None and any("float32" in n for n in found["notes"])


def test_what_finds_no_place_has_none(large: Project, stillhouse: Command) -> None:
    large.set("teacher.replicas", [2, 2])
    found = on(large, stillhouse, "h100:4x1")
    assert found["problems"] and part(found, "teacher teacher")["hours"] is None and found["hours"]["wall"] is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node_kinds.h100.bf16_tflops", 0),
        ("node_kinds.h100.bf16_tflops", -1),
        ("node_kinds.h100.memory_bandwidth", 0),
        ("node_kinds.h100.memory_bandwidth", "fast"),
        ("efficiency.training", 0),
        ("efficiency.training", "120%"),
        ("efficiency.layer_ms", -1),
        ("efficiency.decode", 0.5),
        ("prices.node_hour.h100", -1),
        ("prices.node_hour.h1000", 1),
    ],
)
def test_figures_that_make_no_sense_are_refused(large: Project, stillhouse: Command, key: str, value: Any) -> None:
    large.set(f"cluster.{key}", value)
    assert f"cluster.{key.rpartition('.')[0]}" in stillhouse("plan", large.write(), "--nodes", "h100:8x2").error


# Dollars ------------------------------------------------------------------------------------------------------


def test_all_nodes_are_paid_for_as_long_as_the_run_takes(large: Project, stillhouse: Command) -> None:
    large.set("cluster.prices", {"node_hour": {"h100": 80.0}})
    found = on(large, stillhouse, "h100:8x2,h100:4x1")
    dollars, hours = found["dollars"], found["hours"]
    assert dollars["total"] == pytest.approx((80 + 80 + 40) * hours["wall"])
    assert dollars["idle"] == pytest.approx(dollars["total"] - sum(dollars["parts"].values()))
    student = part(found, "specialist medical")
    assert dollars["parts"]["specialist medical"] == pytest.approx(2 * 10 * (student["ends"] - student["starts"]))
    assert "of it idle" in stillhouse("plan", large.write(), "--nodes", "h100:8x2").out


@pytest.mark.parametrize(
    ("prices", "total"),
    [
        ({"node_hour": {"h100": 0}}, 0.0),
        ({"gpu_hour": 0, "cpu_hour": 0}, 0.0),
        ({"gpu_hour": 2.0}, 16 * 2.0),
        ({"node_hour": {"l4": 8}}, None),
        ({"cpu_hour": 0.1}, None),
    ],
)
def test_prices_of_nothing_and_of_others(
    large: Project, stillhouse: Command, prices: dict[str, Any], total: float | None
) -> None:
    large.set("cluster.prices", prices)
    found = on(large, stillhouse, "h100:8x2")
    if total is None:
        assert found["dollars"]["total"] is None and any(n.startswith("dollars: ") for n in found["notes"])
    else:
        assert found["dollars"]["total"] == pytest.approx(total * found["hours"]["wall"])


def test_dollars_of_hours_that_are_not_known(project: Project, stillhouse: Command) -> None:
    project.set("cluster.prices", {"node_hour": {"cpu": 3.2}})
    found = on(project, stillhouse, "cpu:0x2")
    assert found["dollars"]["total"] is None and "dollars: not known, as the hours are not" in found["notes"]
