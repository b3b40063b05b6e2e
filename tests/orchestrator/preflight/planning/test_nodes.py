"""`stillhouse plan --nodes`: what is placed where on nodes that are not there, what does not fit, and that what is
proposed then does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from support.project import LARGE_STUDENT, Project

Command = Callable[..., Any]
TYPE = "ray.io/accelerator-type"


def plan(project: Project, stillhouse: Command, nodes: str, *words: str) -> dict[str, Any]:
    outcome = stillhouse("plan", project.write(), "--nodes", nodes, "--json", *words)
    assert outcome.out, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    assert outcome.code == (1 if found["problems"] else 0), outcome.err
    return found


def parts(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in found["parts"]}


# What fits ------------------------------------------------------------------------------------------------------


def test_all_of_a_run_on_two_nodes(large: Project, stillhouse: Command) -> None:
    found = plan(large, stillhouse, "h100:8x2")
    assert found["problems"] == [] and found["inventory"]["gpus"] == 16 and found["free_bytes"] is None
    teacher, student = parts(found)["teacher teacher"], parts(found)["specialist legal"]
    assert teacher["placed"] == {"h100": 4} and student["placed"] == {"h100": 2} and not student["waits"]
    assert 9e9 < teacher["gpu_memory"] < 11e9, "a quarter of the experts and the dense weights"
    assert 16e9 < student["gpu_memory"] < 50e9 and student["memory"] < 8e9, "weights pass through the host, no more"
    assert not [note for note in found["notes"] if "room for" in note], "both replicas find room beside the students"


def test_experts_that_one_gpu_would_hold_are_told(large: Project, stillhouse: Command) -> None:
    """Whoever follows the note gets a plan without it, that fits."""
    [note] = [note for note in plan(large, stillhouse, "h100:8x2")["notes"] if "ep_size" in note]
    assert note.startswith("teacher.ep_size: 4, but one GPU of h100 holds all of it") and "replicas [1, 8]" in note
    assert not [note for note in plan(large, stillhouse, "l4:8x2")["notes"] if "ep_size" in note], "22 GB hold a part"
    large.set("teacher.ep_size", 1)
    large.set("teacher.replicas", [1, 8])
    found = plan(large, stillhouse, "h100:8x2")
    assert found["problems"] == [] and not [note for note in found["notes"] if "ep_size" in note]


def test_steps_that_are_small_for_their_gpus_are_told_once(large: Project, stillhouse: Command) -> None:
    assert not [note for note in plan(large, stillhouse, "h100:8x2")["notes"] if "batch_tokens" in note]
    large.set("defaults.train", {**large.data["defaults"]["train"], "workers": [2, 4]})
    [note] = [note for note in plan(large, stillhouse, "h100:8x2")["notes"] if "batch_tokens" in note]
    assert note.startswith("specialists medical, legal: train.batch_tokens 16,384") and "32,768" in note
    large.set("defaults.train.batch_tokens", 32_768)
    assert not [note for note in plan(large, stillhouse, "h100:8x2")["notes"] if "batch_tokens" in note]


def test_keys_that_programs_read(large: Project, stillhouse: Command) -> None:
    found = plan(large, stillhouse, "h100:8x2")
    assert {"heldout_bytes", "train_bytes", "parts", "problems", "notes", "sources", "inventory", "prompts"} <= set(
        found
    )
    assert all(type(found[key]) is int for key in ("heldout_bytes", "train_bytes", "train_tokens", "heldout_tokens"))
    for part in found["parts"]:
        assert {"kind", "name", "count", "least", "cpus", "gpus", "detail", "placed", "waits"} <= set(part)
        assert all(type(part[key]) is int and part[key] >= 0 for key in ("count", "memory", "gpu_memory"))
        assert bool(part["gpu_memory"]) == bool(part["gpus"])
    assert [part["kind"] for part in found["parts"]] == ["teacher", "student", "student", "evaluator"]


def test_slots_in_use_are_told_and_a_gpu_that_would_run_empty_is_noted(large: Project, stillhouse: Command) -> None:
    large.set("teacher.sampling", {"max_new_tokens": 8, "samples": 256})
    found = plan(large, stillhouse, "h100:8x2")
    # A unit of each domain, of 8 prompts x 256 texts: four for each of 4 x 128 slots.
    told = {"slots": 512, "units_at_once": 1}
    assert found["slots"]["teacher"] == told | {"in_use": 384.0, "share": 0.75, "unit_texts": 2048}
    assert not any("slots of a replica" in note for note in found["notes"])
    large.set("targets", {"prompts_per_unit": 1})
    large.set("teacher.units_at_once", 1)
    found = plan(large, stillhouse, "h100:8x2")
    assert found["slots"]["teacher"] == told | {"in_use": 128, "share": 0.25, "unit_texts": 256}
    [note] = [note for note in found["notes"] if "slots of a replica" in note]
    assert note.startswith("teacher: about 128 of 512 slots of a replica would be in use (25%)")
    assert "leave targets.prompts_per_unit out, or leave teacher.units_at_once out" in note
    large.set("teacher.gpus_per_rank", 0)
    assert not any("slots of a replica" in note for note in plan(large, stillhouse, "h100:8x2")["notes"])


def test_initial_weights_of_a_base_are_made_before_training(large: Project, stillhouse: Command) -> None:
    large.model("dense", experts=0)
    large.weights("dense", {f"model.layers.{i}.mlp.up_proj.weight": [2, 10**9] for i in range(2)})
    large.set("defaults.model", "dense")
    made = parts(plan(large, stillhouse, "h100:8x2"))["initial weights"]
    assert made["kind"] == "initial" and made["placed"] == {"h100": 1} and made["memory"] > 8e9


def test_a_run_without_gpus(project: Project, stillhouse: Command) -> None:
    found = plan(project, stillhouse, "cpu:0x3")
    assert found["problems"] == []
    assert all(part["placed"] == {"cpu": 1} and part["gpu_memory"] == 0 for part in found["parts"])


def test_what_waits_for_others(large: Project, stillhouse: Command) -> None:
    found = plan(large, stillhouse, "h100:6x1")
    assert found["problems"] == []
    assert [name for name, part in parts(found).items() if part["waits"]] == ["specialist legal"]
    [note] = [note for note in found["notes"] if "no room at once" in note]
    assert note.startswith("specialist legal:")
    assert any("teacher: room for 1 of at most 2 replicas" in note for note in found["notes"])


def test_vllm_need_not_be_on_this_machine(large: Project, stillhouse: Command) -> None:
    large.set("teacher.engine", "vllm")
    large.set("teacher.ep_size", 1)
    assert "vllm" in stillhouse("plan", large.write()).error
    assert plan(large, stillhouse, "h100:8x2")["problems"] == []


def test_a_table_for_a_person(large: Project, stillhouse: Command) -> None:
    said = stillhouse("plan", large.write(), "--nodes", "h100:8x1,h100:4x1,cpu:0x2").out
    assert "1 x h100: 192 CPUs" in said and "1 x h100: 96 CPUs" in said and "2 x cpu: 64 CPUs" in said
    placed, timed = [line for line in said.splitlines() if line.startswith("specialist legal  ")]
    assert placed.split()[2:5] == ["2", "1", "1"] and placed.endswith("2 on h100")
    assert " legal.hard_labels " in timed and "in all: " in said


# What does not --------------------------------------------------------------------------------------------------


def proposed(problem: str, pattern: str) -> str:
    found = re.search(pattern, problem)
    assert found, problem
    return found[1]


def test_students_too_large_for_their_gpus_and_what_makes_them_fit(large: Project, stillhouse: Command) -> None:
    [problem] = plan(large, stillhouse, "l4:8x2")["problems"]
    assert problem.startswith("specialists.medical.train, specialists.legal.train: a process holds ")
    assert "22.8 GB (l4, 95% of 1 GPU)" in problem
    workers = int(proposed(problem, r"zero: 3 over workers: (\d+)"))
    kind = proposed(problem, r"nodes of (\S+) \(")
    assert plan(large, stillhouse, f"{kind}:8x2")["problems"] == []
    assert plan(large, stillhouse, "l4:8x1")["problems"]
    large.set("defaults.train", {**large.data["defaults"]["train"], "zero": 3, "workers": workers})
    assert plan(large, stillhouse, "l4:8x2")["problems"] == []


def test_changes_that_are_enough_only_together(large: Project, stillhouse: Command) -> None:
    large.set("defaults.train", {**large.data["defaults"]["train"], "workers": 1})
    problem = plan(large, stillhouse, "tiny:8x2", *kind("tiny", "14G"))["problems"][0]
    few = int(proposed(problem, r"all of these: gradient_checkpointing: true, micro_tokens: (\d+)"))
    workers = int(proposed(problem, r"zero: 3, workers: (\d+)"))
    changes = {"gradient_checkpointing": True, "micro_tokens": few, "zero": 3, "workers": workers}
    large.set("defaults.train", {**large.data["defaults"]["train"], **changes})
    left = plan(large, stillhouse, "tiny:8x2", *kind("tiny", "14G"))["problems"]
    assert not [p for p in left if "specialists" in p]


def test_the_least_share_of_layers_that_makes_a_student_fit(large: Project, stillhouse: Command) -> None:
    train = large.data["defaults"]["train"]
    student = parts(plan(large, stillhouse, "h100:8x2"))["specialist legal"]
    wanted = (student["gpu_memory"] - 0.45 * student["gpu_memory_of"]["activations"]) / 0.95
    nodes = ("mid:8x2", *kind("mid", str(round(wanted))))

    def too_large(share: str) -> str:
        large.set("defaults.train", {**train, "gradient_checkpointing": share})
        return next((p for p in plan(large, stillhouse, *nodes)["problems"] if p.startswith("specialists.")), "")

    share = int(proposed(too_large("0%"), r"gradient_checkpointing: (\d+)%"))
    assert 40 <= share <= 70, "45 % of what is kept, less the inputs of layers"
    assert not too_large(f"{share}%") and too_large(f"{share - 10}%")


def test_a_chunk_of_logits_is_as_large_as_the_gpu_allows(large: Project, stillhouse: Command) -> None:
    teacher = large.folder / "teacher" / "config.json"
    teacher.write_text(json.dumps({**json.loads(teacher.read_text()), "vocab_size": 151_936}))
    held = {n: parts(plan(large, stillhouse, f"{n}:8x2"))["specialist legal"]["gpu_memory_of"] for n in ("h100", "l4")}
    assert held["h100"]["logits"] == pytest.approx(2 * held["l4"]["logits"], rel=0.01)
    assert {**held["h100"], "logits": 0} == {**held["l4"], "logits": 0}


def test_a_text_longer_than_a_micro_batch_is_held_as_a_whole(large: Project, stillhouse: Command) -> None:
    train = {**large.data["defaults"]["train"], "micro_tokens": 1024}
    large.set("defaults.train", train)
    short = parts(plan(large, stillhouse, "h100:8x2"))["specialist legal"]["gpu_memory_of"]["activations"]
    large.set("teacher.sampling", {"max_new_tokens": 4096})
    long = parts(plan(large, stillhouse, "h100:8x2"))["specialist legal"]["gpu_memory_of"]["activations"]
    assert long > 3.9 * short
    large.set("defaults.texts", {"max_tokens": 1024})
    assert parts(plan(large, stillhouse, "h100:8x2"))["specialist legal"]["gpu_memory_of"]["activations"] == short


def kind(name: str, gpu_memory: str, **more: Any) -> list[str]:
    sizes = {"gpu_memory": gpu_memory, "host_memory": "1T", "cpus": 96, **more}
    return ["--set", f"cluster.node_kinds.{name}={json.dumps(sizes)}"]


def test_a_teacher_too_large_for_its_gpus(large: Project, stillhouse: Command) -> None:
    large.set("teacher.ep_size", 1)
    [problem] = [p for p in plan(large, stillhouse, "l4:8x2")["problems"] if p.startswith("teacher:")]
    ranks = int(proposed(problem, r"ep_size: (\d+)"))
    large.set("teacher.ep_size", ranks)
    assert not [p for p in plan(large, stillhouse, "l4:8x2")["problems"] if p.startswith("teacher:")]
    if ranks > 2:
        large.set("teacher.ep_size", ranks // 2)
        assert [p for p in plan(large, stillhouse, "l4:8x2")["problems"] if p.startswith("teacher:")]


def test_an_evaluator_too_large_for_its_gpu(large: Project, stillhouse: Command) -> None:
    large.set("evaluate", {"gpus": 0.15})
    assert plan(large, stillhouse, "h100:8x2")["problems"] == []
    [problem] = [p for p in plan(large, stillhouse, "l4:8x2")["problems"] if p.startswith("evaluate: ")]
    assert "95% of 0.15 GPU" in problem and "nodes of " in problem


def test_an_evaluator_that_asks_the_teacher_holds_all_of_it(large: Project, stillhouse: Command) -> None:
    before = parts(plan(large, stillhouse, "h100:8x2"))["evaluator"]
    row = {"prompt": "the fever is", "choices": ["high", "rest"], "answer": 0, "domain": "medical"}
    large.rows("tasks.jsonl", row)
    large.set("evaluate.tasks", {"facts": "tasks.jsonl"})
    after = parts(plan(large, stillhouse, "h100:8x2"))["evaluator"]
    assert 26e9 < after["gpu_memory"] - before["gpu_memory"] < 29e9, "30 GB where the largest was a student of 2.8"
    [problem] = [p for p in plan(large, stillhouse, "l4:8x2")["problems"] if p.startswith("evaluate: ")]
    assert "tasks: {}" in problem


@pytest.mark.parametrize(("gpus", "fits"), [(2, True), (1, False)])
def test_vllm_spreads_a_rank_over_its_gpus_and_nothing_else_does(
    large: Project, stillhouse: Command, gpus: int, fits: bool
) -> None:
    settings = {"model": "teacher", "gpus_per_rank": gpus, "sampling": {"max_new_tokens": 8}}
    large.set("teacher", {**settings, "engine": "vllm", "vllm": {"tensor_parallel": gpus}})
    nodes = ("mid:8x2", *kind("mid", "30G"))

    def too_large() -> bool:
        return any(p.startswith("teacher:") for p in plan(large, stillhouse, *nodes)["problems"])

    assert too_large() != fits
    large.set("teacher", settings)
    assert too_large()


def test_ray_may_choose_the_smaller_gpus(large: Project, stillhouse: Command) -> None:
    [problem] = plan(large, stillhouse, "h100:8x2,l4:8x1")["problems"]
    assert "Ray looks at no memory, and may put it there instead of on h100" in problem
    assert "label_selector: {ray.io/accelerator-type: 'H100'}" in problem
    labels = {"ray.io/accelerator-type": "H100"}
    large.set("defaults.train", {**large.data["defaults"]["train"], "label_selector": labels})
    found = plan(large, stillhouse, "h100:8x2,l4:8x1")
    assert found["problems"] == [] and parts(found)["specialist legal"]["placed"] == {"h100": 2}


def test_several_kinds_in_one_word_or_in_several(large: Project, stillhouse: Command) -> None:
    one = plan(large, stillhouse, "h100:8x1,h200:8x1")
    two = plan(large, stillhouse, "h100:8x1", "--nodes", "h200:8x1")
    assert one == two and one["inventory"]["nodes"] == 2


def test_each_part_goes_to_the_smallest_gpus_that_hold_it(large: Project, stillhouse: Command) -> None:
    """A replica takes four GPUs of one node, and students those that they fit: large ones are left to the teacher."""
    found = plan(large, stillhouse, "h200:4x2,h100:2x2")
    assert found["problems"] == []
    assert parts(found)["teacher teacher"]["placed"] == {"h200": 4} == parts(found)["teacher teacher"]["further"]
    assert parts(found)["specialist medical"]["placed"] == parts(found)["specialist legal"]["placed"] == {"h100": 2}
    notes = [note for note in found["notes"] if "this plan takes" in note]
    assert notes[0].startswith("teacher: this plan takes h200 first") and "may take h100" in notes[0]
    assert notes[1].startswith("specialists.medical.train, specialists.legal.train: this plan takes h100 first")
    assert "label_selector: {ray.io/accelerator-type: 'H100'}" in notes[1]
    large.set("defaults.train", {**large.data["defaults"]["train"], "label_selector": {TYPE: "H200"}})
    found = plan(large, stillhouse, "h200:4x2,h100:2x2")
    assert parts(found)["specialist medical"]["placed"] == {"h200": 2}
    assert not [note for note in found["notes"] if "specialists.medical.train: this plan" in note]


def test_each_part_goes_where_it_costs_least_if_all_kinds_have_prices(large: Project, stillhouse: Command) -> None:
    nodes = ("h100:8x1,h200:8x1", "--set")
    for prices, where in (({"h100": 80, "h200": 40}, "h200"), ({"h100": 80}, "h100"), ({"h100": 0, "h200": 0}, "h100")):
        found = plan(large, stillhouse, *nodes, f"cluster.prices.node_hour={json.dumps(prices)}")
        assert parts(found)["teacher teacher"]["placed"] == {where: 4}


def test_a_part_takes_larger_gpus_where_the_smaller_ones_are_taken(large: Project, stillhouse: Command) -> None:
    found = plan(large, stillhouse, "h200:8x1,h100:2x1")
    placed = [parts(found)[f"specialist {name}"]["placed"] for name in ("medical", "legal")]
    assert placed == [{"h100": 2}, {"h200": 2}] and found["problems"] == []


def test_too_few_gpus(large: Project, stillhouse: Command) -> None:
    problems = plan(large, stillhouse, "h100:1x3")["problems"]
    assert any(p.startswith("teacher: a replica finds no place") and "ep_size" in p for p in problems)
    large.set("teacher.replicas", [2, 2])
    [problem] = plan(large, stillhouse, "h100:4x1")["problems"]
    assert problem.startswith("teacher.replicas: of the least 2, 1 find a place at once")
    large.set("evaluate", {"gpus": 16})
    assert any(
        p.startswith("evaluate: the evaluator finds no place") for p in plan(large, stillhouse, "h100:8x2")["problems"]
    )


def test_nodes_without_what_a_part_asks_for(large: Project, stillhouse: Command) -> None:
    large.set("teacher.label_selector", {"role": "teacher"})
    [problem] = plan(large, stillhouse, "h100:8x2")["problems"]
    assert "no node has the label role=teacher" in problem
    labelled = 'cluster.node_kinds.h100={"labels": {"role": "teacher"}}'
    assert plan(large, stillhouse, "h100:8x2", "--set", labelled)["problems"] == []


def test_processes_that_hold_more_than_their_node(project: Project, stillhouse: Command) -> None:
    """Students on CPUs of a node with many CPUs and little memory."""
    project.set("defaults.model.config", {"model_type": "qwen3", "tie_word_embeddings": True, **LARGE_STUDENT})
    small = kind("small", "0", gpus=0, host_memory="60G")
    [problem, *others] = plan(project, stillhouse, "small:0x2", *small)["problems"]
    assert problem.startswith("a node of small, which has 60.0 GB of memory, holds ")
    assert "1 of specialist medical" in problem and "1 of specialist legal" in problem and not others
    assert plan(project, stillhouse, "small:0x2", *kind("small", "0", gpus=0, host_memory="200G"))["problems"] == []


# Refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", ["", "h100", "h1000:8x2", "h100:8x0", "cpu:1x1", "h100:8x2,\n"])
def test_what_is_not_nodes_is_refused(project: Project, stillhouse: Command, nodes: str) -> None:
    assert stillhouse("plan", project.write(), "--nodes", nodes).error.startswith("error: --nodes: ")


def test_one_cluster_is_planned_for(project: Project, stillhouse: Command) -> None:
    assert "--connect, --nodes" in stillhouse("plan", project.write(), "--connect", "--nodes", "h100:8x2").error


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host_memory": "1T", "cpus": 8}, "cluster.node_kinds.rig.gpu_memory: is missing"),
        ({"gpu_memory": "lots"}, "cluster.node_kinds.rig.gpu_memory: expected a whole number"),
        ({"gpu_memory": "1G", "host_memory": 0, "cpus": 8}, "cluster.node_kinds.rig.host_memory"),
        ({"memory": "1G"}, "cluster.node_kinds.rig.memory: unknown key"),
    ],
)
def test_a_kind_that_makes_no_sense(project: Project, stillhouse: Command, settings: dict[str, Any], said: str) -> None:
    project.set("cluster.node_kinds", {"rig": settings})
    assert said in stillhouse("plan", project.write(), "--nodes", "rig:2x1").error
