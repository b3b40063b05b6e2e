"""`stillhouse plan --rates RUN`: hours by what a run measured, and which runs are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.project import Project

from cluster.inventory import Inventory
from orchestrator.preflight.checks import check
from orchestrator.preflight.plan import make_plan
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.rates import RunRates

Command = Callable[..., Any]
MACHINE = Inventory("this machine", 1, cpus=64, gpus=0, memory=10**13, memory_free=10**13)


def rates(project: Project, **changes: Any) -> RunRates:
    """Of a run of this configuration: 4 tokens a second of a replica after 10 s, 5 of a worker."""
    found = RunRates(
        run="first",
        uri="runs/first",
        on="CPUs",
        config=project.load().config,
        teachers={"teacher": 4.0},
        starts={"teacher": 10.0},
        students={"medical": 5.0, "legal": 5.0, "legal.hard_labels": 20.0},
        parameters={},
        text_targets=None,
        prepare_s=7.0,
        evaluate_s=90.0,
        export_s=3.0,
    )
    return replace(found, **changes)


def planned(project: Project, measured: RunRates, **have: Any) -> RunPlan:
    file = project.load()
    return make_plan(file.located(), check(file), replace(MACHINE, **have), measured)


def ends(plan: RunPlan, part: str) -> float:
    """In seconds."""
    assert plan.hours is not None
    end = plan.hours.parts[part].ends
    assert end is not None
    return end * 3600


@pytest.fixture
def measured(project: Project) -> Project:
    """16 texts of 8 tokens at most, 128 in all; 12 of them train, 6 of each domain."""
    for domain in ("medical", "legal"):
        split = [*["train"] * 6, *["heldout"] * 2]
        project.rows(f"{domain}.jsonl", *({"prompt": f"the {domain} {i}", "split": s} for i, s in enumerate(split)))
    project.set("evaluate", {"baselines": ["hard_labels"]})
    return project


def test_hours_by_hand(measured: Project) -> None:
    plan = planned(measured, rates(measured))
    assert plan.hours is not None and plan.hours.wall is not None
    teacher = 10 + 128 / 4
    assert ends(plan, "teacher teacher") == pytest.approx(teacher)
    # 48 tokens are there once; the other 952 of its 1,000 it trains on when it has read all, which the teacher has made
    # then. After that 1,000 for its control, of which there is no rate of its own; of the other one's there is.
    medical = teacher + 952 / 5 + 1000 / 5
    assert ends(plan, "specialist medical") == pytest.approx(medical)
    assert ends(plan, "specialist legal") == pytest.approx(teacher + (1000 - 48 / 0.75) / 5 + 1000 / 20)
    assert plan.hours.wall * 3600 == pytest.approx(7 + medical + 90 + 3)
    sources = {part.source for part in plan.hours.parts.values()}
    assert sources == {"measured in first on CPUs"} and plan.hours.efficiencies == {}


def test_a_slow_teacher_is_waited_for(measured: Project) -> None:
    for pace, bound in ((4.0, None), (0.1, "teacher")):
        plan = planned(measured, rates(measured, teachers={"teacher": pace}))
        assert plan.hours is not None and plan.hours.parts["specialist medical"].bound == bound
        assert ends(plan, "specialist medical") == pytest.approx(10 + 128 / pace + 952 / 5 + 1000 / 5)


def test_a_student_that_reads_part_of_what_is_made_waits_for_that_alone(measured: Project) -> None:
    measured.set("defaults.train.tokens", 24)
    plan = planned(measured, rates(measured, teachers={"teacher": 0.1}))
    assert ends(plan, "specialist medical") == pytest.approx((10 + 128 / 0.1) / 2 + 24 / 5)


def test_replicas_and_workers_share_the_work_and_start_at_once(measured: Project) -> None:
    before = rates(measured)
    measured.set("teacher", {"model": "teacher", "sampling": {"max_new_tokens": 8}, "replicas": [1, 4]})
    measured.set("defaults.train", {"tokens": 1000, "workers": 2})
    plan = planned(measured, before)
    assert ends(plan, "teacher teacher") == pytest.approx(10 + 128 / 4 / 4)
    assert ends(plan, "specialist medical") == pytest.approx(18 + 952 / 10 + 1000 / 10)
    assert ends(planned(measured, before, cpus=7), "teacher teacher") == pytest.approx(10 + 128 / 4 / 3), "room for 3"


def test_texts_are_as_long_as_they_were_if_asked_alike(measured: Project) -> None:
    half = rates(measured, text_targets=4.0)
    plan = planned(measured, half)
    assert ends(plan, "teacher teacher") == pytest.approx(10 + 64 / 4)
    assert any("50% are taken" in note for note in plan.notes)
    measured.set("teacher.sampling.max_new_tokens", 16)
    assert ends(planned(measured, half), "teacher teacher") == pytest.approx(10 + 256 / 4)


def test_settings_that_change_the_pace_are_noted(measured: Project) -> None:
    before = rates(measured)
    assert not any("batch_tokens" in note for note in planned(measured, before).notes)
    measured.set("specialists.medical.train", {"batch_tokens": 64})
    [note] = [n for n in planned(measured, before).notes if "batch_tokens" in n]
    assert "specialists.medical is reckoned with the pace of medical; batch_tokens 16384 there, 64 here" in note


def test_another_specialist_of_the_same_model_has_its_rate(measured: Project) -> None:
    before = rates(measured)
    measured.data["specialists"]["further"] = {"mix": {"medical": 1}}
    assert ends(planned(measured, before), "specialist further") == pytest.approx(42 + 952 / 5 + 1000 / 5)


def test_an_evaluation_on_other_hardware_has_no_hours(measured: Project) -> None:
    before = rates(measured)
    measured.set("evaluate.gpus", 1)
    plan = planned(measured, before, gpus=1)
    assert plan.hours is not None and plan.hours.wall is None and plan.hours.parts["evaluator"].hours is None
    assert any("evaluate.gpus was 0 in first, and is 1 here" in note for note in plan.notes)
    assert plan.hours.parts["specialist medical"].hours is not None


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("teacher.model", "other", "teacher: model teacher there, other here"),
        ("teacher.ep_size", 2, "ep_size 1 there, 2 here"),
        ("teacher.dtype", "bfloat16", "dtype auto there, bfloat16 here"),
        ("defaults.model.config.hidden_size", 64, "model.config.hidden_size 32 there, 64 here"),
        ("defaults.train.gradient_checkpointing", True, "train.gradient_checkpointing 0.0 there, 1.0 here"),
        ("specialists.legal.model", "dense", "model.base None there, dense here"),
    ],
)
def test_rates_of_other_models_are_refused(measured: Project, where: str, value: Any, said: str) -> None:
    before = rates(measured)
    measured.model("other")
    measured.model("dense", experts=0)
    measured.set(where, value)
    with pytest.raises(ValueError, match=r"--rates: runs/first had no (teacher|student) as ") as refused:
        planned(measured, before)
    assert said in str(refused.value) and "leave --rates out" in str(refused.value)


def test_a_model_of_that_name_and_another_size_is_refused(measured: Project) -> None:
    with pytest.raises(ValueError, match="1,000,000 parameters there, "):
        planned(measured, rates(measured, parameters={"medical": 1_000_000, "legal": 1_000_000}))


def test_a_run_that_trained_nothing_to_its_end_is_refused(measured: Project) -> None:
    with pytest.raises(ValueError, match="legal was not trained to its end there"):
        planned(measured, rates(measured, students={}))
    with pytest.raises(ValueError, match="teacher made no units there"):
        planned(measured, rates(measured, teachers={}))


def test_a_run_that_is_not_there_or_has_no_report_is_refused(measured: Project, stillhouse: Command) -> None:
    assert "--rates: no run at " in stillhouse("plan", measured.write(), "--rates", "runs/none").error
    file = measured.load()
    run = RunFolder.of(file.located())
    run.open(file)
    said = stillhouse("plan", measured.write(), "--rates", "trial").error
    assert said.startswith("error: --rates: run 'trial' has no report.json") and "stillhouse evaluate" in said
    for text in ("{}", "no JSON", json.dumps({"schema": 1})):
        measured.text("runs/trial/report.json", text)
        assert stillhouse("plan", measured.write(), "--rates", "trial").error.startswith("error: --rates: ")
