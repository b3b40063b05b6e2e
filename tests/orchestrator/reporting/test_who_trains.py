"""Which students and controls train, and how a report has them beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.measured_run import TIMES, differences, evaluation, measured_run, put, score, unmeasured
from support.small_configuration import clinic

from orchestrator.config.students import initial_key, milestones_of, quantised_train, student_groups
from orchestrator.render.markdown import markdown
from orchestrator.reporting.evaluation import pairs
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.timing import Timing, Worked
from workers.evaluation.metrics.resampling import Estimate
from workers.layout import StudentLayout
from workers.quantise.config import QuantisedConfig
from workers.student.config import TrainConfig


def test_each_specialist_is_followed_by_its_control() -> None:
    chains = student_groups(clinic(defaults={"model": "acme/student", "loss": {"kl": 0.75, "ce": 0.5}}))
    assert [[s.name for s in chain] for chain in chains] == [
        ["medical", "medical.hard_labels"],
        ["legal", "legal.hard_labels"],
    ]
    specialist, control = chains[0]
    assert (control.config.loss.kl, control.config.loss.ce) == (0, 1.25), "the weights of the loss add up to the same"
    assert control.config.train == specialist.config.train and control.mix == specialist.mix
    assert (specialist.control_of, control.control_of) == (None, "medical")


def test_the_generalist_trains_on_all_domains_equally() -> None:
    chains = student_groups(clinic(evaluate={"baselines": ["generalist"]}))
    assert [[s.name for s in chain] for chain in chains] == [["medical"], ["legal"], ["generalist"]]
    assert chains[-1][0].mix == {"legal": 0.5, "medical": 0.5}


def test_without_controls_only_specialists_train() -> None:
    chains = student_groups(clinic(evaluate={"baselines": ["initial", "single_expert"]}))
    assert [[s.name for s in chain] for chain in chains] == [["medical"], ["legal"]]


def test_a_control_on_given_answers_is_its_specialist_with_other_texts_and_another_loss() -> None:
    [(specialist, hard, given), _] = student_groups(
        clinic(evaluate={"baselines": ["given_answers", "hard_labels"], "control_tokens": 100})
    )
    assert (given.name, given.control_of, given.end_tokens) == ("medical.given_answers", "medical", 100)
    assert given.given_only and not hard.given_only and not specialist.given_only
    assert given.config == hard.config and (given.mix, given.end_tokens) == (hard.mix, hard.end_tokens)


def test_what_training_took(tmp_path: Path) -> None:
    """A control starts from its specialist's weights; of a student that left no log, no seconds are known."""
    run = measured_run(tmp_path)
    put(run, StudentLayout("medical.hard_labels").done, {"tokens": 500, "steps": 3})
    report = build_report(run, run.located_config(), None, {}, Timing())
    assert report.trained.keys() == {"medical", "medical.hard_labels"}, "legal has not ended"
    report.take_timing(Worked(TIMES, {"medical": 40.0, "legal": 7.0}), clinic())
    medical, control = report.trained["medical"], report.trained["medical.hard_labels"]
    assert (medical.tokens, medical.steps, medical.seconds) == (5000, 25, 40.0)
    assert (medical.parameters, medical.flops) == (7, 6 * 7 * 5000)
    assert (control.tokens, control.seconds, control.flops) == (500, None, 6 * 7 * 500)
    assert report.timing == TIMES and Report.from_json(report.to_json()).trained == report.trained
    assert "| medical | 7 | 5,000 | 25 | 40 |  | 2.1e+05 |" in markdown(report)


FROM_SCRATCH = {"medical": {}, "large": {"loss": {"kl": 0, "ce": 1}, "mix": {"medical": 1}}}


def test_a_specialist_that_learns_from_labels_is_its_own_control() -> None:
    config = clinic(specialists=FROM_SCRATCH, evaluate={"baselines": ["hard_labels"]})
    assert [[s.name for s in chain] for chain in student_groups(config)] == [
        ["medical", "medical.hard_labels"],
        ["large"],
    ]


