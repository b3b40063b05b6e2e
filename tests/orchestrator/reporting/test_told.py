"""What a report tells trackers of its specialists."""

from __future__ import annotations

from pathlib import Path

from support.measured_run import measured_report

from orchestrator.reporting.told import scored_students
from workers.channels.events import from_lines, to_lines


def test_scores_and_verdict_of_each_specialist_that_was_scored(tmp_path: Path) -> None:
    report = measured_report(tmp_path)
    told = {event.student: event for event in scored_students(report)}
    assert told.keys() == {name for name, student in report.students.items() if student.heldout is not None}
    for name, event in told.items():
        own = report.students[name].heldout
        assert own is not None and (event.kl, event.kl_low, event.kl_high) == (own.kl, own.kl_low, own.kl_high)
        assert event.passed == report.verdicts[name].passed and event.verdict.startswith(f"{name} is ")
    assert list(from_lines(to_lines(told.values()))) == list(told.values())
