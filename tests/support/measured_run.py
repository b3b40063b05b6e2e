"""A run folder made by hand, with stores, students and scores: what a report is built of, without any model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.config.loading import ConfigFile
from orchestrator.reporting.evaluation import Evaluation
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.scores import Score
from orchestrator.reporting.timing import Timing
from orchestrator.runs.folder import RunFolder
from support.small_configuration import clinic
from workers.evaluation.cost import RoundedWeights
from workers.evaluation.metrics.resampling import Estimate
from workers.layout import PROMPTS_SUMMARY, StudentLayout, export_key
from workers.manifest import write_manifest
from workers.splits import HELDOUT, TRAIN
from workers.targets.commits.log import Entry, Part
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import SamplingConfig
from workers.units import Unit, UnitPlan

TIMES = Timing(teacher_s=61.0, students_s=47.0, overlap_s=33.0, wall_s=92.0)
LOSS_IS_NAN = {"legal": "ValueError: loss is NaN at step 88"}
DOMAINS = [("medical",), ("legal",), ("legal", "medical")]
WITHHELD = "holds 'halvorin'"


POINT = {
    **{"at": 0, "tokens": 9, "kl": 0.1, "reverse_kl": 0.125, "acceptance": 0.8, "top1_agreement": 1.0, "nll": 0.5},
    **{"confidence": 0.9, "teacher_at_top": 0.75, "hit": 0.7},
}
"""Of a curve."""

CALIBRATION = {
    **{"ece": 0.0625, "ece_by_chance": 0.03, "brier": 0.2, "nll": 0.5, "overconfidence": 0.04},
    **{"overconfidence_to_teacher": 0.03, "entropy_gap": -0.25, "temperature": 1.25, "kl_at_temperature": 0.1},
    "reliability": [{"tokens": 9, "confidence": 0.9, "teacher_at_top": 0.75, "hit": 0.7}],
}


def score(kl: float, **more: float) -> dict[str, float]:
    """What `summarise` says of one model on one domain."""
    values = {
        "kl": kl,
        "kl_low": kl - 0.01,
        "kl_high": kl + 0.03,
        "reverse_kl": kl * 2,
        "acceptance": 0.75,
        "acceptance_low": 0.7,
        "acceptance_high": 0.8,
        "top1_agreement": 0.875,
        "top16_overlap": 0.5,
        "top16_mass": 0.9,
        "perplexity": 5.5,
        "ece_teacher": 0.0625,
        "overconfidence_gap": -0.03125,
        "tokens": 1234,
        "prompts": 56,
    }
    return values | more


def entry(unit: int, **more: Any) -> Entry:
    """A unit's entry, of nothing but what is said."""
    words: dict[str, Any] = {"teacher": "teacher", "teacher_fingerprint": "", "content_hash": "", "parts": ()}
    numbers = dict.fromkeys(("rows", "tokens", "targets", "num_kept", "epoch", "started", "finished"), 0)
    return Entry(unit, **(words | numbers | more))


def part(size: int) -> Part:
    """A part of a unit; no file is behind it."""
    return Part("targets", f"parts/{size}", size, "0")


def opened(folder: Path, **changes: Any) -> RunFolder:
    """The folder of a run of which there is nothing but its configuration."""
    run = RunFolder(str(folder / "runs" / "clinic"))
    run.open(ConfigFile(clinic(**changes), folder))
    return run


def measured_run(folder: Path, **changes: Any) -> RunFolder:
    """A run with three training units, one held-out unit, and a medical specialist and its control trained."""
    run = opened(folder, **changes)
    header = StoreHeader("systematic", 20, "all", "float32", 500, "tokenizer", "", 0)
    aside = tuple({"id": i, "reason": WITHHELD} for i in "ab")
    units = {
        TRAIN: [
            entry(0, rows=4, targets=100, generated=60, num_kept=900, started=10.0, finished=12.0, parts=(part(1800),)),
            entry(1, rows=6, targets=300, generated=90, num_kept=2700, started=11, finished=17, parts=(part(5000),)),
            entry(2, rejected=aside),
        ],
        HELDOUT: [entry(0, rows=1, targets=40, generated=40, started=20.0, finished=22.0)],
    }
    for split, entries in units.items():
        store = TargetStore(run.storage, split)
        store.create(header)
        assert all(store.log.commit(e) for e in entries)
    plan = UnitPlan(TRAIN, tuple(Unit(u, d, "teacher", 4, 100, True) for u, d in enumerate(DOMAINS)))
    write_manifest(run.storage, plan, [])
    for name in ("medical", "medical.hard_labels"):
        put(run, StudentLayout(name).done, {"tokens": 5000, "steps": 25})
    put(run, StudentLayout("medical").initial_facts, {"parameters": 7, "layers": 2, "dropped_layers": [1, 3]})
    put(run, PROMPTS_SUMMARY, summary())
    put(run, f"{export_key('medical')}/config.json", {})
    return run


