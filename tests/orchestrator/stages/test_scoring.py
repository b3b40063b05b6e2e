"""Scores by model and unit: what is asked, what is there already, and what they add up to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.captured_run import CapturedRun, capture, save_student, tasks_of, train_medical
from support.comparing.tolerances import of_capture
from support.project import Project
from transformers import AutoModelForCausalLM

from orchestrator.config.schema import RunConfig
from orchestrator.reporting.evaluation import compare
from orchestrator.reporting.measures.shown import apart_tokens
from orchestrator.runs.errors import RunFailed
from orchestrator.stages.evaluation import scoring_job
from orchestrator.stages.scoring.gathered import gathered
from orchestrator.stages.scoring.tasks import missing_tasks
from workers.evaluation.config import OwnTextConfig
from workers.evaluation.job import ScoringJob, ScoringTask
from workers.evaluation.models.four_bit import round_to_4_bit
from workers.evaluation.scorer import Scorer
from workers.layout import StudentLayout
from workers.manifest import Manifest
from workers.splits import HELDOUT, OWN_COMPARED
from workers.targets.commits.damage import DamagedShard
from workers.targets.reader import rows_of

TRUTH = """
import numpy as np

def truth(domain, ids, start):
    p = np.full((len(ids) - start, 12), 0.5 / 11)
    p[:, 3] = 0.5
    p[1::2] = np.nan
    return p
