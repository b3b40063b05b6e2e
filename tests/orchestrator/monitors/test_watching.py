"""What a person sees while a run works: on terminals of several sizes, and in a pipe."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from support.toys.run_events import step, unit

from orchestrator.cli.output import monitors
from orchestrator.monitors import log
from orchestrator.monitors.frame import frame
from orchestrator.monitors.log import LogMonitor, summary
from orchestrator.monitors.progress import Progress
from orchestrator.monitors.terminal import TerminalMonitor
from orchestrator.monitors.wording import BLOCKS, clock, percent, short, sparkline
from workers.channels.events import (
    CaptureStarted,
    Event,
    Message,
    ReplicaAtWork,
    ReplicaReady,
    RunStarted,
    StageStarted,
    StudentState,
    StudentWaiting,
    UnitDamaged,
)

WHY = "its part targets/train/parts/g0000/00000042-ab.parquet is missing"


def at_work() -> Progress:
    """A teacher that captures, and students in every state."""
    progress = Progress()
    for event in (
        RunStarted(run="clinic", storage="s3://bucket/with/a/long/name/below/it/clinic", attempt=1, time=0.0),
        StageStarted(stage="capture and train", time=1.0),
        CaptureStarted(teacher="teacher", units=40, repairs=0, time=1.0),
        ReplicaReady(teacher="teacher", weights_held=[5], replica="r", time=2.0),
        ReplicaAtWork(teacher="teacher", replica="r", texts=30, slots=64, time=3.0),
        *(unit(i, time=3.0 + i) for i in range(10)),
        *(step(10 * i, 5.0 / (i + 1), time=float(i)) for i in range(7)),
        StudentWaiting(student="legal", unit=11, waited=3.0, seconds=[], time=10.0),
        StudentState(student="code", state="loading", time=10.0),
        StudentState(student="history", state="failed", note="ValueError: loss is NaN at step 7", time=11.0),
        StudentState(student="short", state="done", tokens=100, budget=100, time=11.0),
        StudentState(student="medical.hard_labels", state="queued", budget=100, time=11.0),
    ):
        progress.take(event)
    return progress


def drawn(progress: Progress, width: int, height: int = 40, **settings: Any) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    with out.capture() as capture:
        out.print(frame(progress, width, height, now=65.0, **settings))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130, 200])
def test_a_frame_has_a_line_for_each_part_at_any_width(width: int) -> None:
    header, *lines = drawn(at_work(), width)
    assert len(lines) == 7 and max(map(len, [header, *lines])) <= width
    for line, words in zip(lines, ("25%", "60%", "waiting", "loading", "failed", "done", "queued"), strict=True):
        assert words in line
    assert header.startswith("clinic  1:05")


def test_a_wide_frame_says_more() -> None:
    header, teacher, medical, legal, _, history, *_ = drawn(at_work(), 200)
    assert header.endswith("capture and train  s3://bucket/with/a/long/name/below/it/clinic")
    assert "10/40 units" in teacher and "30/64 slots, 1 replica" in teacher and "100 rejected" in teacher
    assert "60/100" in medical and "10 tok/s" in medical and "0:04" in medical and "█" in medical
    assert "for unit 11" in legal and "ValueError: loss is NaN at step 7" in history


def test_a_low_terminal_shows_what_matters_and_counts_the_others() -> None:
    progress = at_work()
    for number in range(30):
        progress.take(StudentState(student=f"s{number}", state="queued", budget=100))
    lines = drawn(progress, 100, height=12)
    assert len(lines) == 9 and any("history" in line for line in lines) and any("legal" in line for line in lines)
    assert lines[-1].startswith("and ") and "queued" in lines[-1]


def test_a_terminal_without_unicode_gets_none() -> None:
    assert not set(BLOCKS) & set("".join(drawn(at_work(), 200, ascii_only=True)))


def test_before_anything_is_told_nothing_is_drawn() -> None:
    assert drawn(Progress(), 80) in ([], [""])


def test_a_terminal_keeps_lines_above_the_bars_and_the_last_frame() -> None:
    out = io.StringIO()
    monitor = TerminalMonitor(Console(file=out, force_terminal=True, width=100, highlight=False))
    monitor.start()
    for event in (Message(text="[red]stays[/red]"), step(10)):
        monitor.take(event)
    monitor.stop()
    assert "[red]stays[/red]" in out.getvalue(), "markup in what is said is text"
    assert "medical" in out.getvalue().rsplit("stays", 1)[1]


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_INTERACTIVE"])
def test_what_is_no_terminal_gets_no_bars_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    for quiet in (False, True):
        [monitor] = monitors(quiet)
        assert isinstance(monitor, LogMonitor)


class Clock:
    """A time that tests set."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock_of_log(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(log, "time", made)
    return made


