"""The plan: numbers that a person can check by hand, what does not fit, and its JSON."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import Project, hand_checked

from cluster.inventory import Inventory
from cluster.resources import Node
from orchestrator.config.loading import ConfigFile
from orchestrator.preflight import plan as plan_module
from orchestrator.preflight.checks import check
from orchestrator.preflight.parts import Part
from orchestrator.preflight.plan import RunPlan, make_plan
from orchestrator.runs.folder import RunFolder

Command = Callable[..., Any]

ROOMY = Inventory("this machine", 1, cpus=64, gpus=0, memory=10**13, memory_free=10**13)
VOCABULARY = 12


def planned(project: Project, inventory: Inventory = ROOMY, **changes: Any) -> RunPlan:
    file: ConfigFile = project.load()
    return make_plan(file.located(), check(file), dataclasses.replace(inventory, **changes))


def part(plan: RunPlan, name: str) -> Part:
    [found] = [p for p in plan.parts if p.name == name]
    return found


# Numbers ------------------------------------------------------------------------------------------------------


def test_prompts_and_tokens_of_answers(project: Project) -> None:
    hand_checked(project)
    plan = planned(project)
    # Generated: 2 samples x 8 tokens. Given: 4 tokens and the end. Held out: 1 sample x 8.
    assert plan.prompts == {
        "medical": {"train": 4, "heldout": 1, "tokens": 4 * 16 + 8},
        "legal": {"train": 2, "heldout": 0, "tokens": 5 + 16},
    }
    assert (plan.train_tokens, plan.heldout_tokens, plan.rejected) == (4 * 16 + 5, 8, 1)


def test_tokens_of_all_positions_count_the_prompts_too(project: Project) -> None:
    hand_checked(project)
    project.set("targets.positions", "all")
    plan = planned(project)
    assert plan.train_tokens == 4 * 2 * (8 + 10) + (5 + 10)
    assert plan.heldout_tokens == 8, "held-out targets are at the answer only"


@pytest.mark.parametrize("word", ["a", "contract"])
def test_tokens_of_given_text_are_those_of_its_tokenizer(project: Project, word: str) -> None:
    """However many characters they have."""
    text = " ".join([word] * 30)
    others = [" ".join([word] * i + [f"x{word[1:]}"] + [word] * (29 - i)) for i in range(30)]
    project.rows("legal.jsonl", *({"prompt": other, "answer": text, "split": "train"} for other in others))
    project.rows("medical.jsonl", {"prompt": "the fever", "answer": text, "split": "train"})
    project.set("targets.positions", "all")
    plan = planned(project)
    assert plan.prompts["legal"]["tokens"] == 30 * (30 + 30 + 1) and plan.given_tokens["medical"] == 2 + 30 + 1


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("float16", 2)])
def test_bytes_of_full_distributions(project: Project, precision: str, width: int) -> None:
    hand_checked(project)
    project.set("targets", {"scheme": "full", "precision": precision})
    project.set("evaluate.precision", precision)
    plan = planned(project)
    assert plan.heldout_bytes == 8 * VOCABULARY * width
    assert 69 * VOCABULARY * width <= plan.train_bytes <= 69 * (VOCABULARY * width + 20)


@pytest.mark.parametrize(("dtype", "width"), [("auto", 4), ("bfloat16", 2)])
def test_bytes_of_hidden_states_and_their_head(project: Project, dtype: str, width: int) -> None:
    hand_checked(project)
    project.set("evaluate.targets", "hidden")
    project.set("teacher.dtype", dtype)
    before = part(planned(project), "specialist legal")
    project.set("targets.scheme", "hidden")
    plan = planned(project)
    assert plan.heldout_bytes == 32 * width * (8 + VOCABULARY)
    assert plan.train_bytes == 32 * width * (69 + VOCABULARY)
    legal = part(plan, "specialist legal")
    assert legal.memory_of["teacher_head"] == 32 * width * VOCABULARY and "teacher's head" in legal.detail
    project.set("specialists.legal.loss", {"kl": 0, "ce": 1})  # labels need no distribution
    assert part(planned(project), "specialist legal").memory == before.memory


def test_a_student_holds_the_heads_of_its_own_teachers(project: Project) -> None:
    project.rows("medical.jsonl", {"prompt": "a fever", "split": "train"})
    project.rows("legal.jsonl", {"prompt": "a rule", "split": "train"})
    project.set("evaluate.baselines", ["generalist"])
    teacher = project.data.pop("teacher")
    project.set("teachers", {"one": teacher, "two": {**teacher, "dtype": "bfloat16"}})
    project.set("domains.legal.teacher", "two")
    project.set("specialists.legal.mix", {"legal": 1})
    names = [f"specialist {n}" for n in ("medical", "legal", "generalist")]
    assert not any("teacher_head" in part(planned(project), name).memory_of for name in names)
    project.set("targets.scheme", "hidden")
    one, two = 32 * VOCABULARY * 4, 32 * VOCABULARY * 2
    assert [part(planned(project), name).memory_of["teacher_head"] for name in names] == [one, two, one + two]


def test_bytes_of_sampled_distributions_grow_more_slowly_than_draws(project: Project) -> None:
    hand_checked(project)
    sizes = []
    for draws in (20, 40):
        project.set("targets.draws", draws)
        sizes.append(planned(project).train_bytes / 69)
    # 17.9 bytes a token were measured at 20 draws.
    assert 14 < sizes[0] < 27 and sizes[0] < sizes[1] < 2 * sizes[0]


def test_parameters_and_memory_of_a_student(project: Project) -> None:
    # Per layer: queries and output 2 x 32 x 16, keys and values 2 x 32 x 16, gated MLP 3 x 32 x 64. Tied embeddings.
    parameters = 2 * (4 * 32 * 16 + 3 * 32 * 64) + VOCABULARY * 32
    one = part(planned(project), "specialist legal")
    assert one.count == one.least == 1
    project.set("defaults.train", {"tokens": 1000, "workers": 2, "zero": 3})
    two = part(planned(project), "specialist legal")
    assert two.count == two.least == 2
    # One alone holds weights, gradients and two moments, 4 bytes each. Of two, each holds half of all that, of masters
    # and of summed gradients at stage 3, beside all weights gathered and a bucket of all gradients, twice each; at
    # stage 1 weights, gradients and the bucket, and half of moments, masters and summed gradients.
    assert two.memory - one.memory == parameters * (24 // 2 + 8 + 8 - 16)
    project.set("defaults.train.zero", 1)
    assert part(planned(project), "specialist legal").memory - one.memory == parameters * (12 + 16 // 2 - 16)


def test_a_students_weights_come_to_its_gpu_part_by_part(project: Project) -> None:
    """What is read at once, in float32 as random weights lie there: a layer, or the embeddings, which are the head."""
    project.set("defaults.train", {"tokens": 1000, "workers": 2, "gpus_per_worker": 1})
    held = part(planned(project), "specialist legal").memory_of
    assert held["weights_on_their_way"] == 4 * max(4 * 32 * 16 + 3 * 32 * 64, VOCABULARY * 32)


def test_memory_of_a_teacher_shares_its_experts(project: Project) -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "embed.weight": {"dtype": "F32", "shape": [5, 4], "data_offsets": [0, 80]},
            "layers.0.mlp.experts.0.up.weight": {"dtype": "F32", "shape": [10, 20], "data_offsets": [80, 880]},
        }
    ).encode()
    (project.folder / "teacher" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(880))
    memory = {}
    for ranks in (1, 2, 4):
        project.set("teacher.ep_size", ranks)
        teacher = part(planned(project), "teacher teacher")
        assert teacher.count == teacher.least == ranks
        memory[ranks] = teacher.memory_of["weights"]
        assert teacher.memory_of["weights_file"] == memory[ranks], "on a CPU, pages of their file that were read"
    assert memory[1] - memory[2] == 100 * 4 and memory[2] - memory[4] == 50 * 4


def test_replicas_of_a_teacher_are_a_range(project: Project) -> None:
    project.set("teacher", {"model": "teacher", "ep_size": 2, "replicas": [2, 5], "cpus_per_rank": 0.5})
    teacher = part(planned(project), "teacher teacher")
    assert (teacher.count, teacher.least, teacher.cpus) == (10, 4, 0.5)
    assert "2-5 replicas" in teacher.detail and "4 experts over 2 ranks" in teacher.detail


def test_a_plan_has_a_part_for_each_that_computes(project: Project) -> None:
    plan = planned(project)
    students = ["specialist medical", "specialist legal"]
    assert [p.name for p in plan.parts] == ["teacher teacher", *students, "evaluator"]
    assert plan.folder == str(project.folder / "runs" / "trial")


def test_the_generalist_is_in_the_plan(project: Project) -> None:
    project.set("evaluate.baselines", ["generalist"])
    plan = planned(project, cpus=3)
    assert any("generalist" in p.name for p in plan.parts)
    assert any("some specialists wait" in n for n in plan.notes), "teacher, two specialists and the generalist want 4"


def test_a_plan_says_what_given_text_takes_vllm(project: Project) -> None:
    project.set("teacher", {"model": "teacher", "engine": "vllm", "vllm": {"python": sys.executable}})
    assert not [n for n in planned(project).notes if "vllm" in n], "all answers are to be made"
    hand_checked(project)
    [note] = [n for n in planned(project).notes if "vllm" in n]
    assert note.startswith("teacher.engine: vllm takes a pass for each token") and "systematic" in note
    project.set("targets", {"scheme": "topk"})
    plan = planned(project)
    assert not [n for n in plan.notes if "vllm" in n] and "vLLM" in part(plan, "teacher teacher").detail


# What does not fit --------------------------------------------------------------------------------------------


def test_a_roomy_machine_has_no_problems(project: Project) -> None:
    plan = planned(project)
    assert plan.problems == []
    assert not [n for n in plan.notes if "wait" in n]


def test_too_few_cpus_for_the_teacher(project: Project) -> None:
    project.set("teacher", {"model": "teacher", "ep_size": 4, "cpus_per_rank": 2, "replicas": [1, 3]})
    [problem] = [p for p in planned(project, cpus=7).problems if "teacher" in p]
    assert "reserve 8 cpus, there are 7" in problem and "cpus_per_rank" in problem and "ep_size" in problem
    assert planned(project, cpus=8).problems == [], "the least replicas count, not the most"


def test_too_few_cpus_for_one_specialist(project: Project) -> None:
    project.set("specialists.legal.train", {"workers": 4, "cpus_per_worker": 2})
    [problem] = planned(project, cpus=7).problems
    assert problem.startswith("specialist legal reserves 8 cpus, there are 7") and "train.workers" in problem


def test_gpus_that_are_not_there(project: Project) -> None:
    project.set("teacher.gpus_per_rank", 1)
    project.set("specialists.legal.train", {"gpus_per_worker": 1})
    problems = planned(project).problems
    assert any("1 gpus, there are 0" in p and "gpus_per_rank" in p for p in problems)
    assert any(p.startswith("specialist legal reserves 1 gpus") for p in problems)
    assert planned(project, gpus=2).problems == []


@pytest.mark.parametrize(("cpus", "waits"), [(2, True), (3, False)])
def test_a_note_where_specialists_wait_for_one_another(project: Project, cpus: int, waits: bool) -> None:
    plan = planned(project, cpus=cpus)
    assert plan.problems == []
    notes = [n for n in plan.notes if "some specialists wait" in n]
    assert bool(notes) == waits
    if waits:
        assert "reserve 3 cpus, there are 2" in notes[0]


@pytest.mark.parametrize("there", [True, False])
def test_a_plan_tells_of_vllm_where_it_is_there_for_gpus(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    if there:
        (tmp_path / "vllm.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
    notes = [planned(project, gpus=1).notes]
    project.set("teacher.gpus_per_rank", 1)
    notes.append(planned(project, gpus=1).notes)
    told = [any(note.startswith("teacher.engine: transformers, though vLLM") for note in some) for some in notes]
    assert told == [False, there]


@pytest.mark.parametrize("kind", ["cpus", "gpus"])
def test_an_evaluator_that_never_finds_its_place(project: Project, kind: str) -> None:
    project.set(f"evaluate.{kind}", 1000)
    assert any("evaluat" in p for p in planned(project).problems)


def test_a_disk_too_small(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_checked(project)
    needed = planned(project).train_bytes + planned(project).heldout_bytes
    monkeypatch.setattr(plan_module, "free_bytes", lambda _: needed - 1)
    [problem] = planned(project).problems
    assert problem.startswith("targets take about ") and "storage elsewhere" in problem
    monkeypatch.setattr(plan_module, "free_bytes", lambda _: needed)
    assert planned(project).problems == []
    monkeypatch.setattr(plan_module, "free_bytes", lambda _: None)
    assert planned(project).problems == [], "a bucket has no end"


def test_memory_of_this_machine(project: Project) -> None:
    [problem] = planned(project, memory=10**6).problems
    assert "at once, this machine has 1.0 MB" in problem
    assert planned(project, memory=10**6, source="the Ray cluster").problems == []


def test_a_domain_that_nobody_asks_for_is_noted(project: Project) -> None:
    project.rows("other.jsonl", {"prompt": "a rule"})
    project.set("prompts.other", "other.jsonl")
    assert any("'other'" in n and "captured last" in n for n in planned(project).notes)
    assert not any("'medical'" in n and "captured last" in n for n in planned(project).notes)


def test_a_specialist_without_held_out_prompts_is_noted(project: Project) -> None:
    project.rows("medical.jsonl", *({"prompt": f"the {i}", "split": "train"} for i in range(4)))
    project.rows("legal.jsonl", *({"prompt": f"a {i}", "split": "heldout" if i else "train"} for i in range(4)))
    plan = planned(project)
    assert any("medical" in n and "held" in n for n in [*plan.notes, *plan.problems])


@pytest.mark.parametrize(
    ("gpus", "written", "tokens", "words"),
    [
        (0, None, 3000, "3,200 target tokens more, 100% of their specialists' 3,200 (evaluate.control_tokens: null is"),
        (1, None, 300, "500 target tokens more, 15.6% of their specialists' 3,200 (evaluate.control_tokens: null is"),
        (0, "10%", 300, "320 target tokens more, 10% of their specialists' 3,200 (evaluate.control_tokens); each"),
    ],
)
def test_what_controls_cost(project: Project, gpus: int, written: str | None, tokens: int, words: str) -> None:
    project.set("specialists.legal.train", {"tokens": 3000, "gpus_per_worker": gpus})
    project.set("specialists.medical.train", {"tokens": 200})
    project.set("evaluate.control_tokens", written)
    plan = planned(project, gpus=1)
    assert plan.control_tokens["legal"] == tokens
    assert f"tokens of legal 75%, medical 25%; then its control (hard_labels) on {tokens:,} of them" in (
        part(plan, "specialist legal").detail
    )
    [note] = [n for n in plan.notes if n.startswith("controls")]
    assert words in note and ("compared with its specialist as it was" in note) == (tokens < 3000)


def test_two_controls_cost_twice_as_much(project: Project) -> None:
    for domain in ("medical", "legal"):
        project.rows(f"{domain}.jsonl", *({"prompt": f"the {domain} {i}", "answer": "is high"} for i in range(8)))
    project.set("specialists.legal.train", {"tokens": 3000})
    project.set("specialists.medical.train", {"tokens": 200})
    project.set("evaluate", {"baselines": ["hard_labels", "given_answers"], "control_tokens": "10%"})
    plan = planned(project)
    assert (
        "then its controls (hard_labels, given_answers), each on 300 of them" in part(plan, "specialist legal").detail
    )
    [note] = [n for n in plan.notes if n.startswith("controls")]
    assert note.startswith("controls (hard_labels, given_answers) train on 640 target tokens more, 20% of")


def test_a_specialist_that_learns_from_labels_costs_no_control(project: Project) -> None:
    project.set("specialists.legal", {"loss": {"kl": 0, "ce": 1}})
    plan = planned(project)
    assert plan.control_tokens.keys() == {"medical"} and "control" not in part(plan, "specialist legal").detail


def test_without_controls_the_plan_tells_none(project: Project) -> None:
    project.set("evaluate.baselines", ["initial"])
    plan = planned(project)
    assert plan.control_tokens == {} and not [n for n in plan.notes if n.startswith("controls")]
    assert "control" not in part(plan, "specialist legal").detail


def test_the_plan_of_a_run_that_exists_has_its_controls(project: Project, stillhouse: Command) -> None:
    file: ConfigFile = project.load("evaluate.control_tokens=50%")
    RunFolder.of(file.located()).open(file)
    found = json.loads(stillhouse("plan", project.write(), "--json").out)["control_tokens"]
    assert found["legal"] == file.config.specialists["legal"].train.tokens // 2


# Words --------------------------------------------------------------------------------------------------------


def test_json_of_a_plan(project: Project, stillhouse: Command) -> None:
    hand_checked(project)
    outcome = stillhouse("plan", project.write(), "--json", "--set", "cluster.cpus=5")
    data = json.loads(outcome.out)
    assert outcome.out.count("\n") == 1
    assert data["name"] == "trial" and data["inventory"]["cpus"] == 5
    assert data["train_tokens"] == 69 and data["prompts"]["legal"]["train"] == 2
    assert [p["name"] for p in data["parts"]] == [p.name for p in planned(project).parts]
    assert data["problems"] == []


def test_json_of_a_plan_is_strict_json(project: Project, stillhouse: Command) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(stillhouse("plan", project.write(), "--json").out, parse_constant=refuse)


def test_a_plan_for_a_person(project: Project, stillhouse: Command) -> None:
    hand_checked(project)
    out = stillhouse("plan", project.write()).out
    for words in ("run trial", "medical", "specialist legal", "evaluator", "69 tokens", "1 prompt rows rejected"):
        assert words in out


# Shape ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "lacking"),
    [
        ("cpus_per_rank", 2, "one process wants 2 CPU, the largest node has 1"),
        ("label_selector", {"role": "teacher"}, "no node has the label role=teacher; there are none of that name"),
        ("accelerator_type", "H100", "no node has accelerators of type H100; there are ['A100']"),
    ],
)
def test_a_replica_that_fits_no_node_is_a_problem_of_a_known_cluster(
    project: Project, setting: str, value: Any, lacking: str
) -> None:
    node = Node("10.0.0.1", {"CPU": 1.0, "accelerator_type:A100": 1.0}, {}, {})
    project.set(f"teacher.{setting}", value)
    problem = f"teacher: a replica finds no place on this cluster: {lacking}"
    assert any(p.startswith(problem) for p in planned(project, members=(node, node)).problems)
    assert not any(p.startswith(problem) for p in planned(project).problems), "its nodes are not known yet"