def test_what_stands_beside_a_specialist_is_scored_on_its_domain_and_paired_with_it(tmp_path: Path) -> None:
    changes = {"specialists": FROM_SCRATCH, "evaluate": {"beside": {"medical": ["large"]}}}
    run, measured = measured_run(tmp_path, **changes), evaluation()
    measured.scores["large"] = {"medical": score(0.09)}
    measured.differences["medical - large"] = {**differences(), "kl": Estimate(0.02, 0.01, 0.03)}
    report = build_report(run, run.located_config(), measured, {}, TIMES)
    assert {n: s.kl for n, s in report.students["medical"].beside.items()} == {"large": 0.09}
    assert report.students["large"].beside == {} and report.differences["medical - large"].low == 0.01
    assert pairs(run.located_config(), "medical")["medical - large"] == ("medical", "large")
    text = markdown(report)
    assert "| – large | 0.0900 |" in text and "- KL of medical - large: +0.0200 (paired" in text
    assert "| – large | 0.1800 |" in text, "its reverse KL"


def test_a_control_on_given_answers_is_reported_beside_its_specialist(tmp_path: Path) -> None:
    run, measured = measured_run(tmp_path, evaluate={"baselines": ["given_answers"]}), evaluation()
    put(run, StudentLayout("medical.given_answers").done, {"tokens": 500, "steps": 3})
    measured.scores["medical.given_answers"] = {"medical": score(0.7)}
    medical = build_report(run, run.located_config(), measured, {}, TIMES).students["medical"]
    assert medical.given_answers is not None and medical.given_answers.kl == 0.7
    assert medical.given_answers_tokens == 500


def test_a_short_control_ends_where_its_specialist_keeps_its_weights() -> None:
    """On the same schedule. Nobody's best checkpoint is compared: it would be of another step."""
    best = {"model": "acme/student", "train": {"tokens": 4000, "keep": "best"}}
    chains = student_groups(clinic(defaults=best, evaluate={"control_tokens": "25%"}))
    for specialist, control in chains:
        assert (specialist.snapshot_tokens, specialist.end_tokens) == (1000, None)
        assert (control.snapshot_tokens, control.end_tokens) == (None, 1000)
        assert (control.config.train.tokens, control.config.train.keep) == (4000, "last")
        assert specialist.config.train.keep == "best"
    [(specialist,), _] = student_groups(clinic(defaults=best, evaluate={"control_tokens": 7, "baselines": []}))
    assert specialist.snapshot_tokens == 7, "a control may be added later"
    for specialist, control in student_groups(clinic(defaults=best)):
        assert specialist.snapshot_tokens is control.end_tokens is None and control.config.train.keep == "best"


@pytest.mark.parametrize(
    ("written", "own"), [("25%", "medical.at_control_tokens"), ("100%", "medical"), (None, "medical")]
)
def test_hard_labels_are_compared_at_equal_tokens(written: str | None, own: str) -> None:
    found = pairs(clinic(evaluate={"control_tokens": written}), "medical")
    assert found == {
        "medical - hard_labels": (own, "medical.hard_labels"),
        "medical - given_answers": (own, "medical.given_answers"),
        "medical - generalist": ("medical", "generalist"),
        "medical - teacher_4bit": ("medical", "teacher_4bit"),
    }


def test_the_scores_of_a_specialist_after_as_many_tokens_as_its_control(tmp_path: Path) -> None:
    run, measured = measured_run(tmp_path), evaluation()
    put(run, StudentLayout("medical.hard_labels").done, {"tokens": 500, "steps": 3})
    measured.scores["medical.at_control_tokens"] = {"medical": score(0.2)}
    measured.probes["medical.at_control_tokens"] = {"medical": [{"rank": 9, "probability": 0.1}] * 2}
    report = build_report(run, run.located_config(), measured, {}, TIMES)
    medical = report.students["medical"]
    assert medical.at_control_tokens is not None and medical.at_control_tokens.kl == 0.2
    assert medical.heldout is not None and medical.heldout.kl == 0.111
    assert (medical.tokens, medical.hard_labels_tokens) == (5000, 500)
    assert [(p.at_control_tokens, p.specialist) for p in medical.probes] == [(9, 2), (9, 3)]
    assert Report.from_json(report.to_json()) == report
    later = unmeasured(run)
    later.take_scores(report)
    assert later.students["medical"] == medical


