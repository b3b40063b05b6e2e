"""A report with something of everything that a page shows: a specialist that passes the gate, one that fails it, one
that did not train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.reporting.measures.bridges import BridgeScores, BridgesReport
from orchestrator.reporting.measures.capacity import CapacityPoint, CapacityReport, GeneralistFloor
from orchestrator.reporting.measures.harness import HarnessReport, HarnessScore
from orchestrator.reporting.measures.parrot import ParrotReport
from orchestrator.reporting.measures.shown import Texts
from orchestrator.reporting.measures.tasks import FormatReport, GateReport, TaskReport, TaskScore
from orchestrator.reporting.money.nodes import NodesReport, PlacesWanted, RoleNodes
from orchestrator.reporting.records import LossPoint, StudentReport
from orchestrator.reporting.report import Report
from orchestrator.reporting.scores import Calibration, CurvePoint, Curves, Interval, ReliabilityBin
from orchestrator.reporting.verdict import verdict_of
from support.measured_run import CALIBRATION, POINT, TIMES, measured_report
from workers.evaluation.shown_texts import ShownText

HOSTILE = "</script><script>alert(1)</script>"
LONG = "a_name_that_nobody_breaks_" * 8
"""Words that are wider than a phone."""


def share(value: float) -> Interval:
    """A share with an interval around it."""
    return Interval(value=value, low=value - 0.1, high=value + 0.1)


def full_report(folder: Path) -> Report:
    """Medical passes, legal fails, code did not train."""
    report = measured_report(folder, {"code": f"ValueError: {LONG} {HOSTILE}"})
    medical = _measured(report.students["medical"], 0.97)
    report.students = {
        "medical": medical,
        "legal": _measured(replace(medical, domain="legal"), 0.78),
        "code": replace(medical, domain="code", heldout=None, tasks={}, gate=None, error=report.failures["code"]),
    }
    report.verdicts = {name: verdict_of(name, student, None) for name, student in report.students.items()}
    bins = tuple(ReliabilityBin(tokens=50, confidence=c, teacher_at_top=c, hit=c - 0.05) for c in (0.3, 0.6, 0.9))
    curve = tuple(CurvePoint(**{**POINT, "at": i / 4, "tokens": 100, "kl": 0.1 + i / 20}) for i in range(5))
    for name, domain in (("medical", "medical"), ("legal", "legal"), ("medical.hard_labels", "medical")):
        report.calibration.setdefault(name, {})[domain] = replace(Calibration.of(CALIBRATION), reliability=bins)
        report.curves.setdefault(name, {})[domain] = Curves(entropy=curve, position=curve)
    report.nodes = NodesReport(
        seconds=60.0,
        roles={
            "head": RoleNodes(nodes=1, most=1, node_s=60.0, counts=((0.0, 1), (60.0, 0))),
            LONG: RoleNodes(nodes=9, most=4, node_s=80.0, counts=((5.0, 2), (20.0, 4), (30.0, 0))),
        },
        wanted={"teachers": PlacesWanted(places=4, longest_s=9.0, spans=((1.0, 10.0), (15.0, 20.0)))},
        node_s=140.0,
        fixed_node_s=300.0,
    )
    report.timing = replace(TIMES, spans={"teacher": ((0.0, 61.0),), "medical": ((5.0, 40.0), (50.0, 60.0))})
    return report


def full_texts() -> Texts:
    """One text of a specialist and of its control, with tokens that are markup."""
    guesses = [[("␣a", 0.75), (HOSTILE, 0.125)], [("b", 0.5), ("\\n", 0.25)], [("␣c", 0.9)]]
    tokens, numbers = ["␣a", HOSTILE, LONG], ([0.25, 2.5, 0.9], [0.75, 0.1, 0.5], [0.5, 0.9, 0.5])
    text = ShownText("medical/7", True, ["␣the"], tokens, 3, *numbers, guesses, guesses)
    return {"medical": {"medical": [text, text]}, "medical.hard_labels": {"medical": [text, text]}}


def _measured(student: StudentReport, kept: float) -> StudentReport:
    """With a loss curve, answers, a gate of 80 %, bridges, and a floor."""
    passed = kept - 0.1 >= 0.8
    return replace(
        student,
        curve=tuple(LossPoint(tokens=100 * i, loss=5 / (i + 1)) for i in range(50)),
        tasks={student.domain: _answered(kept)},
        gate=GateReport(
            passed=passed, domain=student.domain, threshold=0.8, retention=kept, retention_low=kept - 0.1
        ),
        harness={"exams": _harness()},
        bridges=_bridges(),
        capacity=_capacity(),
        parrot=ParrotReport(
            items=50, index=0.1, low=0.02, high=0.2, control=share(0.3), by_edit={}, flips=None, stale=None,
            flags=("its answers follow the words",),
        ),
    )  # fmt: skip


def _answered(kept: float) -> TaskReport:
    score = TaskScore(
        score=share(0.7),
        retention=share(kept),
        corrected_retention=share(kept),
        recovery=None,
        overconfidence=share(0.1),
    )
    formats = FormatReport(items=5, teacher=share(0.9), specialist=share(0.8), hard_labels=None, initial=share(0.2))
    return TaskReport(
        tasks=("exams",), items=250, chance=0.25, teacher=score, specialist=score, initial=None, hard_labels=score,
        at_control_tokens=None, generalist=score, format=formats,
    )  # fmt: skip


def _harness() -> HarnessReport:
    score = HarnessScore(score=0.5, stderr=0.02, retention=share(0.9))
    return HarnessReport(
        metric="acc", n=500, fewshot=0, score=0.5, stderr=0.02, retention=share(0.9), teacher=score, initial=score,
        hard_labels=None, at_control_tokens=None, generalist=None,
    )  # fmt: skip


def _bridges() -> BridgesReport:
    scores = {
        **{"kl_at_bridges": share(1.2), "kl_elsewhere": share(0.3), "top1_at_bridges": share(0.6)},
        **{"top1_elsewhere": share(0.9), "wrong": 9, "tried": 7, "repaired": share(0.8)},
        **{"repaired_without": share(0.3), "repaired_by_token": share(0.5)},
    }
    beside = BridgeScores(**scores)
    return BridgesReport(**scores, asked=40, texts=30, tokens=200, bridges=25, initial=beside, hard_labels=beside)


def _capacity() -> CapacityReport:
    points = tuple(CapacityPoint(tokens=1000 * 2**i, kl=0.1 + 0.5 / 2**i) for i in range(5))
    around = {"floor": 0.1, "floor_low": 0.05, "floor_high": 0.15}
    return CapacityReport(
        kl0=5.0, light="red", size=None, **around, exponent=1.0, remaining=0.03, verdict="data-bound",
        advice="train on: twice the tokens would take the KL from 0.131 to 0.116 nats", points=points,
        generalist=GeneralistFloor(
            **around, difference=0.1, difference_low=0.0, difference_high=0.2, sentence="", equal_tokens=None,
            at_equal_tokens=None, at_equal_sentence="", points=points,
        ),
    )  # fmt: skip
