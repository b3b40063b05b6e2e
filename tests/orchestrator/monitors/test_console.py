"""What a person sees while a run works, from events made by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.monitors.console import ConsoleMonitor
from workers.channels.events import (
    CaptureStarted,
    CheckpointSaved,
    Event,
    Message,
    StudentState,
    StudentStep,
    StudentWaiting,
    UnitCommitted,
    UnitDamaged,
)

WHY = "its part targets/train/parts/g0000/00000042-ab.parquet is missing"


def unit(number: int, **more: object) -> UnitCommitted:
    numbers = dict.fromkeys(("rows", "tokens", "targets", "bytes", "rejected"), 10)
    return UnitCommitted.model_validate(
        {"split": "train", "unit": number, "won": True, "started": 0.0, "finished": 2.0} | numbers | more
    )


def step(tokens: int, loss: float = 2.0) -> StudentStep:
    floats = {"grad_norm": 1.0, "lr": 1e-3, "waited": 0.0}
    return StudentStep(student="medical", step=1, tokens=tokens, budget=100, loss=loss, seconds=[], **floats)


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def monitor(said: io.StringIO) -> ConsoleMonitor:
    """A monitor that writes to a pipe of 80 columns."""
    return ConsoleMonitor(Console(file=said, width=80, highlight=False))


def tell(monitor: ConsoleMonitor, *events: Event) -> None:
    for event in events:
        monitor.take(event)


def test_lines_in_a_pipe_are_never_cut_or_wrapped(monitor: ConsoleMonitor, said: io.StringIO) -> None:
    tell(monitor, Message(text="long " * 40), UnitDamaged(student="medical", unit=42, reason=WHY))
    assert len(said.getvalue().splitlines()) == 2 and WHY in said.getvalue()


def test_a_student_is_loading_before_it_trains_and_waits_for_units_by_number(monitor: ConsoleMonitor) -> None:
    line = lambda: str(monitor.students["medical"])  # noqa: E731
    tell(monitor, StudentState(student="medical", state="loading"))
    assert line() == "loading"
    tell(monitor, step(50))
    assert line() == "training  50/100 tokens  loss 2.000"
    tell(monitor, StudentWaiting(student="medical", unit=42, waited=3.2, seconds=[]))
    assert line().endswith("for unit 42 (3 s)") and line().startswith("waiting")
    tell(monitor, StudentWaiting(student="medical", unit=42, waited=3.2, seconds=[], damage=WHY))
    assert f"unit 42 is damaged: {WHY}" in line()
    tell(monitor, CheckpointSaved(student="medical", step=2, tokens=80, loss=1.5))
    assert "80/100" in line() and line().startswith("waiting")
    tell(monitor, StudentState(student="medical", state="failed", note="ValueError: x"))
    assert line().startswith("failed") and "ValueError: x" in line()


def test_the_teachers_line_counts_units_of_all_passes(monitor: ConsoleMonitor, said: io.StringIO) -> None:
    tell(monitor, CaptureStarted(teacher="a", units=2, repairs=0), CaptureStarted(teacher="b", units=1, repairs=1))
    tell(monitor, unit(0), unit(1))
    assert str(monitor.teacher).startswith("2/3 units")
    tell(monitor, unit(2, revision=1, content_changed=True))
    assert "done" in str(monitor.teacher)
    assert "unit 2 of the train store is recomputed, with other contents" in said.getvalue()


def test_markup_in_what_is_said_is_text(monitor: ConsoleMonitor, said: io.StringIO) -> None:
    tell(monitor, Message(text="[red]not red[/red]"))
    assert "[red]not red[/red]" in said.getvalue()


def test_on_a_terminal_a_table_lives_and_lines_stay() -> None:
    said = io.StringIO()
    monitor = ConsoleMonitor(Console(file=said, force_terminal=True, width=100, highlight=False))
    monitor.start()
    tell(monitor, Message(text="stays"), step(10))
    monitor.stop()
    assert "stays" in said.getvalue() and "medical" in said.getvalue()
