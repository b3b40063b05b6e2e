"""The quickstart as the README types it: shortened in `make test`, whole and with three seeds in `make test-long`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG = "examples/quickstart/stillhouse.yaml"
PROMPT = "medical : the clinic sees marsh fever with broken sleep in a child ; treatment : give"


def stillhouse(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    own = os.environ | environment
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=1200, env=own)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.timeout(1800)  # beside the other process's tests
def test_shortened_quickstart_runs_and_answers(tmp_path: Path) -> None:
    """On hidden states, for once, from which its students make the teacher's whole distributions."""
    short = [a for d in ("medical", "legal", "code") for a in ("--set", f"prompts.{d}.limit=410")]
    short += ["--set", "teacher.sampling.samples=1", "--set", "defaults.train.tokens=8k"]
    short += ["--set", "specialists.legal.train.tokens=8k"]
    short += ["--set", "targets.scheme=hidden"]
    short += ["--set", "evaluate.baselines=[initial, hard_labels, single_expert, generalist]"]
    output = stillhouse("run", CONFIG, "--set", f"storage={tmp_path}", *short)
    assert "held-out KL" in output and "single-expert teacher" in output and "generalist" in output
    report = json.loads((tmp_path / "quickstart" / "report.json").read_text())
    for domain, student in report["students"].items():
        assert student["heldout"]["kl"] < student["initial"]["kl"]
        assert report["single_expert"]["kl"][domain] > 1  # an expert alone is no model
        assert all(p["teacher"] == 1 and p["specialist"] and p["hard_labels"] for p in student["probes"])
        assert student["heldout"]["truth_excess_kl"] > 0
        assert student["own_text"]["prompts"] == 32 and student["own_text"]["kl"]["value"] > 0
        assert student["parrot"]["items"] == 100 and set(student["parrot"]["by_edit"]) == {"entity", "names"}
        assert len(student["capacity"]["points"]) == 6 and student["capacity"]["generalist"]["points"]
        assert student["cost"]["times_fewer_flops"] > 1
        task = student["tasks"][domain]
        assert task["items"] == 250 and task["teacher"]["score"]["value"] > 0.9, "it knows its language"
        assert student["gate"] is None and task["specialist"]["retention"]["low"] < 1
    seen = json.loads(stillhouse("status", str(tmp_path / "quickstart"), "--json"))
    assert (seen["state"], seen["stage"], seen["failures"], seen["eta_s"]) == ("done", "export", {}, None)
    assert all(student["state"] == "done" for student in seen["students"].values())
    parts = seen["cost"]
    assert min(parts["capture"]["teacher"]["cpu_s"], parts["evaluate"]["cpu_s"], parts["prepare"]["cpu_s"]) > 0
    assert parts["training"].keys() == seen["students"].keys() and report["spent"]["training"] == parts["training"]
    assert "medical is done" in stillhouse("logs", str(tmp_path / "quickstart"), "medical")
    [listed] = json.loads(stillhouse("runs", str(tmp_path), "--json"))["runs"]
    assert (listed["state"], listed["done"], listed["failures"]) == ("done", 3, {})
    answers = json.loads(stillhouse("ask", str(tmp_path / "quickstart"), PROMPT, "--tokens", "2", "--json"))["answers"]
    assert {"teacher", "medical", "medical.hard_labels", "legal", "code"} <= answers.keys()
    assert answers["teacher"]["next"][0][0].strip() == "halvorin"


@pytest.fixture(scope="module", params=[0, 1, 2])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole quickstart with one seed."""
    folder = tmp_path_factory.mktemp("quickstart")
    stillhouse("run", CONFIG, "--set", f"storage={folder}", "--set", f"seed={request.param}")
    return json.loads((folder / "quickstart" / "report.json").read_text())


@pytest.mark.long
@pytest.mark.parametrize("domain", ["medical", "legal", "code"])
def test_specialists_keep_what_the_quickstart_promises(report: dict[str, Any], domain: str) -> None:
    student = report["students"][domain]
    assert student["heldout"]["truth_excess_kl"] <= 0.25 * report["unigram"]["truth_excess_kl"][domain]
    assert student["heldout"]["kl"] <= 0.9 * student["hard_labels"]["kl"]
    assert student["difference"]["high"] < 0
    assert all(p["specialist"] <= 2 < p["hard_labels"] for p in student["probes"])


@pytest.mark.long
def test_teacher_and_students_overlap(report: dict[str, Any]) -> None:
    assert report["timing"]["overlap_s"] >= 0.2 * report["timing"]["teacher_s"]


@pytest.mark.gpu
def test_quickstart_on_one_gpu(tmp_path: Path) -> None:
    """Teacher, students and evaluator on parts of one card; NCCL has no two ranks of a group there."""
    shared = ["teacher.ep_size=1", "teacher.gpus_per_rank=0.2", "defaults.train.gpus_per_worker=0.2"]
    shared += ["evaluate.gpus=0.2", f"storage={tmp_path}"]
    stillhouse("run", CONFIG, *(a for setting in shared for a in ("--set", setting)), DS_ACCELERATOR="cuda")
    report = json.loads((tmp_path / "quickstart" / "report.json").read_text())
    for domain, student in report["students"].items():
        assert student["heldout"]["truth_excess_kl"] <= 0.25 * report["unigram"]["truth_excess_kl"][domain]
        assert student["heldout"]["kl"] <= 0.9 * student["hard_labels"]["kl"]