def logged(*events: Event) -> list[str]:
    out = io.StringIO()
    monitor = LogMonitor(Console(file=out, width=80, highlight=False))
    for event in events:
        monitor.take(event)
    return out.getvalue().splitlines()


def test_lines_in_a_pipe_are_never_cut_or_wrapped() -> None:
    lines = logged(Message(text="long " * 40), UnitDamaged(student="medical", unit=42, reason=WHY))
    assert len(lines) == 2 and WHY in lines[1]


def test_a_log_tells_once_that_a_student_trains_and_that_it_is_done() -> None:
    waits = StudentWaiting(student="medical", unit=2, waited=1, seconds=[])
    done = StudentState(student="medical", state="done", tokens=100, budget=100)
    lines = logged(StudentState(student="medical", state="loading"), step(10), waits, step(20), waits, step(90), done)
    assert [line.split("s  ")[1] for line in lines] == ["medical trains: 10/100 tokens", "medical is done: 100/100"]


def test_a_log_names_the_first_replica_only() -> None:
    lines = logged(*(ReplicaReady(teacher="t", weights_held=[5, 6], replica=f"r{i}") for i in range(64)))
    assert len(lines) == 1 and "5 + 6" in lines[0]


def test_a_day_in_a_log_is_a_few_hundred_lines(clock_of_log: Clock) -> None:
    out = io.StringIO()
    monitor = LogMonitor(Console(file=out, width=80, highlight=False))
    for second in range(24 * 3600):
        clock_of_log.now += 1
        monitor.take(step(second % 100, float(second), student=f"s{second % 12}", time=float(second)))
    lines = out.getvalue().splitlines()
    assert 100 < len(lines) < 500
    assert "s0" in lines[-1] and "4 working" in lines[-1], "of many students some are named, and others counted"


def test_a_log_in_which_nothing_happens_grows_no_lines(clock_of_log: Clock) -> None:
    out = io.StringIO()
    monitor = LogMonitor(Console(file=out, width=80, highlight=False))
    monitor.take(StudentWaiting(student="medical", unit=1, waited=1, seconds=[]))
    for _ in range(100):
        clock_of_log.now += 60
        monitor.flush()
    assert len(out.getvalue().splitlines()) == 1


def test_a_summary_names_what_is_under_way() -> None:
    line = summary(at_work())
    assert (
        line.startswith("teacher 25%, ")
        and "medical 60%, loss 0.714" in line
        and "legal 0%, waiting for unit 11" in line
    )
    assert line.endswith("1 failed | 1 done | 1 queued")


def test_numbers_in_few_letters() -> None:
    assert [short(n) for n in (0, 9.87, 950, 1204, 34_200, 999_600, 5_600_000, 2e9)] == [
        "0", "9.87", "950", "1.2k", "34.2k", "1M", "5.6M", "2G",
    ]  # fmt: skip
    assert [clock(s) for s in (7, 754, 3723, 93_784)] == ["0:07", "12:34", "1:02:03", "1d 02:03"]
    assert sparkline([8.0, 4.0, 2.0, 1.0]) == "█▆▃▁" and sparkline([]) == "" and sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([2.0, 0.0, 1.0]) == "█▁▅", "where a value has no logarithm, by the values themselves"


def test_all_but_a_token_is_not_all() -> None:
    progress = Progress()
    progress.take(step(100))
    part = progress.students["medical"]
    part.total = 100_000
    part.done = 99_999
    assert percent(part) == "99%"
