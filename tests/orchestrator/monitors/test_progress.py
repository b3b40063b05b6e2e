"""How far a run is, from events made by hand."""

from __future__ import annotations

import pytest
from support.toys.run_events import step, unit

from orchestrator.monitors.progress import Progress
from workers.channels.events import (
    CaptureStarted,
    CheckpointSaved,
    EvaluationStarted,
    Event,
    Message,
    ModelScored,
    NodeJoined,
    NodeLeft,
    PlaceEnded,
    PlaceWanted,
    ReplicaAtWork,
    ReplicaReady,
    RunEnded,
    RunStarted,
    StageStarted,
    StudentState,
    StudentWaiting,
    UnitsPlanned,
)


@pytest.fixture
def progress() -> Progress:
    return Progress()


def tell(progress: Progress, *events: Event) -> None:
    for event in events:
        progress.take(event)


def test_a_run_has_its_name_its_place_and_its_stage(progress: Progress) -> None:
    tell(
        progress, RunStarted(run="q", storage="s3://b/q", attempt=2, time=100), StageStarted(stage="prepare", time=130)
    )
    assert (progress.run, progress.storage, progress.attempt, progress.stage) == ("q", "s3://b/q", 2, "prepare")
    assert progress.began == 100 and progress.parts == []


def test_a_student_is_queued_loads_trains_waits_and_is_done(progress: Progress) -> None:
    tell(progress, StudentState(student="medical", state="queued", budget=100))
    [part] = progress.parts
    assert (part.state, part.share, part.left_s) == ("queued", 0, None)
    tell(progress, StudentState(student="medical", state="loading", time=0.0))
    assert part.state == "loading" and part.total == 100
    tell(progress, step(10, time=1.0), step(50, time=5.0))
    assert (part.state, part.share, part.loss) == ("working", 0.5, 2.0)
    assert part.tokens.per_second == 10 and part.left_s == 5
    tell(progress, StudentWaiting(student="medical", unit=42, waited=3.2, seconds=[]))
    assert part.state == "waiting" and "unit 42" in part.note and part.left_s is None
    tell(progress, StudentWaiting(student="medical", unit=42, waited=3.2, seconds=[], damage="its part is missing"))
    assert "recomputed: its part is missing" in part.note
    tell(progress, CheckpointSaved(student="medical", step=2, tokens=80, loss=1.5))
    assert part.done == 80 and part.state == "waiting"
    tell(progress, StudentState(student="medical", state="done", tokens=100, budget=100))
    assert (part.state, part.share, part.note) == ("done", 1.0, "")


def test_a_student_that_fails_keeps_its_cause_and_how_far_it_was(progress: Progress) -> None:
    tell(progress, step(30), StudentState(student="medical", state="failed", note="ValueError: x"))
    [part] = progress.parts
    assert (part.state, part.note, part.share) == ("failed", "ValueError: x", 0.3)


def test_a_student_that_begins_again_at_a_checkpoint_has_a_rate_of_what_it_does_since(progress: Progress) -> None:
    tell(progress, step(20, time=0.0), step(90, time=1.0), step(50, time=10.0), step(60, time=20.0))
    [part] = progress.parts
    assert part.done == 60 and part.tokens.per_second == 1


def test_the_teachers_count_units_of_all_passes_and_of_earlier_attempts(progress: Progress) -> None:
    tell(progress, UnitsPlanned(units=10, committed=7))
    teacher = progress.teacher
    tell(progress, CaptureStarted(teacher="a", units=2, repairs=0), CaptureStarted(teacher="b", units=1, repairs=0))
    assert (teacher.state, teacher.done, teacher.total) == ("loading", 7, 10)
    tell(progress, ReplicaReady(teacher="a", weights_held=[5], replica="r1", time=1.0))
    tell(progress, unit(7, time=2.0), unit(8, time=3.0))
    assert teacher.state == "working" and teacher.share == 0.9 and teacher.left_s == 1
    tell(progress, unit(9, time=4.0))
    assert teacher.state == "done"
    tell(progress, CaptureStarted(teacher="a", units=1, repairs=1, time=5.0))
    assert (teacher.state, teacher.done, teacher.total) == ("loading", 10, 11)
    tell(progress, unit(3, revision=1, time=6.0))
    assert teacher.state == "done" and progress.pool.rejected == 40


def test_units_that_were_all_captured_before_are_done(progress: Progress) -> None:
    tell(progress, UnitsPlanned(units=10, committed=10))
    assert progress.teacher.state == "done"


def test_slots_are_of_the_replicas_that_live(progress: Progress) -> None:
    tell(progress, CaptureStarted(teacher="a", units=9, repairs=0))
    for second, replica in ((0, "r1"), (1, "r2")):
        tell(progress, ReplicaReady(teacher="a", weights_held=[5], replica=replica, time=second))
        tell(progress, ReplicaAtWork(teacher="a", replica=replica, texts=30, slots=32, time=second))
    assert progress.pool.in_slots == (60, 64) and len(progress.pool.heard) == 2
    tell(progress, ReplicaAtWork(teacher="a", replica="r1", texts=8, slots=32, time=1000))
    assert progress.pool.in_slots == (8, 32) and len(progress.pool.heard) == 1


