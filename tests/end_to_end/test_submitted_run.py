"""A run sent to a real Ray head by the command that the README types, with the working directory shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from end_to_end.small_job import CHECKOUT, Job
from support.servers.ray_head import ray_head


@pytest.fixture
def head() -> Iterator[str]:
    """The job server's address of a Ray head of our own, with room for a whole run."""
    with ray_head(cpus=4, workers=64) as started:
        yield started.jobs


@pytest.mark.long
def test_a_submitted_run_ends_with_its_report(head: str, teacher: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "sent", teacher)
    config = yaml.safe_load((job.folder / "job.yaml").read_text())
    config["cluster"] = {"runtime_env": {"env_vars": {"FI_PROVIDER": "tcp"}}, "network": {"collective_s": 600}}
    config["answers"] = {"filter": "keep.py:keep"}
    (job.folder / "keep.py").write_text(
        "import os\n\n\ndef keep(*given):\n    return os.environ['FI_PROVIDER'] == 'tcp'\n"
    )
    (job.folder / "run.yaml").write_text(yaml.safe_dump(config))
    (job.folder / "job.yaml").unlink()

    def typed(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=job.folder, capture_output=True, text=True, timeout=900, env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    said = typed("submit", "run.yaml", "--address", head)
    assert "held-out KL" in said and "SUCCEEDED" in said
    [listed] = json.loads(typed("jobs", head, "--json"))["jobs"]
    assert (listed["run"], listed["status"]) == ("job", "SUCCEEDED") and "run run.yaml" in listed["command"]
    assert listed["id"] in typed("jobs", head)
    report = json.loads((job.folder / "runs" / "job" / "report.json").read_text())
    assert report["students"]["medical"]["heldout"]["kl"] < report["students"]["medical"]["initial"]["kl"]
