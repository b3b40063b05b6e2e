"""The report as data: its records from a run folder made by hand, and its JSON."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.measured_run import (
    LOSS_IS_NAN,
    POINT,
    TIMES,
    WITHHELD,
    evaluation,
    measured_report,
    measured_run,
    opened,
    score,
    unmeasured,
)
from support.small_configuration import clinic

from orchestrator.reporting.records import SamplingReport
from orchestrator.reporting.report import SCHEMA_VERSION, Report, build_report
from orchestrator.reporting.scores import ProbeRanks, Score
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import SamplingConfig

NOT_MEASURED = {
    "table": {},
    "differences": {},
    "probes": {},
    "single_expert": None,
    "teacher_4bit": None,
    "unigram": None,
}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Everything at once: medical is measured, legal failed."""
    return measured_report(tmp_path)


# Records ------------------------------------------------------------------------------------------------------


def test_the_teachers_part(report: Report) -> None:
    teacher = report.teachers["teacher"]
    assert (teacher.model, teacher.ep_size, teacher.units) == ("acme/teacher", 2, 4)
    assert (teacher.tokens, teacher.generated) == (440, 190)
    assert teacher.tokens_per_s == 44, "440 tokens in 2 + 6 + 2 seconds of one replica's time"


def test_the_targets_part(report: Report) -> None:
    targets = report.targets
    assert (targets.scheme, targets.draws, targets.positions) == ("systematic", 20, "all")
    assert (targets.units, targets.rows, targets.tokens, targets.bytes) == (3, 10, 400, 6800)
    assert (targets.bytes_per_token, targets.kept_per_token) == (17, 9)
    assert targets.rejected == {WITHHELD: 2}
    both = {"legal": {WITHHELD: 2}, "medical": {WITHHELD: 2}}
    assert targets.rejected_by_domain == both, "texts of two domains count in each"


def test_the_prompts_part(report: Report) -> None:
    prompts = report.prompts
    assert (prompts.vocabulary, prompts.rejected, prompts.stop_ids) == (500, 3, {"teacher": (2,)})
    assert prompts.reasons_by_source == {"medical": {"is not JSON": 3}}
    assert [(a.source, a.domains, a.prompts) for a in prompts.asked] == [
        ("medical", ("medical",), 4),
        ("legal", ("legal",), 4),
    ]
    assert prompts.splits["train"].domains == {"medical": 4, "legal": 4}


def test_how_prompts_are_asked_is_reported_in_full() -> None:
    """Who adds a setting adds it to the report, whose schema version that raises."""
    assert {f.name for f in fields(SamplingReport)} == set(SamplingConfig.model_fields)


def test_a_students_part(report: Report) -> None:
    medical = report.students["medical"]
    assert (medical.domain, medical.mix) == ("medical", {"medical": 0.75, "legal": 0.25})
    assert (medical.tokens, medical.steps, medical.export, medical.error) == (5000, 25, "exports/medical", None)
    assert medical.model is not None and medical.model.merged is None
    assert (medical.model.parameters, medical.model.layers, medical.model.dropped_layers) == (7, 2, (1, 3))
    assert medical.base is not None and (medical.base.name, medical.base.on_hub) == ("acme/student", True)
    scores = (medical.heldout, medical.initial, medical.hard_labels)
    assert [s.kl for s in scores if s is not None] == [0.111, 4.444, 0.333]
    assert medical.difference is not None and medical.difference.kl == -0.222
    assert medical.probes == (
        ProbeRanks(teacher=1, specialist=2, hard_labels=71),
        ProbeRanks(teacher=2, specialist=3, hard_labels=None),
    )


def test_a_student_that_failed(report: Report) -> None:
    legal = report.students["legal"]
    assert legal.error == LOSS_IS_NAN["legal"] and report.failures == LOSS_IS_NAN
    assert (legal.tokens, legal.steps, legal.probes) == (0, 0, ())
    assert legal.export is None and legal.heldout is None and legal.model is None


def test_a_student_of_random_weights_has_no_base(tmp_path: Path) -> None:
    random = {"model": {"config": {"model_type": "qwen3", "hidden_size": 8}}}
    report = unmeasured(opened(tmp_path, defaults=random), defaults=random)
    assert report.students["medical"].base is None


def test_the_table_has_specialists_and_the_generalist_only(report: Report) -> None:
    assert list(report.table) == ["medical", "generalist"]
    assert report.single_expert is not None and report.single_expert.kl == {"medical": 1.777, "legal": 1.888}
    four_bit = report.teacher_4bit
    assert four_bit is not None and {d: s.kl for d, s in four_bit.by_domain.items()} == {
        "medical": 0.0625,
        "legal": 0.07,
    }
    assert (four_bit.parameters, four_bit.rounded, four_bit.bytes, four_bit.bytes_at_16_bit) == (1000, 800, 850, 2000)
    assert report.unigram is not None and report.unigram.truth_excess_kl == {"medical": 0.5}


def test_before_evaluation_there_are_no_scores(tmp_path: Path) -> None:
    report = unmeasured(measured_run(tmp_path))
    assert report.students["medical"].heldout is None and report.students["medical"].probes == ()
    assert NOT_MEASURED.items() <= report.to_dict().items()


def test_a_store_of_nothing(tmp_path: Path) -> None:
    empty = opened(tmp_path)
    TargetStore(empty.storage, "train").create(StoreHeader("full", 1, "answer", "float32", 500, "", "", 0))
    report = unmeasured(empty)
    assert (report.targets.tokens, report.targets.bytes_per_token) == (0, 0)
    assert report.targets.kept_per_token == 500, "full keeps the whole vocabulary"
    assert report.teachers["teacher"].tokens_per_s == 0


