"""What rounding costs a specialist, with and without training for it, in the report and in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.measured_run import TIMES, evaluation, measured_run, put, unmeasured
from support.small_configuration import clinic

from orchestrator.config.schema import RunConfig
from orchestrator.render.closing import closing_lines
from orchestrator.render.markdown import markdown
from orchestrator.reporting.measures.quantised import quantised_scores
from orchestrator.reporting.report import Report, build_report
from workers.evaluation.heldout.sums import SUMMED, TEMPERED
from workers.evaluation.metrics.domain_scores import DomainScores, paired_share
from workers.layout import StudentLayout

QAD = {"specialists": {"medical": {"quantised": "qad"}, "legal": {}}}
PROMPTS = 40


def domain_scores(kl: float, seed: int = 0, noise: float = 0.0) -> DomainScores:
    """Of prompts of ten tokens whose KL is about so much a token; all else is a half."""
    rng = np.random.default_rng(seed)
    names = [*SUMMED, *TEMPERED, "tokens", "truth_tokens", "truth_excess"]
    sums = {name: np.full(PROMPTS, 5.0) for name in names} | {"tokens": np.full(PROMPTS, 10.0)}
    sums |= {"truth_tokens": np.zeros(PROMPTS), "kl": 10 * (kl + noise * rng.standard_normal(PROMPTS))}
    bins_GC = np.tile([10.0, 5.0, 5.0, 5.0], (3, 1))
    return DomainScores([f"p{i}" for i in range(PROMPTS)], sums, bins_GC, {"entropy": {}, "position": {}})


def scored(config: RunConfig, **kls: float) -> Any:
    """By model of the medical specialist: its KL on its own domain."""
    models = {f"medical{'.' if kind != 'whole' else ''}{kind.removeprefix('whole')}": kl for kind, kl in kls.items()}
    return quantised_scores(config, {name: {"medical": domain_scores(kl)} for name, kl in models.items()})


def test_what_training_with_rounded_weights_keeps_of_the_loss() -> None:
    found = scored(clinic(**QAD), whole=0.2, ptq=0.28, quantised=0.22)["medical"]
    assert (found.ptq.kl, found.ptq_loss.kl) == (pytest.approx(0.28), pytest.approx(0.08))
    assert found.qad_loss is not None and found.qad_loss.kl == pytest.approx(0.02)
    assert found.qad_less_ptq is not None and found.qad_less_ptq.kl == pytest.approx(-0.06)
    assert found.qad_over_ptq is not None and found.qad_over_ptq.value == pytest.approx(0.25)


def test_before_its_training_has_ended_there_is_what_rounding_alone_does() -> None:
    found = scored(clinic(**QAD), whole=0.2, ptq=0.28)["medical"]
    assert found.qad is found.qad_loss is found.qad_less_ptq is found.qad_over_ptq is None
    assert scored(clinic(**QAD), whole=0.2) == {}


def test_the_share_is_paired_and_unknown_where_rounding_loses_nothing() -> None:
    """Prompts differ far more than models do."""
    whole, ptq, qad = (domain_scores(kl, noise=5.0) for kl in (0.2, 0.28, 0.22))
    share = paired_share(qad, ptq, whole, 200, 0)
    assert share.value == pytest.approx(0.25) and share.high - share.low < 1e-9
    assert np.isnan(paired_share(qad, whole, whole, 200, 0).value)
    other = domain_scores(0.2)
    other.prompts = other.prompts[::-1]
    with pytest.raises(ValueError, match="same positions"):
        paired_share(other, ptq, whole, 200, 0)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    run = measured_run(tmp_path, **QAD)
    put(run, StudentLayout("medical.quantised").done, {"tokens": 500, "steps": 3})
    config, measured = run.located_config(), evaluation()
    measured.quantised = scored(config, whole=0.2, ptq=0.28, quantised=0.22)
    return build_report(run, config, measured, {}, TIMES)


def test_the_record_of_a_sibling(report: Report) -> None:
    found = report.students["medical"].quantised
    assert found is not None and (found.format, found.embeddings, found.keep) == ("q4_0", "q8_0", ())
    assert (found.tokens, found.steps, found.error) == (500, 3, None)
    assert found.lr == pytest.approx(2e-5 / 2)
    assert report.students["legal"].quantised is None
    data = report.to_dict()["students"]
    assert data["legal"]["quantised"] is None
    assert data["medical"]["quantised"]["scores"]["qad_over_ptq"]["value"] == pytest.approx(0.25)
    assert Report.from_json(report.to_json()) == report
    assert report.trained["medical.quantised"].flops == 6 * 7 * 500


def test_a_report_of_before_has_none(report: Report) -> None:
    data = report.to_dict()
    for student in data["students"].values():
        del student["quantised"]
    assert Report.from_json(data).students["medical"].quantised is None


def test_it_is_said(report: Report) -> None:
    said = "medical at q4_0: rounding alone adds 0.0800 nats of KL (0.0800 … 0.0800), training with it +0.0200 "
    said += "(+0.0200 … +0.0200): better by -0.0600 (-0.0600 … -0.0600), 25.0% (25.0% … 25.0%) of what rounding alone "
    said += "loses"
    assert said in closing_lines(report)
    text = markdown(report)
    assert f"- {said}" in text
    assert "| – PTQ | q4_0 | q8_0 | 0.2800 | +0.0800 (+0.0800 … +0.0800) |" in text
    assert "| – QAD after 500 tokens | q4_0 | q8_0 | 0.2200 |" in text


def test_a_sibling_that_came_nearer_than_its_specialist_has_no_share_of_a_loss(report: Report) -> None:
    medical = report.students["medical"]
    assert medical.quantised is not None
    nearer = scored(clinic(**QAD), whole=0.2, ptq=0.28, quantised=0.15)["medical"]
    report.students["medical"] = replace(medical, quantised=replace(medical.quantised, scores=nearer))
    (said,) = (line for line in closing_lines(report) if line.startswith("medical at q4_0"))
    assert said.endswith("(-0.1300 … -0.1300); the tokens that it trained on brought more than rounding takes")


def test_without_scores_nothing_is_said(tmp_path: Path) -> None:
    run = measured_run(tmp_path, **QAD)
    report = build_report(run, run.located_config(), None, {"medical.quantised": "ValueError: no"}, TIMES)
    found = report.students["medical"].quantised
    assert found is not None and found.scores is None and found.error == "ValueError: no"
    assert "Rounded to few bits" not in markdown(report)
    assert unmeasured(run, **QAD).students["medical"].quantised is not None


def test_scores_of_an_earlier_report_stay(report: Report, tmp_path: Path) -> None:
    run = measured_run(tmp_path / "other", **QAD)
    later = build_report(run, run.located_config(), None, {}, TIMES)
    later.take_scores(report)
    assert later.students["medical"].quantised == report.students["medical"].quantised
