"""The report: its fields from a run folder made by hand, and the words that people read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_configuration import clinic

from orchestrator.evaluation import Evaluation
from orchestrator.report import build_report
from orchestrator.report_text import closing_lines, closing_table, markdown, model_card
from orchestrator.run_folder import RunFolder
from orchestrator.students import lineup
from orchestrator.timing import timing
from workers.manifest import write_manifest
from workers.targets.log import Entry, Part
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.units import Unit, UnitPlan

TIMES = {"teacher_s": 61.0, "students_s": 47.0, "overlap_s": 33.0, "wall_s": 92.0}
DOMAINS = [("medical",), ("legal",), ("legal", "medical")]
FIELDS = {"run", "seed", "teachers", "targets", "prompts", "students", "timing", "failures", "notes", "repairs"}


def score(kl: float, **more: float) -> dict[str, float]:
    values = {
        "kl": kl,
        "kl_low": kl - 0.01,
        "kl_high": kl + 0.03,
        "top1_agreement": 0.875,
        "perplexity": 5.5,
        "ece_teacher": 0.0625,
        "overconfidence_gap": -0.03125,
        "tokens": 1234,
        "prompts": 56,
    }
    return values | more


def entry(unit: int, **more: Any) -> Entry:
    words: dict[str, Any] = {"teacher": "teacher", "teacher_fingerprint": "", "content_hash": "", "parts": ()}
    numbers = dict.fromkeys(("rows", "tokens", "targets", "entries", "epoch", "started", "finished"), 0)
    return Entry(unit, **(words | numbers | more))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with two training units, one held-out unit, and a medical specialist and its control trained."""
    folder = RunFolder(str(tmp_path / "clinic"))
    header = StoreHeader("systematic", 20, "all", "float32", 500, "tokenizer", "", 0)
    units = {
        "train": [
            entry(0, rows=4, targets=100, generated=60, entries=900, started=10.0, finished=12.0, parts=(part(1800),)),
            entry(1, rows=6, targets=300, generated=90, entries=2700, started=11.0, finished=17.0, parts=(part(5000),)),
            entry(2, set_aside=({"id": "a", "reason": "holds 'halvorin'"}, {"id": "b", "reason": "holds 'halvorin'"})),
        ],
        "heldout": [entry(0, rows=1, targets=40, generated=40, started=20.0, finished=22.0)],
    }
    for split, entries in units.items():
        store = TargetStore(folder.storage, split)
        store.create(header)
        assert all(store.log.commit(e) for e in entries)
    for name in ("medical", "medical.hard_labels"):
        folder.storage.write(f"students/{name}/done.json", json.dumps({"tokens": 5000, "steps": 25}).encode())
    folder.storage.write("students/medical/initial.json", json.dumps({"parameters": 7}).encode())
    plan = UnitPlan("train", tuple(Unit(u, d, "teacher", 4, 100, True) for u, d in enumerate(DOMAINS)))
    write_manifest(folder.storage, plan, [])
    sampled = {"teacher": "teacher", "given": False, "prompts": 4}
    summary = {
        "vocabulary": 500,
        "set_aside": 3,
        "reasons": {"is not JSON": 3},
        "reasons_by_source": {"medical": {"is not JSON": 3}},
        "asked": [{"source": d, "domains": [d], **sampled} for d in ("medical", "legal")],
        "splits": {},
    }
    folder.storage.write("prompts/summary.json", json.dumps(summary).encode())
    folder.storage.write("exports/medical/config.json", b"{}")
    return folder


def part(size: int) -> Part:
    return Part("targets", f"parts/{size}", size, "0")


def evaluation() -> Evaluation:
    """The medical specialist between its control and its initial weights; a generalist; an eroded teacher; probes."""
    by_domain = {"medical": score(0.111, truth_excess_kl=0.05), "legal": score(0.222)}
    rank = {"probability": 0.5}
    return Evaluation(
        scores={
            "medical": by_domain,
            "medical.initial": {"medical": score(4.444)},
            "medical.hard_labels": {"medical": score(0.333)},
            "generalist": {"medical": score(0.555), "legal": score(0.666)},
            "eroded": {"medical": score(1.777), "legal": score(1.888)},
        },
        differences={"medical - hard_labels": {"kl": -0.222, "low": -0.25, "high": -0.2}},
        probes={
            "teacher": {"medical": [{"rank": 1, **rank}, {"rank": 2, **rank}]},
            "medical": {"medical": [{"rank": 2, **rank}, {"rank": 3, **rank}]},
            "medical.hard_labels": {"medical": [{"rank": 71, **rank}, {"rank": 82, **rank}]},
        },
        unigram={"medical": 0.5},
    )


