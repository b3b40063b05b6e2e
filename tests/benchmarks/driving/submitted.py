"""How long a run takes to its first captured tokens: sent by `stillhouse submit` to a Ray head that runs, beside
`stillhouse run` on the same head; and whether a second submission of a run at work follows the first one's job.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m driving.submitted [--times 3]

From the command to the start of the driver (its lease), to the teacher's readiness, and to the end of the first unit,
of eight texts of a small random teacher. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from fanout_bench.measuring import environment
from size_bench.planned import write_project
from support.servers.ray_head import Head, ray_head
from targets_bench.tables import show

from cluster.lease import attempts
from cluster.storage import Storage
from orchestrator.runs.events import read_events
from orchestrator.runs.folder import RunFolder
from workers.channels.events import ReplicaReady, UnitCommitted

MOMENTS = ("driver", "teacher", "first_unit")
PATIENCE_S = 300


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="runs of each kind")
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder, ray_head(cpus=4, workers=64) as head:
        (project := Path(folder, "project")).mkdir()
        write_project("small", project, 4_000)
        took: dict[str, list[dict[str, float]]] = {"run": [], "submit": []}
        for number in range(times):
            for how, rows in took.items():
                rows.append(first_unit(Path(folder), f"{how}-{number}", head, how))
        found = {
            f"{how}_{m}_s": round(median(row[m] for row in rows), 1) for how, rows in took.items() for m in MOMENTS
        }
        show(
            "seconds from the command, medians",
            ["command", *(moment.replace("_", " ") for moment in MOMENTS)],
            [[how, *(found[f"{how}_{moment}_s"] for moment in MOMENTS)] for how in took],
        )
        found |= second_submission(Path(folder), head)
    print(json.dumps(found))


def first_unit(folder: Path, name: str, head: Head, how: str) -> dict[str, float]:
    """Seconds from a command to the moments of its run, which goes to its end."""
    began = time.time()
    done = begin(folder, name, head, how)
    said, _ = done.communicate()
    assert done.returncode == 0, said[-3000:]
    storage = RunFolder(str(folder / "runs" / name)).storage
    events = list(read_events(storage))
    moments = {
        "driver": attempts(storage)[0].holder.since,
        "teacher": min(event.time for event in events if isinstance(event, ReplicaReady)),
        "first_unit": min(event.finished for event in events if isinstance(event, UnitCommitted)),
    }
    return {moment: at - began for moment, at in moments.items()}


def second_submission(folder: Path, head: Head) -> dict[str, Any]:
    """A run is submitted again while it captures: jobs that the head knows of it, and attempts that were made."""
    first = begin(folder, "again", head, "submit")
    storage, deadline = RunFolder(str(folder / "runs" / "again")).storage, time.monotonic() + PATIENCE_S
    while not _has_units(storage):
        assert first.poll() is None and time.monotonic() < deadline, "it captures nothing"
        time.sleep(0.5)
    second = begin(folder, "again", head, "submit")
    for process in (second, first):
        said, _ = process.communicate()
        assert process.returncode == 0, said[-3000:]
    listed = json.loads(stillhouse(folder, "jobs", head.jobs, "--json").communicate()[0])["jobs"]
    return {"jobs_of_two_submissions": sum(job["run"] == "again" for job in listed), "attempts": len(attempts(storage))}


def begin(folder: Path, name: str, head: Head, how: str) -> subprocess.Popen[str]:
    """Type a run's command, by either way to the head."""
    project = folder / "project"
    config = yaml.safe_load((project / "stillhouse.yaml").read_text())
    config["name"], config["targets"] = name, {"prompts_per_unit": 8}
    config["storage"], config["teacher"]["model"] = str(folder / "runs"), "teacher"
    config["specialists"] = dict([next(iter(config["specialists"].items()))])
    config["prompts"] = {"words": "words.jsonl"}  # a job finds what lies beside its configuration
    if how == "run":
        config["cluster"] = {"address": head.ray}
    path = project / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    more: Sequence[str] = ["--address", head.jobs] if how == "submit" else []
    return stillhouse(project, how, path.name, *more)


def stillhouse(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command of this checkout, typed in a folder."""
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)


def _has_units(storage: Storage) -> bool:
    return any(isinstance(event, UnitCommitted) for event in read_events(storage))


if __name__ == "__main__":
    main()