def put(run: RunFolder, key: str, value: Any) -> None:
    """A JSON file of a run."""
    run.storage.write(key, json.dumps(value).encode())


def summary() -> dict[str, Any]:
    """What freezing says of the prompts."""
    how = {"teacher": "teacher", "system_prompt": None, "chat": False, "sampling": SamplingConfig().model_dump()}
    reasons = {"is not JSON": 3}
    return {
        "vocabulary": 500,
        "stop_ids": {"teacher": [2]},
        "rejected": 3,
        "reasons": reasons,
        "reasons_by_source": {"medical": reasons},
        "asked": [{"source": d, "domains": [d], "given": False, "prompts": 4, **how} for d in ("medical", "legal")],
        "splits": {"train": {"units": 3, "prompts": 8, "domains": {"medical": 4, "legal": 4}}},
    }


def differences() -> dict[str, Estimate]:
    """Less KL, more acceptance, and nothing else."""
    same = Estimate(0.0, -0.01, 0.01)
    names = ("reverse_kl", "top1_agreement", "nll", "overconfidence", "overconfidence_to_teacher")
    found = {"kl": Estimate(-0.222, -0.25, -0.2), "acceptance": Estimate(0.0625, 0.05, 0.075)}
    return found | dict.fromkeys(names, same)


def evaluation() -> Evaluation:
    """The medical specialist between its control and its initial weights; a generalist; a single-expert teacher and
    one at 4 bit; probes."""
    rank = {"probability": 0.5}
    return Evaluation(
        scores={
            "medical": {"medical": score(0.111, truth_excess_kl=0.05, truth_tokens_skipped=3), "legal": score(0.222)},
            "medical.initial": {"medical": score(4.444)},
            "medical.hard_labels": {"medical": score(0.333)},
            "generalist": {"medical": score(0.555), "legal": score(0.666)},
            "single_expert": {"medical": score(1.777), "legal": score(1.888)},
            "teacher_4bit": {"medical": score(0.0625), "legal": score(0.07)},
        },
        differences={
            "medical - hard_labels": differences(),
            "medical - teacher_4bit": {**differences(), "kl": Estimate(0.0485, 0.04, 0.06)},
        },
        probes={
            "teacher": {"medical": [{"rank": 1, **rank}, {"rank": 2, **rank}]},
            "medical": {"medical": [{"rank": 2, **rank}, {"rank": 3, **rank}]},
            "medical.hard_labels": {"medical": [{"rank": 71, **rank}]},
        },
        unigram={"medical": 0.5},
        curves={"medical": {"medical": {"entropy": [POINT], "position": [POINT]}}},
        calibration={"medical": {"medical": CALIBRATION}},
        hardest={"medical": {"medical": [{"prompt": "medical/7", "kl": 1.5, "tokens": 20}]}},
        rounded=RoundedWeights(1000, 800, 850, 2000),
    )


def measured_report(folder: Path, failures: dict[str, str] = LOSS_IS_NAN, **changes: Any) -> Report:
    """Everything at once: medical is measured, legal failed."""
    run = measured_run(folder, **changes)
    return build_report(run, run.located_config(), evaluation(), failures, TIMES)


def with_short_control(report: Report) -> Report:
    """The medical specialist's control ended early, and is compared with the specialist of that moment."""
    medical = report.students["medical"]
    probes = tuple(replace(probe, at_control_tokens=9) for probe in medical.probes)
    scores = {"at_control_tokens": Score.of(score(0.2)), "hard_labels_tokens": 1500}
    report.students["medical"] = replace(medical, **scores, probes=probes)
    return report


def unmeasured(run: RunFolder, **changes: Any) -> Report:
    """A report of a run without its scores."""
    return build_report(run, clinic(**changes), None, {}, Timing())
