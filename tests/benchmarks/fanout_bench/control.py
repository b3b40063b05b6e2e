"""The control plane without models: real leases, Ray Data, admission, commits, log, board and readers; the engine only
sleeps, and the texts that it makes are random.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from end_to_end.small_job import WORDS, make_teacher
from targets_bench.tables import show

from fanout_bench.measuring import measured

PROGRAM = str(Path(__file__).with_name("sleeping.py"))


def control_figures(folder: Path, units: int, replicas: int, readers: int) -> dict[str, Any]:
    """So many units of one text each, captured by so many replicas, while so many processes read all of them."""
    teacher = make_teacher(folder / "teacher")
    rng = np.random.default_rng(0)
    with (folder / "asked.jsonl").open("w") as file:
        for i in range(units):
            words = " ".join(WORDS[w] for w in rng.integers(3, len(WORDS), 6))
            file.write(json.dumps({"id": str(i), "prompt": f"{words} w{i % 97}", "split": "train"}) + "\n")
    student = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 1}
    config = {
        "name": "control",
        "storage": str(folder / "runs"),
        "cluster": {"cpus": 8},
        "teacher": {
            "model": str(teacher),
            "cpus_per_rank": 0.01,
            "replicas": replicas,
            "units_at_once": 1,
            "sampling": {"max_new_tokens": 16},
        },
        "prompts": {"asked": {"path": str(folder / "asked.jsonl"), "duplicates": "keep"}},
        "targets": {"prompts_per_unit": 1, "positions": "answer"},
        "specialists": {"asked": {"model": {"config": student}, "train": {"tokens": 1000}}},
        "evaluate": {"heldout": 0.0001},
    }
    (folder / "control.yaml").write_text(yaml.safe_dump(config))
    took = measured(PROGRAM, str(folder / "control.yaml"), str(readers))
    said = took.said
    rows = [[name, said[name]] for name in said]
    rows += [["CPU-seconds of all processes", took.cpu_s], ["of one unit, ms", 1000 * took.cpu_s / units]]
    rows += [["cores in use", took.cpu_s / took.wall_s], ["of so many", os.cpu_count()]]
    show(f"{units:,} units, {replicas} replicas, {readers} readers", ["", ""], rows)
    return {name: said[name] for name in ("units_per_s", "commit_ms", "driver_peak_mb")}