def test_an_evaluation_counts_scores_of_earlier_attempts_too(progress: Progress) -> None:
    tell(progress, EvaluationStarted(units=4, scored=1), ModelScored(model="a", domain="legal", done=0, units=3))
    part = progress.evaluation
    assert (part.state, part.share, part.note) == ("loading", 0.25, "a on legal")
    tell(progress, *(ModelScored(model="a", domain="legal", done=n, units=3) for n in (1, 2)))
    assert (part.state, part.share) == ("working", 0.75)
    tell(progress, ModelScored(model="a", domain="legal", done=3, units=3))
    assert part.state == "done"


def test_specialists_may_have_the_names_of_other_parts(progress: Progress) -> None:
    tell(progress, UnitsPlanned(units=2, committed=1), EvaluationStarted(units=1, scored=0))
    tell(progress, step(10, student="teacher"), step(20, student="evaluate"))
    assert [(p.name, p.counts) for p in progress.parts] == [
        ("teacher", "units"),
        ("teacher", "tokens"),
        ("evaluate", "tokens"),
        ("evaluate", "scores"),
    ]


def test_a_message_is_about_no_part(progress: Progress) -> None:
    assert progress.take(Message(text="x")) is None and progress.take(step(1)) is progress.students["medical"]


def test_another_attempt_keeps_what_is_done_and_forgets_who_was_at_work(progress: Progress) -> None:
    tell(progress, RunStarted(run="q", storage="", attempt=1, time=0), UnitsPlanned(units=4, committed=0))
    tell(progress, CaptureStarted(teacher="a", units=4, repairs=0), EvaluationStarted(units=3, scored=0))
    tell(progress, ReplicaReady(teacher="a", weights_held=[5], replica="r", time=1.0), unit(0, time=2.0))
    tell(progress, step(10, time=1.0), step(50, time=5.0), StudentState(student="b", state="failed", note="NaN"))
    tell(progress, StudentState(student="c", state="done", tokens=9, budget=9), RunEnded(outcome="failed"))
    assert progress.ended is not None
    tell(progress, RunStarted(run="q", storage="", attempt=2, time=900))
    assert progress.ended is None and progress.began == 900 and progress.attempt == 2
    states = {name: (part.state, part.done) for name, part in progress.students.items()}
    assert states == {"medical": ("queued", 50), "b": ("queued", 0), "c": ("done", 9)}
    assert progress.students["medical"].tokens.per_second is None and not progress.pool.heard
    assert progress.evaluation not in progress.parts, "it is not known to be wanted again"
    tell(progress, UnitsPlanned(units=4, committed=1), CaptureStarted(teacher="a", units=3, repairs=0))
    assert (progress.teacher.done, progress.teacher.total) == (1, 4)


def test_each_of_several_teachers_has_its_counts(progress: Progress) -> None:
    for name in ("a", "b"):
        tell(progress, CaptureStarted(teacher=name, units=2, repairs=0))
        tell(progress, ReplicaReady(teacher=name, weights_held=[5], replica=f"{name}1", time=0.0))
    tell(progress, *(unit(n, teacher="b", replica="b1", time=2.0 * n) for n in (1, 2)), unit(3, time=5.0))
    found = {n: (c.units, c.tokens, c.planned, c.replicas) for n, c in progress.pool.teachers.items()}
    assert found == {"a": (0, 0, 2, {"a1"}), "b": (3, 30, 2, {"b1"})}, (
        "what does not say whose it is, is the last one's"
    )
    assert progress.pool.teachers["b"].rate.per_second == 6


def test_which_nodes_there_are_and_who_looks_for_a_place(progress: Progress) -> None:
    for i, role in enumerate(("head", "teacher", "teacher")):
        tell(progress, NodeJoined(node=str(i), role=role, joined=0.0))
    for i in range(3):
        tell(progress, PlaceWanted(place=f"r{i}", teacher="big", processes=8, time=10.0 + i))
    tell(progress, PlaceWanted(place="medical", student="medical", processes=2, time=5.0))
    assert progress.members.roles == {"head": 1, "teacher": 2}
    assert progress.members.waiting == [("medical", 1, 5.0), ("teacher big", 3, 10.0)]
    tell(progress, NodeLeft(node="1", left=20.0), PlaceEnded(place="r0", teacher="big", found=True))
    tell(progress, PlaceEnded(place="medical", student="medical", found=False))
    assert progress.members.roles == {"head": 1, "teacher": 1}
    assert progress.members.waiting == [("teacher big", 2, 11.0)]
    tell(progress, RunStarted(run="q", storage="", attempt=2))
    assert progress.members.roles == {} and progress.members.waiting == [], "another attempt tells its own"
