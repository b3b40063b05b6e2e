"""Generations of a small job: with new prompts, killed in between, and then with its former self as teacher."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from end_to_end.small_job import WORDS, Job
from safetensors.numpy import load_file

pytestmark = pytest.mark.long

NEW = [f"--set=prompts.{d}={d}_2.jsonl" for d in ("medical", "legal")]
FORMER_SELF = ["--set=teacher.model=specialist:medical", "--set=teacher.ep_size=1"]


@pytest.fixture(scope="module")
def first(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with a finished first generation, and prompts for a second one."""
    job = Job(tmp_path_factory.mktemp("first"), teacher)
    for domain in ("medical", "legal"):
        prompts = [" ".join(WORDS[3 + (i * 11 + j * 5) % 97] for j in range(2 + i % 4)) for i in range(24)]
        rows = [{"id": f"n{i}", "prompt": prompt} for i, prompt in enumerate(prompts)]
        (job.folder / f"{domain}_2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job.run("run")
    return job


def home(job: Job) -> Path:
    return job.folder / "runs" / "job"


def weights(run: Path, student: str, kind: str = "final") -> dict[str, Any]:
    return load_file(run / "students" / student / kind / "model.safetensors")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[k] == other[k]).all() for k in one)


def contents(run: Path) -> dict[str, str]:
    """Every file of a generation, but those of later ones."""
    files = (f for f in run.rglob("*") if f.is_file() and "generations" not in f.relative_to(run).parts)
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_three_generations(first: Job, tmp_path: Path) -> None:
    killed, whole = home(first), tmp_path / "job"
    before = contents(killed)
    shutil.copytree(killed, whole)
    first.kill_at("step-done", "run", "--continue", *NEW)
    first.run("run", "--continue", *NEW)
    assert contents(killed) == before, "nothing of the first generation was written"
    first.run("run", "--continue", *NEW, f"--set=storage={tmp_path}")
    second = killed / "generations" / "2"
    for student in ("medical", "legal", "medical.hard_labels"):
        assert same(weights(second, student), weights(whole / "generations" / "2", student)), student
    assert same(weights(second, "medical", "initial"), weights(killed, "medical"))
    pointer = json.loads(max((second / "students/medical/log").glob("*.json")).read_text())
    new, (replayed,) = pointer["cursor"]["domains"], pointer["cursor"]["replayed"].values()
    given = [sum(d["served"] for d in of.values()) for of in (new, replayed["domains"])]
    assert given[1] / sum(given) == pytest.approx(0.2, abs=0.02)
    report = json.loads((second / "report.json").read_text())
    assert report["generation"] == 2
    for student in report["students"].values():
        assert student["generations"]["new"]["difference"]["kl"] < 0 and set(student["generations"]["older"]) == {"1"}
    said = first.run("run", "--continue", *NEW, expect=2)
    assert "generation 2" in said and "nothing new" in said

    first.run("run", "--continue", *NEW, *FORMER_SELF)
    third = killed / "generations" / "3"
    report = json.loads((third / "report.json").read_text())
    assert report["teachers"]["teacher"]["model"] == "specialist:medical"
    assert set(report["students"]["medical"]["generations"]["older"]) == {"1", "2"}
    # On its own texts it is its former self when it begins: of equal weights, but for the last bits of two programs.
    assert report["students"]["medical"]["generations"]["new"]["before"]["kl"] == pytest.approx(0, abs=1e-4)
