"""The card of an exported specialist, as huggingface_hub reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.measured_run import measured_report, measured_run, with_short_control
from support.small_configuration import clinic

from orchestrator.render.model_card import model_card
from orchestrator.reporting.records import SourceModel
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.timing import Timing
from workers.fetching.licences import Licence


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return measured_report(tmp_path)


def loaded(text: str, folder: Path) -> ModelCard:
    (folder / "README.md").write_text(text)
    return ModelCard.load(folder / "README.md")


def test_the_front_matter(report: Report, tmp_path: Path) -> None:
    data = loaded(model_card(report, "medical"), tmp_path).data
    assert (data.library_name, data.pipeline_tag, data.base_model) == (
        "transformers",
        "text-generation",
        "acme/student",
    )
    assert data.tags == ["distillation", "stillhouse"]
    assert data.license is None, "nobody states one"


OPEN, LLAMA = Licence("apache-2.0"), Licence("other", "llama3", "https://acme.org/l")


@pytest.mark.parametrize(
    ("teacher", "base", "passed", "words"),
    [
        (OPEN, OPEN, OPEN, "They are passed on as they are"),
        (LLAMA, LLAMA, LLAMA, "They are passed on as they are"),
        (OPEN, LLAMA, Licence("other"), "They are not one"),
        (None, OPEN, Licence("other"), "They are not one"),
        (None, None, None, "the card states none"),
    ],
)
def test_licences_are_passed_on(
    teacher: Licence | None, base: Licence | None, passed: Licence | None, words: str, report: Report
) -> None:
    """One that all state is the model's own; where they differ, both are named and none is."""
    report.teachers = {name: replace(t, licence=teacher) for name, t in report.teachers.items()}
    student = report.students["medical"]
    assert student.base is not None
    report.students["medical"] = replace(student, base=replace(student.base, licence=base))
    assert Report.from_json(report.to_json()) == report
    card = ModelCard(model_card(report, "medical"))
    found = Licence(card.data.license, card.data.license_name, card.data.license_link) if card.data.license else None
    assert found == passed and words in card.text
    for model, licence in (("teacher acme/teacher", teacher), ("initial weights acme/student", base)):
        said = licence.shown if licence is not None else "not stated in its folder"
        assert f"- {model}: {said}" in card.text


def test_of_random_weights_the_teacher_says(report: Report) -> None:
    report.teachers = {name: replace(t, licence=OPEN) for name, t in report.teachers.items()}
    report.students["medical"] = replace(report.students["medical"], base=None)
    card = ModelCard(model_card(report, "medical"))
    assert card.data.license == "apache-2.0" and "- initial weights" not in card.text.split("## Licences")[1]


def test_a_hostile_licence_stays_in_its_line(report: Report) -> None:
    planted = Licence("mit\n---\n# title", None, "https://x\n# title")
    report.teachers = {name: replace(t, licence=planted) for name, t in report.teachers.items()}
    card = ModelCard(model_card(report, "medical"))
    assert [line for line in card.text.splitlines() if line.startswith("# ")] == ["# medical"]


def test_the_scores_are_a_model_index(report: Report, tmp_path: Path) -> None:
    data = loaded(model_card(report, "medical"), tmp_path).data
    assert data.model_name == "medical" and data.eval_results is not None
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {
        "kl_divergence": 0.111,
        "top1_agreement": 0.875,
        "perplexity": 5.5,
    }
    assert {(r.task_type, r.dataset_split, r.verified) for r in data.eval_results} == {
        ("text-generation", "heldout", None)
    }


def test_the_text(report: Report) -> None:
    card = ModelCard(model_card(report, "medical"))
    assert card.text.lstrip().startswith("# medical\n")
    for words in ("acme/teacher", "acme/student", "medical 75%, legal 25%", "5,000 target tokens in 25 steps"):
        assert words in card.text, words
    for words in ("| 0.1110 | 0.3330 | 4.4440 |", "56 held-out prompts", "not correctness", "without layers 1, 3"):
        assert words in card.text, words


def test_a_control_that_ended_early_stands_beside_the_model_of_that_moment(report: Report) -> None:
    text = ModelCard(model_card(with_short_control(report), "medical")).text
    heads = "| | this model | itself, after 1,500 tokens | hard labels, after 1,500 tokens | initial weights |"
    assert heads in text and "| 0.1110 | 0.2000 | 0.3330 | 4.4440 |" in text
    assert "itself after as many tokens, and the weights" in text


def test_a_model_that_was_not_measured(tmp_path: Path) -> None:
    report = build_report(measured_run(tmp_path), clinic(), None, {}, Timing())
    card = ModelCard(model_card(report, "medical"))
    assert card.data.eval_results is None and "model-index" not in card.content
    assert "# medical" in card.text and "Evaluation" not in card.text


@pytest.mark.parametrize("base", [None, SourceModel(name="models/small", revision=None, on_hub=False)])
def test_only_a_model_of_the_hub_is_a_base_in_the_front_matter(report: Report, base: SourceModel | None) -> None:
    report.students["medical"] = replace(report.students["medical"], base=base)
    card = ModelCard(model_card(report, "medical"))
    assert card.data.base_model is None
    assert f"initial weights: {base.name if base else 'random'}" in card.text


def test_no_path_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "models" / "large").mkdir(parents=True)
    report = measured_report(tmp_path, teacher={"model": "models/large"})
    card = model_card(report, "medical")
    assert "models/large" in card and str(tmp_path) not in card


@pytest.mark.parametrize("scheme", ["systematic", "threshold", "multinomial", "topk", "full"])
def test_draws_are_told_of_schemes_that_draw(report: Report, scheme: str) -> None:
    report.targets = replace(report.targets, scheme=scheme)
    assert ("20 draws" in model_card(report, "medical")) == (scheme not in ("topk", "full"))


def test_a_domain_of_any_name_leaves_the_front_matter_whole(report: Report) -> None:
    hostile = "a: 'b' | [c]\n---\nlicense: mit\n# title"
    report.students["medical"] = replace(report.students["medical"], domain=hostile, mix={hostile: 1.0})
    card = ModelCard(model_card(report, "medical"))
    assert card.data.license is None and card.data.library_name == "transformers"
    assert [line for line in card.text.splitlines() if line.startswith("# ")] == ["# medical"]
