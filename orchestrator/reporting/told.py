"""What a report tells who only watches the run."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.reporting.report import Report
from workers.channels.events import StudentScored


def scored_students(report: Report) -> Iterator[StudentScored]:
    """The scores of each specialist that has any."""
    for name, student in report.students.items():
        if (own := student.heldout) is not None:
            gate, verdict = student.gate, report.verdicts[name]
            yield StudentScored(
                student=name,
                kl=own.kl,
                kl_low=own.kl_low,
                kl_high=own.kl_high,
                initial_kl=student.initial.kl if student.initial is not None else None,
                retention=gate.retention if gate is not None else None,
                passed=verdict.passed,
                verdict=" ".join(verdict.sentences),
            )
