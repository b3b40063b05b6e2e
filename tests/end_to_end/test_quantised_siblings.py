"""A run of a specialist with a quantised sibling and of one that is on the lattice itself, from prompts to report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from end_to_end.small_job import Job
from safetensors.torch import load_file

from workers.quantise.config import QuantisedWeights
from workers.quantise.lattice import on_lattice

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Job:
    found = Job(tmp_path_factory.mktemp("quantised"), teacher)
    config = found.config
    train = {"tokens": 600, "batch_tokens": 200}
    config["specialists"]["medical"]["quantised"] = {"format": "q4_0", "embeddings": "q8_0", "train": train}
    config["specialists"]["legal"]["train"]["quantise"] = {"format": "q4_0", "start": "50%"}
    config["evaluate"]["baselines"] = []
    config["export"] = [{"format": "safetensors", "measure": 4}]
    (found.folder / "job.yaml").write_text(yaml.safe_dump(config))
    found.run("run")
    return found


@pytest.fixture(scope="module")
def report(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.folder / "runs" / "job" / "report.json").read_text())
    return found


def test_the_sibling_went_on_from_its_specialist(job: Job, report: dict[str, Any]) -> None:
    found = report["students"]["medical"]["quantised"]
    assert found["tokens"] >= 600 and found["steps"] == 3 and found["error"] is None
    scores = found["scores"]
    whole = report["students"]["medical"]["heldout"]["kl"]
    assert scores["ptq_loss"]["kl"] == pytest.approx(scores["ptq"]["kl"] - whole)
    assert scores["qad_loss"]["kl"] == pytest.approx(scores["qad"]["kl"] - whole)
    assert report["students"]["legal"]["quantised"] is None and not report["failures"]
    assert {"medical", "medical.quantised", "legal"} == report["trained"].keys()


@pytest.mark.parametrize("student, weights", [("medical.quantised", 9), ("legal", 7)])
def test_what_is_left_is_on_the_lattice(job: Job, student: str, weights: int) -> None:
    folder = job.folder / "runs" / "job" / "students" / student / "final"
    says, found = QuantisedWeights.of_folder(folder), load_file(folder / "model.safetensors")
    assert says is not None and len(says.weights) == weights
    for name, form in says.weights.items():
        if name in found:
            assert (on_lattice(found[name], form) == found[name]).all()  # type: ignore[arg-type]


def test_an_export_says_what_it_has_on_the_lattice(job: Job) -> None:
    exports = job.folder / "runs" / "job" / "exports"
    assert QuantisedWeights.of_folder(exports / "legal") is not None
    assert QuantisedWeights.of_folder(exports / "medical") is None


def test_every_copy_was_measured_by_a_task(job: Job, report: dict[str, Any]) -> None:
    """In transformers, in which nothing is rounded a second time: what a program adds is its arithmetic's."""
    for name, folders in {"medical": ["medical", "medical.quantised"], "legal": ["legal"]}.items():
        artefacts = report["students"][name]["artefacts"]
        assert [a["path"] for a in artefacts] == [f"exports/{folder}" for folder in folders]
        for artefact in artefacts:
            assert artefact["texts"] == 4 and artefact["weights_differing"] == 0 and artefact["tokens_per_s"] > 0
            assert artefact["kl_float"] == artefact["kl_fake_quant"] < 1e-6 < artefact["kl_teacher"]
