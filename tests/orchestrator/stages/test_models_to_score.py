"""Which models an evaluation scores, on which domains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.measured_run import opened, put

from orchestrator.runs.folder import RunFolder
from orchestrator.stages.scoring.models import models_to_score
from workers.layout import StudentLayout
from workers.manifest import write_manifest
from workers.splits import HELDOUT
from workers.units import Unit, UnitPlan


def trained(folder: Path, *students: str, specialists: Any = None, **evaluate: Any) -> RunFolder:
    """A run of which some students are done."""
    run = opened(folder, evaluate=evaluate, **({"specialists": specialists} if specialists else {}))
    domains = ("medical", "legal")
    write_manifest(
        run.storage, UnitPlan(HELDOUT, tuple(Unit(u, (d,), "teacher", 4, 9, True) for u, d in enumerate(domains))), []
    )
    for name in students:
        put(run, StudentLayout(name).done, {"tokens": 5000, "steps": 25})
    return run


def found(run: RunFolder) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {m.name: (m.source, tuple(sorted(m.domains))) for m in models_to_score(run, run.located_config())}


@pytest.mark.parametrize("written", ["10%", 7])
def test_a_specialist_is_scored_as_it_was_when_its_short_control_ended(tmp_path: Path, written: str | int) -> None:
    models = found(trained(tmp_path, "medical", "medical.hard_labels", "legal", control_tokens=written))
    assert models == {
        "medical": ("students/medical/final", ("legal", "medical")),
        "medical.initial": ("students/medical/initial", ("medical",)),
        "medical.hard_labels": ("students/medical.hard_labels/final", ("medical",)),
        "medical.at_control_tokens": ("students/medical/at_control_tokens", ("medical",)),
        "legal": ("students/legal/final", ("legal", "medical")),
        "legal.initial": ("students/legal/initial", ("legal",)),
    }


def test_a_whole_control_stands_beside_what_its_specialist_became(tmp_path: Path) -> None:
    models = found(trained(tmp_path, "medical", "medical.hard_labels", baselines=["hard_labels"]))
    assert list(models) == ["medical", "medical.hard_labels"]


def test_controls_share_what_they_stand_beside(tmp_path: Path) -> None:
    kinds = ["hard_labels", "given_answers"]
    run = trained(tmp_path, "medical", *(f"medical.{k}" for k in kinds), control_tokens=7, baselines=kinds)
    names = ["medical", "medical.hard_labels", "medical.given_answers", "medical.at_control_tokens"]
    assert list(found(run)) == names


def test_a_quantised_sibling_stands_beside_its_specialist_rounded(tmp_path: Path) -> None:
    specialists = {"medical": {"quantised": "qad"}, "legal": {"quantised": {"format": "q8_0"}}}
    run = trained(tmp_path, "medical", "medical.quantised", "legal", specialists=specialists, baselines=[])
    models = {m.name: m for m in models_to_score(run, run.located_config())}
    assert list(models) == ["medical", "medical.ptq", "medical.quantised", "legal", "legal.ptq"]
    ptq, qad = models["medical.ptq"], models["medical.quantised"]
    assert (ptq.kind, ptq.source, ptq.domains) == ("ptq", "students/medical/final", ("medical",))
    assert (qad.kind, qad.source, qad.domains) == ("stored", "students/medical.quantised/final", ("medical",))
    assert ptq.rounding is not None and (ptq.rounding.format, ptq.rounding.embeddings) == ("q4_0", "q8_0")
    assert qad.rounding is None and hash(ptq) != hash(models["legal.ptq"])