@pytest.fixture
def report(run: RunFolder) -> dict[str, Any]:
    """Everything at once: medical is measured, legal failed."""
    return build_report(run, clinic(), evaluation(), {"legal": "ValueError: loss is NaN at step 88"}, TIMES)


# Fields -------------------------------------------------------------------------------------------------------


def test_a_report_is_plain_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert FIELDS | {"table", "differences", "probes", "eroded", "unigram"} == report.keys()


def test_the_teachers_part(report: dict[str, Any]) -> None:
    teacher = report["teachers"]["teacher"]
    assert (teacher["model"], teacher["ep_size"], teacher["units"]) == ("acme/teacher", 2, 4)
    assert (teacher["tokens"], teacher["generated"]) == (440, 190)
    assert teacher["tokens_per_s"] == 44, "440 tokens in 2 + 6 + 2 seconds of one replica's time"


def test_the_targets_part(report: dict[str, Any]) -> None:
    targets = report["targets"]
    assert (targets["scheme"], targets["draws"], targets["positions"]) == ("systematic", 20, "all")
    assert (targets["units"], targets["rows"], targets["tokens"], targets["bytes"]) == (3, 10, 400, 6800)
    assert (targets["bytes_per_token"], targets["entries_per_token"]) == (17, 9)
    assert targets["set_aside"] == {"holds 'halvorin'": 2}
    both = {"legal": {"holds 'halvorin'": 2}, "medical": {"holds 'halvorin'": 2}}
    assert targets["set_aside_by_domain"] == both, "texts of two domains count in each"


def test_a_students_part(report: dict[str, Any]) -> None:
    medical = report["students"]["medical"]
    assert (medical["domain"], medical["mix"]) == ("medical", {"medical": 0.75, "legal": 0.25})
    assert (medical["tokens"], medical["steps"], medical["model"]) == (5000, 25, {"parameters": 7})
    assert medical["export"] == "exports/medical" and "error" not in medical
    assert [medical[k]["kl"] for k in ("heldout", "initial", "hard_labels")] == [0.111, 4.444, 0.333]
    assert medical["difference"]["kl"] == -0.222
    assert medical["probes"] == [
        {"teacher": 1, "specialist": 2, "hard_labels": 71},
        {"teacher": 2, "specialist": 3, "hard_labels": 82},
    ]


def test_a_student_that_failed(report: dict[str, Any]) -> None:
    legal = report["students"]["legal"]
    assert legal["error"] == "ValueError: loss is NaN at step 88"
    assert (legal["tokens"], legal["steps"], legal["probes"]) == (0, 0, [])
    assert legal["export"] is None and legal["heldout"] is None


def test_the_table_has_specialists_and_the_generalist_only(report: dict[str, Any]) -> None:
    assert list(report["table"]) == ["medical", "generalist"]
    assert report["eroded"]["kl"] == {"medical": 1.777, "legal": 1.888}


def test_before_evaluation_there_are_no_scores(run: RunFolder) -> None:
    report = build_report(run, clinic(), None, {}, timing([], 0))
    assert report.keys() == FIELDS
    assert "heldout" not in report["students"]["medical"]
    assert markdown(report) and closing_lines(report) and shown(report)


def test_a_store_of_nothing(tmp_path: Path) -> None:
    empty = RunFolder(str(tmp_path))
    TargetStore(empty.storage, "train").create(StoreHeader("full", 1, "answer", "float32", 500, "", "", 0))
    report = build_report(empty, clinic(), None, {}, timing([], 0))
    assert (report["targets"]["tokens"], report["targets"]["bytes_per_token"]) == (0, 0)
    assert report["targets"]["entries_per_token"] == 500, "full keeps the whole vocabulary"
    assert report["teachers"]["teacher"]["tokens_per_s"] == 0 and markdown(report)


def test_a_run_in_which_nothing_was_taught(tmp_path: Path) -> None:
    report = build_report(RunFolder(str(tmp_path)), clinic(), None, {}, timing([], 0))
    assert report["targets"]["tokens"] == 0