QUANTISED = {"medical": {"quantised": "qad"}, "legal": {}}


def test_a_quantised_sibling_goes_on_from_what_its_specialist_became() -> None:
    """After the controls, for which nobody should wait if it fails."""
    lora = {"base": "acme/student", "lora": {"rank": 4}}
    loss = {"kl": 0.5, "ce": 0.5, "ce_end": 0.0, "kl_end": 1.0}
    specialist = {"model": lora, "loss": loss, "train": {"tokens": 5000, "lr": 1e-3}, "quantised": "qad"}
    [[medical, control, sibling]] = student_groups(clinic(specialists={"medical": specialist}))
    assert (sibling.name, sibling.quantised_of, sibling.control_of) == ("medical.quantised", "medical", None)
    assert initial_key(sibling) == StudentLayout("medical").final
    assert initial_key(control) == initial_key(medical) == StudentLayout("medical").initial
    assert sibling.config.model.lora is None and medical.config.model.lora is not None
    own, train = medical.config.train, sibling.config.train
    assert (train.tokens, train.lr) == (20000, pytest.approx(5e-4)) and train.workers == own.workers
    assert train.quantise is not None and (train.quantise.format, train.quantise.start) == ("q4_0", 0)
    assert own.quantise is None and sibling.config.quantised is None
    now = sibling.config.loss
    assert (now.kl, now.ce, now.kl_end, now.ce_end) == (1.0, 0.0, None, None), "the loss as it ended"
    assert (sibling.mix, sibling.milestones, sibling.snapshot_tokens) == (medical.mix, (), None)


def test_how_a_quantised_sibling_is_trained_can_be_said() -> None:
    own = {"tokens": 700, "lr": 1e-5, "batch_tokens": 100, "schedule": "constant", "warmup": 0}
    settings = {"format": "q8_0", "keep": ["down_proj"], "train": own}
    [[*_, sibling]] = student_groups(clinic(specialists={"medical": {"quantised": settings}}))
    found = sibling.config.train
    assert {key: getattr(found, key) for key in own} == own
    assert found.quantise is not None and found.quantise.keep == ("down_proj",)


def test_models_before_the_lattice_are_no_milestones() -> None:
    train = {"tokens": "1M", "quantise": {"format": "q4_0", "start": "50%"}}
    config = clinic(specialists={"medical": {"train": train}}, evaluate={"floor": {"points": 4}})
    assert milestones_of(config, config.specialists["medical"])[0] == 500_000
    late = clinic(
        specialists={"medical": {"train": {**train, "quantise": {"format": "q4_0", "start": "90%"}}}},
        evaluate={"floor": {"points": 4}},
    )
    assert milestones_of(late, late.specialists["medical"]) == (), "the rate falls from 80 % on"


@pytest.mark.parametrize(
    ("own", "batch", "settings", "tokens", "step"),
    [
        (50_000_000, 16_384, {}, 5_000_000, 16_384),
        (250_000, 520, {}, 52_000, 520),
        (10_000, 640, {}, 40_000, 400),
        (10_000, 640, {"tokens": 0.5}, 5_000, 50),
        (10_000, 640, {"tokens": 700, "batch_tokens": 320}, 700, 320),
        (10, 640, {}, 40, 1),
    ],
)
def test_a_sibling_has_steps_enough_whatever_its_specialist_had(
    own: int, batch: int, settings: dict[str, Any], tokens: int, step: int
) -> None:
    whole = TrainConfig(tokens=own, batch_tokens=batch, lr=1e-3)
    found = quantised_train(whole, QuantisedConfig.model_validate({"format": "q4_0", "train": settings}))
    assert (found.tokens, found.batch_tokens, found.lr) == (tokens, step, 5e-4)
