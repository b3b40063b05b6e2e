"""A specialist that goes on is scored on the held-out text of its own generation and of older ones, then and now."""

from __future__ import annotations

import math

import pytest
from support.captured_run import CapturedRun, capture, save_student, score_split, tasks_of, train_medical
from support.comparing.tolerances import of_capture
from support.older.generations import ask_anew
from support.project import Project

from orchestrator.config.schema import RunConfig
from orchestrator.reporting.evaluation import Evaluation, compare
from orchestrator.runs.generations import copy_between
from orchestrator.stages.scoring.gathered import gathered
from workers.layout import StudentLayout
from workers.splits import OLDER

Generation = tuple[CapturedRun, RunConfig]


def evaluated(generation: Generation) -> Evaluation:
    captured, config = generation
    return compare(gathered(captured.run, tasks_of(captured, config)), config)


SETTINGS = {"heldout": 0.5, "bootstrap": 100, "shown_texts": 0, "baselines": [], "cost": {"measure": False}}


@pytest.fixture
def generations(capture_project: Project) -> tuple[Generation, Generation]:
    """Two of them with the medical specialist trained; the legal one is new in the second."""
    project = capture_project
    project.set("evaluate", SETTINGS)
    legal = project.data["specialists"].pop("legal")
    first = capture(project), project.load().located()
    train_medical(first[0])
    ask_anew(project)
    project.set("specialists.legal", legal)
    project.set("continues.generation", 1)
    second = capture(project), project.load().located()
    medical = StudentLayout("medical")
    copy_between(first[0].run, medical.final, second[0].run, medical.initial)
    for seed, layout in ((7, medical), (8, StudentLayout("legal"))):
        save_student(second[0], layout.final, seed)
        second[0].run.storage.write(layout.done, b"{}")
    return first, second


def test_what_was_is_what_the_older_generation_found(generations: tuple[Generation, Generation]) -> None:
    first, second = generations
    before = {f.key: f.modified for f in first[0].run.storage.listing("") if "/generations/" not in f"/{f.key}"}
    counts = score_split(*second, OLDER)
    after = {f.key: f.modified for f in first[0].run.storage.listing("") if "/generations/" not in f"/{f.key}"}
    assert after == before, "nothing of an older generation is written"
    assert counts["medical"] == counts["medical.initial"] > 0 == counts["legal"]
    score_split(*first, OLDER)
    was, now = evaluated(first), evaluated(second)
    assert was.generations == {} and now.generations.keys() == {"medical"}, "a new specialist has forgotten nothing"
    found = now.generations["medical"]
    assert found.replay == 0.2 and found.older.keys() == {"1"} and found.new is not None
    assert found.older["1"].before.kl == pytest.approx(was.scores["medical"]["medical"]["kl"], rel=1e-6)
    assert found.new.after.kl == now.scores["medical"]["medical"]["kl"]
    for one in (found.new, found.older["1"]):
        assert one.difference.kl == pytest.approx(one.after.kl - one.before.kl)
        assert one.difference.low <= one.difference.kl <= one.difference.high
        change = one.after.top1_agreement - one.before.top1_agreement
        assert one.difference.top1_agreement.value == pytest.approx(change)
        assert math.isfinite(one.after.kl) and one.after.kl != one.before.kl
    assert score_split(*second, OLDER) == {}, "what is scored is not scored again"


def test_a_former_self_is_a_teacher_that_its_student_begins_on(capture_project: Project) -> None:
    """Its exported folder is served as any dense model is; what begins with the same weights is no way from it."""
    project = capture_project
    project.set("evaluate", SETTINGS)
    del project.data["specialists"]["legal"]
    first, medical = capture(project), StudentLayout("medical")
    train_medical(first)
    storage = first.run.storage
    storage.copy_folder(medical.final, "exports/medical")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        storage.write(f"exports/medical/{name}", (project.folder / "dense" / name).read_bytes())
    ask_anew(project)
    project.set("continues", {"generation": 1})
    project.set("teacher.model", "specialist:medical")
    second, config = capture(project), project.load().located()
    copy_between(first.run, medical.final, second.run, medical.initial)
    save_student(second, medical.final, 7)
    second.run.storage.write(medical.done, b"{}")
    score_split(second, config, OLDER)
    found = evaluated((second, config)).generations["medical"]
    assert found.new is not None and found.new.before.kl == pytest.approx(0, abs=4 * of_capture(12.0))
    assert found.new.after.kl > 0.01
    assert found.older["1"].before.kl > 0.01, "that text is of another teacher"
