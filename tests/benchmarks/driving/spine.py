"""The whole spine on the quickstart: what a run costs and gives. Takes minutes.

python tests/benchmarks/driving/spine.py [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Run the quickstart in a folder of its own; print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        command = [sys.executable, "-m", "orchestrator", "run", "examples/quickstart/stillhouse.yaml"]
        started = time.monotonic()
        subprocess.run([*command, "--set", f"storage={folder}", "--set", f"seed={seed}"], cwd=CHECKOUT, check=True)
        wall = time.monotonic() - started
        report = json.loads(Path(folder, "quickstart", "report.json").read_text())
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = figures_of(report) | {"wall_s": round(wall, 1), "driver_cpu_s": round(usage.ru_utime + usage.ru_stime, 1)}
    for name, value in figures.items():
        print(f"{name:32s} {value}")
    print(json.dumps(figures))


def figures_of(report: dict) -> dict[str, float]:
    """The figures that the project promises, from a report."""
    timing = report["timing"]
    figures = {
        "teacher_s": timing["teacher_s"],
        "overlap_share": round(timing["overlap_s"] / timing["teacher_s"], 3),
        "bytes_per_token": report["targets"]["bytes_per_token"],
    }
    for name, student in report["students"].items():
        unigram = report["unigram"]["truth_excess_kl"][student["domain"]]
        figures[f"{name}_truth_excess_share"] = round(student["heldout"]["truth_excess_kl"] / unigram, 4)
        distilled = student["at_control_tokens"] or student["heldout"]
        figures[f"{name}_kl_over_hard_labels"] = round(distilled["kl"] / student["hard_labels"]["kl"], 4)
        figures[f"{name}_worst_probe_rank"] = max(p["specialist"] for p in student["probes"])
        figures[f"{name}_best_control_rank"] = min(p["hard_labels"] for p in student["probes"])
    return figures


if __name__ == "__main__":
    main()