"""


@pytest.fixture
def scored(capture_project: Project) -> tuple[CapturedRun, RunConfig]:
    """A captured run with probes and a known truth, of which one specialist and its control are trained."""
    project = capture_project
    project.rows(
        "probes.jsonl", *({"domain": d, "prompt": "the fever is", "answer": "high"} for d in ("legal", "medical"))
    )
    project.text("truth.py", TRUTH)
    evaluate = {"heldout": 0.5, "probes": "probes.jsonl", "truth": "truth.py:truth", "bootstrap": 100}
    evaluate["shown_texts"] = 0
    project.set("evaluate", evaluate)
    captured = capture(project)
    train_medical(captured)
    return captured, project.load().located()


def scorer(captured: CapturedRun, config: RunConfig) -> Scorer:
    return Scorer(ScoringJob(captured.run.uri, config.evaluate.truth, 64, 1, "cpu", ""))


def score_all(captured: CapturedRun, config: RunConfig, workers: int = 1) -> int:
    """Score what is missing, as so many processes would; how many pairs there were."""
    some = [scorer(captured, config) for _ in range(workers)]
    return sum(
        some[i % workers](t) for i, t in enumerate(missing_tasks(captured.run, tasks_of(captured, config), workers))
    )


def files(captured: CapturedRun) -> dict[str, float]:
    """Files of scores, and when they were written."""
    return {f.key: f.modified for f in captured.run.storage.listing("scores")}


def expected(captured: CapturedRun, key: str, domain: str) -> dict[str, float]:
    """Scores over all positions of a domain, from whole texts one by one."""
    folder = captured.run.storage.local_path(key)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    store, manifest = captured.store(HELDOUT), Manifest(captured.run.storage, HELDOUT)
    kl, agree, nll, over = [], [], [], []
    for entry in captured.entries(HELDOUT):
        mine = {p.id for p in manifest.prompts(entry.unit) if domain in p.domains}
        for row in rows_of(store.read_unit(entry), store.header):
            if row.prompt_uid not in mine:
                continue
            with torch.no_grad():
                logits = model(torch.from_numpy(row.tokens.astype(np.int64))[None]).logits[0]
            q_TV = logits[row.start - 1 : -1].double().log_softmax(-1).numpy()
            t_TV = np.asarray(row.logprobs, np.float64)
            at, top = np.arange(row.targets), q_TV.argmax(-1)
            kl.append((np.exp(t_TV) * (t_TV - q_TV)).sum(-1))
            agree.append(t_TV.argmax(-1) == top)
            nll.append(-q_TV[at, row.tokens[row.start :]])
            over.append(np.exp(q_TV[at, top]) - np.exp(t_TV[at, top]))
    means = {
        n: float(np.concatenate(v).mean()) for n, v in (("kl", kl), ("agree", agree), ("nll", nll), ("over", over))
    }
    return {
        "kl": means["kl"],
        "top1_agreement": means["agree"],
        "perplexity": float(np.exp(means["nll"])),
        "overconfidence_gap": means["over"],
    }


def test_units_add_up_to_the_scores_of_all_positions(scored: tuple[CapturedRun, RunConfig]) -> None:
    captured, config = scored
    assert score_all(captured, config) > 4
    found = compare(gathered(captured.run, tasks_of(captured, config)), config)
    for name, key in {"medical": "final", "medical.initial": "initial", "medical.hard_labels": "final"}.items():
        student = "medical.hard_labels" if name == "medical.hard_labels" else "medical"
        assert found.scores[name].keys() == ({"medical", "legal"} if name == "medical" else {"medical"})
        for domain, score in found.scores[name].items():
            by_hand = expected(captured, f"{StudentLayout(student).root}/{key}", domain)
            for measure, value in by_hand.items():
                assert score[measure] == pytest.approx(value, abs=4 * of_capture(12.0)), (name, domain, measure)
            assert score["truth_tokens_skipped"] > 0
    assert found.differences["medical - hard_labels"]["kl"].value == pytest.approx(
        found.scores["medical"]["medical"]["kl"] - found.scores["medical.hard_labels"]["medical"]["kl"]
    )
    assert set(found.unigram) == {"medical", "legal"} and all(np.isfinite(list(found.unigram.values())))
    assert {n: {d: len(r) for d, r in by.items()} for n, by in found.probes.items()} == {
        "medical": {"medical": 1, "legal": 1},
        "medical.initial": {"medical": 1},
        "medical.hard_labels": {"medical": 1},
        "teacher": {"medical": 1, "legal": 1},
    }
    assert found.speeds.keys() == {"medical"} and found.speeds["medical"].tokens_per_s > 0
    points = found.curves["medical"]["medical"]["position"]
    assert sum(p["tokens"] for p in points) == found.scores["medical"]["medical"]["tokens"]


def test_what_is_scored_is_passed_over_and_what_changed_is_scored_anew(scored: tuple[CapturedRun, RunConfig]) -> None:
    captured, config = scored
    tasks = missing_tasks(captured.run, tasks_of(captured, config), 1)
    first = ScoringTask(tasks[0].model, tasks[0].units[:1])
    assert scorer(captured, config)(first) == 1
    [(key, written)] = files(captured).items()
    assert score_all(captured, config) == sum(len(t.units) for t in tasks) - 1
    assert files(captured)[key] == written
    before = files(captured)
    assert missing_tasks(captured.run, tasks_of(captured, config), 1) == []
    assert scorer(captured, config)(tasks[0]) == 0 and files(captured) == before
    save_student(captured, StudentLayout("medical").initial, seed=9)
    again = missing_tasks(captured.run, tasks_of(captured, config), 1)
    assert {t.model.name for t in again} == {"medical.initial"}
    score_all(captured, config)
    assert before.items() < files(captured).items()


@pytest.mark.parametrize("workers", [2, 5])
def test_several_processes_find_the_same_scores(scored: tuple[CapturedRun, RunConfig], workers: int) -> None:
    captured, config = scored
    tasks = tasks_of(captured, config)
    pieces = missing_tasks(captured.run, tasks, workers)
    assert len(pieces) >= min(2 * workers, sum(len(t.units) for t in tasks))
    assert [u for piece in pieces for u in piece.units] == [u for t in tasks for u in t.units]  # a model after another
    score_all(captured, config)
    one = gathered(captured.run, tasks)
    for key in files(captured):
        captured.run.storage.delete(key)
    score_all(captured, config, workers)
    other = gathered(captured.run, tasks)
    assert one.speeds.keys() == other.speeds.keys()
    one.speeds = other.speeds = {}  # seconds are never the same
    assert compare(one, config) == compare(other, config)


def test_a_deleted_file_of_scores_stops_the_report(scored: tuple[CapturedRun, RunConfig]) -> None:
    captured, config = scored
    score_all(captured, config)
    captured.run.storage.delete(next(iter(files(captured))))
    with pytest.raises(RunFailed, match="was deleted meanwhile"):
        gathered(captured.run, tasks_of(captured, config))


def test_a_unit_that_is_not_captured_or_damaged_is_named(scored: tuple[CapturedRun, RunConfig]) -> None:
    captured, config = scored
    tasks = tasks_of(captured, config)
    part = captured.part(0, HELDOUT)
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedShard, match=r"unit 0: .*it is marked; run `stillhouse capture"):
        scorer(captured, config)(tasks[0])
    captured.log_entry(0, HELDOUT).unlink()
    with pytest.raises(ValueError, match="unit 0 of the heldout store is not captured yet"):
        tasks_of(captured, config)


def test_students_write_text_that_their_teacher_reads(scored: tuple[CapturedRun, RunConfig]) -> None:
    """In two rounds, and once: what one leaves the other needs."""
    captured, config = scored
    own_text = {"own_text": OwnTextConfig(texts=3, max_new_tokens=5)}
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=own_text)})
    tasks = tasks_of(captured, config)
    assert [(t.model.kind, [u.split for u in t.units]) for t in tasks if t.after] == [("whole_teacher", [OWN_COMPARED])]
    pieces = missing_tasks(captured.run, tasks, 3)
    scoring = Scorer(scoring_job(captured.run, config, ""))
    for task in sorted(pieces, key=lambda task: task.after):
        scoring(task)
    assert missing_tasks(captured.run, tasks_of(captured, config), 1) == []
    found = compare(gathered(captured.run, tasks), config)
    assert found.own_text.keys() == {"medical"} and "medical" in found.scores
    own = found.own_text["medical"]
    assert own.prompts == 3 and 3 <= own.tokens <= 15 and own.kl.value > 0 and own.reverse_kl.value > 0
    assert own.exposure_bias.low <= own.exposure_bias.value <= own.exposure_bias.high
    save_student(captured, StudentLayout("medical").final, seed=8)
    again = missing_tasks(captured.run, tasks_of(captured, config), 1)
    assert {(t.model.name, t.after) for t in again} == {("medical", False), ("teacher", True)}


def test_probes_are_kept_where_a_model_has_a_second_task(scored: tuple[CapturedRun, RunConfig]) -> None:
    """Texts to show are chosen by the scores of the first one."""
    captured, config = scored
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"shown_texts": 1})})
    tasks, scoring = tasks_of(captured, config), Scorer(scoring_job(captured.run, config, ""))
    for task in sorted(tasks, key=lambda task: task.after):
        scoring(task)
    found = compare(gathered(captured.run, tasks), config)
    assert found.texts["medical"].keys() == {"medical"} == found.texts["medical.hard_labels"].keys()
    assert [len(found.probes[n]["medical"]) for n in ("medical", "medical.hard_labels", "teacher")] == [1, 1, 1]


def test_the_teacher_at_4_bit_is_the_rounded_teacher(scored: tuple[CapturedRun, RunConfig], tmp_path: Path) -> None:
    """On every domain that it answers, and weighed; nothing is loaded again for what is there."""
    captured, config = scored
    changes = {"baselines": ["teacher_4bit"]}
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=changes)})
    score_all(captured, config)
    assert missing_tasks(captured.run, tasks_of(captured, config), 1) == []
    found = compare(gathered(captured.run, tasks_of(captured, config)), config)
    folder = config.teachers["teacher"].model
    rounded = AutoModelForCausalLM.from_pretrained(folder).eval()
    weights = round_to_4_bit(rounded)
    rounded.save_pretrained(tmp_path / "rounded")
    assert found.rounded == weights and found.scores["teacher_4bit"].keys() == {"medical", "legal"}
    for domain, score in found.scores["teacher_4bit"].items():
        by_hand = expected(captured, str(tmp_path / "rounded"), domain)
        assert {n: score[n] for n in by_hand} == pytest.approx(by_hand, abs=4 * of_capture(12.0))
        assert 0 < score["kl"] < found.scores["medical"][domain]["kl"], "nearer than random weights"
    own = {n: found.scores[n]["medical"]["kl"] for n in ("medical", "teacher_4bit")}
    difference = found.differences["medical - teacher_4bit"]
    assert difference["kl"].value == pytest.approx(own["medical"] - own["teacher_4bit"])
    assert found.speeds.keys() == {"medical"} and "medical" in found.calibration["teacher_4bit"]


def test_texts_token_by_token_are_chosen_by_the_specialist_and_shown_of_its_control(
    scored: tuple[CapturedRun, RunConfig],
) -> None:
    captured, config = scored
    assert not gathered(captured.run, []).texts
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"shown_texts": 1})})
    works = Scorer(scoring_job(captured.run, config, ""))
    for task in sorted(missing_tasks(captured.run, tasks_of(captured, config), 1), key=lambda task: task.after):
        works(task)
    found = compare(gathered(captured.run, tasks_of(captured, config)), config)
    own, control = (found.texts[name]["medical"] for name in ("medical", "medical.hard_labels"))
    assert [(t.prompt, t.worst, t.tokens) for t in own] == [(t.prompt, t.worst, t.tokens) for t in control]
    assert own[0].worst and own[0].prompt == found.hardest["medical"]["medical"][0]["prompt"]
    kl = found.scores["medical"]["medical"]["kl"]
    assert sum(own[0].kl) / len(own[0].kl) >= kl - 1e-5  # the worst of all, to the digits that are kept
    [far, *_] = apart_tokens(found.texts, "medical", "medical", own[0].prompt)
    assert far.kl == max(own[0].kl) and far.hard_labels and far.token == own[0].tokens[far.position]
    assert not missing_tasks(captured.run, tasks_of(captured, config), 1)