def test_a_run_in_which_nothing_was_captured(tmp_path: Path) -> None:
    report = unmeasured(opened(tmp_path))
    assert (report.targets.tokens, report.prompts.rejected, report.prompts.splits) == (0, 0, {})
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(("sampling", "noted"), [({}, 0), ({"temperature": 0.7}, 1), ({"top_p": 0.9}, 1)])
def test_a_note_where_text_is_no_sample_of_the_targets(tmp_path: Path, sampling: dict[str, float], noted: int) -> None:
    notes = unmeasured(measured_run(tmp_path), teacher={"model": "acme/teacher", "sampling": sampling}).notes
    assert len(notes) == noted and all(n.startswith("legal, medical: answers ") for n in notes)


def test_exports_are_noted_by_their_keys(report: Report) -> None:
    report.note_exports(["exports/legal"])
    assert [s.export for s in report.students.values()] == ["exports/medical", "exports/legal"]


# JSON ---------------------------------------------------------------------------------------------------------


def test_a_report_is_read_back_as_it_was(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(report.to_json().encode()) == report
    assert Report.from_json(json.loads(report.to_json())) == report


def test_the_json_begins_with_its_schema_version(report: Report) -> None:
    values = json.loads(report.to_json())
    assert next(iter(values)) == "schema" and values["schema"] == SCHEMA_VERSION == 3
    assert values == report.to_dict()


def test_the_places_that_programs_read(report: Report) -> None:
    """A change here is a change of the schema's version."""
    values = report.to_dict()
    medical = values["students"]["medical"]
    numbers = score(0).keys() | {"truth_excess_kl", "truth_tokens_skipped"}
    assert all(medical[part].keys() == numbers for part in ("heldout", "initial", "hard_labels"))
    assert values["timing"] == {"teacher_s": 61.0, "students_s": 47.0, "wall_s": 92.0, "overlap_s": 33.0, "spans": {}}
    assert medical["probes"][0] == {"teacher": 1, "specialist": 2, "hard_labels": 71, "at_control_tokens": None}
    assert (medical["at_control_tokens"], medical["hard_labels_tokens"]) == (None, 5000)
    assert values["table"]["medical"].keys() == {"medical", "legal"}
    assert values["curves"]["medical"]["medical"]["entropy"][0].keys() == POINT.keys()
    assert values["single_expert"]["kl"]["legal"] == 1.888 and medical["difference"]["high"] == -0.2


def test_every_key_is_there_in_every_report(report: Report, tmp_path: Path) -> None:
    empty = unmeasured(opened(tmp_path / "other")).to_dict()
    full = report.to_dict()
    assert empty.keys() == full.keys()
    assert empty["students"]["medical"].keys() == full["students"]["medical"].keys()


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    measured = evaluation()
    measured.scores["medical"]["medical"] |= {"kl": math.nan, "perplexity": math.inf, "truth_excess_kl": math.nan}
    text = build_report(measured_run(tmp_path), clinic(), measured, {}, TIMES).to_json()
    heldout = json.loads(text)["students"]["medical"]["heldout"]
    assert heldout["kl"] is heldout["perplexity"] is heldout["truth_excess_kl"] is None
    read = Report.from_json(text).students["medical"].heldout
    assert isinstance(read, Score) and math.isnan(read.kl) and math.isnan(read.perplexity)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", None])
def test_another_schema_is_refused(report: Report, version: Any) -> None:
    with pytest.raises(ValueError, match="schema version") as caught:
        Report.from_json(report.to_dict() | {"schema": version})
    assert f"reads version {SCHEMA_VERSION}" in str(caught.value) and "stillhouse evaluate" in str(caught.value)
    assert version is None or f"schema version {version}," in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[]", "null", "not JSON"])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Report.from_json(text)


@pytest.mark.parametrize(
    "where", [[], ["timing"], ["targets"], ["students", "medical"], ["students", "medical", "heldout"]]
)
def test_keys_that_are_missing_or_not_known_are_refused(report: Report, where: list[str]) -> None:
    for change in ("more", "less"):
        values = place = report.to_dict()
        for key in where:
            place = place[key]
        lost = "more" if change == "more" else list(place)[-1]
        if change == "more":
            place["more"] = 1
        else:
            del place[lost]
        with pytest.raises(ValueError) as caught:
            Report.from_json(values)
        assert (
            lost in str(caught.value) and str(caught.value).startswith("report.json") and "\n" not in str(caught.value)
        )


# Names that mean something elsewhere --------------------------------------------------------------------------


def test_models_are_named_as_the_configuration_names_them(tmp_path: Path) -> None:
    for name in ("models/large", "models/small", "far/away"):
        (tmp_path / name).mkdir(parents=True)
    own = {"medical": {"model": "models/small"}, "legal": {"model": str(tmp_path / "far" / "away")}}
    report = measured_report(tmp_path, teacher={"model": "models/large"}, defaults={}, specialists=own)
    assert report.teachers["teacher"].model == "models/large"
    bases = [s.base for s in report.students.values()]
    assert [(b.name, b.on_hub) for b in bases if b] == [("models/small", False), ("away", False)]
    assert str(tmp_path) not in report.to_json()


def test_messages_name_no_folder_of_the_machine(tmp_path: Path) -> None:
    run = f"{tmp_path}/runs/clinic"
    failures = {
        "legal": f"ValueError: {tmp_path}/models/large has no config.json (in {tmp_path})",
        "medical.hard_labels": f"OSError: '{run}/students/medical/failed-step-1.json': no space on {run}",
    }
    report = measured_report(tmp_path, failures)
    assert report.failures == {
        "legal": "ValueError: models/large has no config.json (in .)",
        "medical.hard_labels": "OSError: 'students/medical/failed-step-1.json': no space on .",
    }
    assert report.students["legal"].error == report.failures["legal"]