@pytest.mark.parametrize(("sampling", "noted"), [({}, 0), ({"temperature": 0.7}, 1), ({"top_p": 0.9}, 1)])
def test_a_note_where_text_is_no_sample_of_the_targets(run: RunFolder, sampling: dict[str, float], noted: int) -> None:
    changed = clinic(teacher={"model": "acme/teacher", "sampling": sampling})
    notes = build_report(run, changed, None, {}, timing([], 0))["notes"]
    assert len(notes) == noted and all(n.startswith("legal, medical: answers ") for n in notes)


# Words --------------------------------------------------------------------------------------------------------


def shown(report: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(closing_table(report))
    return out.getvalue()


def test_the_closing_table_sets_each_specialist_beside_its_controls(report: dict[str, Any]) -> None:
    [row] = [line for line in shown(report).splitlines() if "medical" in line and "0.111" in line]
    numbers = ["0.111", "0.020", "4.444", "0.333", "0.555"]
    places = [row.index(n) for n in numbers]
    assert places == sorted(places), "KL and half its interval, initial, hard labels, generalist on medical text"
    assert "88%" in row


def test_the_lines_below_name_failures_and_times(report: dict[str, Any]) -> None:
    text = "\n".join(closing_lines(report))
    assert "legal" in text and "loss is NaN at step 88" in text
    for words in ("61 s", "47 s", "33 s", "92 s", "1.78", "2, 3", "71, 82"):
        assert words in text


def test_the_markdown_says_all_that_was_found(report: dict[str, Any]) -> None:
    text = markdown(report)
    assert text.startswith("# Run `clinic`\n")
    for words in ("acme/teacher", "systematic", "440 target tokens", "400 target tokens", "17.0 bytes", "9.0 entries"):
        assert words in text
    for words in ("0.1110", "0.1010 … 0.1410", "4.4440", "0.3330", "-0.2220", "1.777", "0.666", "10.0%"):
        assert words in text, words
    for words in ("3 × is not JSON", "2 × holds 'halvorin'", "loss is NaN at step 88", "wall 92 s"):
        assert words in text, words


def test_tables_of_the_markdown_are_rectangular(report: dict[str, Any]) -> None:
    blocks: list[list[str]] = [[]]
    for line in markdown(report).splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    tables = [b for b in blocks if b]
    assert len(tables) >= 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, "\n".join(table)


def test_the_markdown_names_a_control_that_failed(run: RunFolder) -> None:
    failures = {"medical.hard_labels": "OSError: no space left", "generalist": "RuntimeError: lost a worker"}
    text = markdown(build_report(run, clinic(), evaluation(), failures, TIMES))
    assert "no space left" in text and "lost a worker" in text


def test_the_card_of_a_model(report: dict[str, Any]) -> None:
    card = model_card(report, "medical")
    assert card.startswith("---\n") and card.index("\n---\n", 4) < card.index("# medical")
    for words in ("acme/teacher", "medical 75%, legal 25%", "5,000 target tokens in 25", "0.1110", "not correctness"):
        assert words in card, words


def test_the_card_of_a_model_that_was_not_measured(run: RunFolder) -> None:
    card = model_card(build_report(run, clinic(), None, {}, timing([], 0)), "medical")
    assert "# medical" in card and "Held-out" not in card


# Who trains ---------------------------------------------------------------------------------------------------


def test_each_specialist_is_followed_by_its_control() -> None:
    chains = lineup(clinic(defaults={"model": "acme/student", "loss": {"kl": 0.75, "ce": 0.5}}))
    assert [[s.name for s in chain] for chain in chains] == [
        ["medical", "medical.hard_labels"],
        ["legal", "legal.hard_labels"],
    ]
    specialist, control = chains[0]
    assert (control.config.loss.kl, control.config.loss.ce) == (0, 1.25), "the weights of the loss add up to the same"
    assert control.config.train == specialist.config.train and control.mix == specialist.mix
    assert (specialist.control_of, control.control_of) == (None, "medical")


def test_the_generalist_trains_on_all_domains_equally() -> None:
    chains = lineup(clinic(evaluate={"against": ["generalist"]}))
    assert [[s.name for s in chain] for chain in chains] == [["medical"], ["legal"], ["generalist"]]
    assert chains[-1][0].mix == {"legal": 0.5, "medical": 0.5}


def test_without_controls_only_specialists_train() -> None:
    assert [[s.name for s in c] for c in lineup(clinic(evaluate={"against": ["initial", "eroded"]}))] == [
        ["medical"],
        ["legal"],
    ]
