"""What a run said, in words: of all parts, or of one."""

from __future__ import annotations

from collections.abc import Sequence

from support.toys.watched_run import BEGAN, ending, story

from cluster.holder import local_time
from orchestrator.status.messages import Words
from workers.channels.events import Event, Message, UnitDamaged


def said(events: Sequence[Event], name: str = "") -> list[str]:
    words = Words(name)
    return [line for event in events for line in words.lines(event)]


def test_all_that_was_said_has_its_time() -> None:
    lines = said([*story(), *ending()])
    assert lines[0] == f"{local_time(BEGAN)}  run clinic begins"
    texts = [line.split("  ", 1)[1] for line in lines]
    assert "medical trains: 0/1k tokens" in texts
    assert "medical is done: 1k/1k" in texts and texts[-1] == "attempt ended: done"
    assert sum("legal FAILED" in text for text in texts) == 1, "the driver says it"


def test_one_part_alone() -> None:
    events = [
        *story(),
        UnitDamaged(student="medical", unit=3, reason="a part is missing"),
        Message(text="rank 1 died", teacher="teacher"),
        Message(text="teacher teacher, unit 4: out of memory"),
        Message(text="teachers are many"),
        Message(text="it forgot", student="medical.hard_labels"),
        *ending(),
    ]
    medical = "\n".join(said(events, "medical"))
    assert "unit 3 is damaged" in medical and "it forgot" in medical, "with its controls"
    assert "legal" not in medical and "rank 1" not in medical and "stage" not in medical
    assert said(events, "medical.hard_labels") == said(events[-len(ending()) - 1 :], "medical.hard_labels") != []
    teacher = "\n".join(said(events, "teacher"))
    assert "teacher teacher begins a pass over 8 units" in teacher
    assert "rank 1 died" in teacher and "out of memory" in teacher and "many" not in teacher
    assert "legal FAILED: ValueError" in "\n".join(said(events, "legal"))
    driver = "\n".join(said(events, "driver"))
    assert "run clinic begins" in driver and "stage: evaluate" in driver and "many" in driver
    assert "rank 1" not in driver and "medical trains" not in driver
