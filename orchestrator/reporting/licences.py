"""The licence that a specialist's card passes on."""

from __future__ import annotations

from orchestrator.reporting.report import Report
from workers.fetching.licences import Licence


def stated_licences(report: Report, name: str) -> dict[str, Licence | None]:
    """What the cards of the models that a specialist comes from state, by model: all teachers, and what its weights
    began as. None where one states nothing."""
    base = report.students[name].base
    found = {f"teacher {teacher.model}": teacher.licence for teacher in report.teachers.values()}
    return found | ({f"initial weights {base.name}": base.licence} if base is not None else {})


def passed_on(report: Report, name: str) -> Licence | None:
    """The licence of a specialist: the one that all of these state; `other` where they differ, or where some state one
    and others none. None where nobody states any. What licences of prompts ask is not known here."""
    stated = set(stated_licences(report, name).values())
    if stated <= {None}:
        return None
    return stated.pop() if len(stated) == 1 else Licence("other")
