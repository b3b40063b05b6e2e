"""Scoring through the whole pool (Ray Data, worker group, sampling, encoding, commit) against a bare loop of the model.

The pool is `stillhouse capture` on a job whose prompts have answers, one replica of one rank with two threads. Its
speed is taken from the log, from the first commit to the last. The bare loop runs the model's forward over the very
batches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import yaml
from targets_bench.tables import show

from cluster.storage import open_storage
from teacher_bench.processes import CHECKOUT, run_ranks
from workers.manifest import Manifest, read_plan
from workers.targets.store import TargetStore

PROMPTS_PER_UNIT = 16


def pool_figures(model: Path, folder: Path, *, rounds: int, units: int) -> dict[str, Any]:
    """`pool_over_bare` and its like in CPU-seconds."""
    rows = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            pool = capture(model, Path(own), units)
            texts = Path(own, "texts.json")
            texts.write_text(json.dumps(frozen_texts(Path(own, "runs", "pool"))))
            bare = run_ranks("bare", model, texts, ranks=1, threads=2)
        speeds = [f["tokens"] / f[by] for by in ("wall_s", "cpu_s") for f in (pool, bare)]
        rows.append([number, pool["wall_s"], *speeds[:2], speeds[0] / speeds[1], *speeds[2:], speeds[2] / speeds[3]])
    columns = [
        "round",
        "window s",
        "pool tokens/s",
        "bare tokens/s",
        "ratio",
        "pool /CPU-s",
        "bare /CPU-s",
        "ratio CPU",
    ]
    show("scoring through the pool against a bare loop of the same batches", columns, rows)
    return {
        "pool_over_bare": round(median(row[4] for row in rows), 3),
        "pool_over_bare_cpu": round(median(row[7] for row in rows), 3),
        "pool_window_s": round(min(row[1] for row in rows), 1),
        "pool_tokens_per_s": round(median(row[2] for row in rows)),
    }


def capture(model: Path, folder: Path, units: int) -> dict[str, float]:
    """Tokens, wall and CPU-seconds between the first commit and the last."""
    job = write_job(model, folder, units)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "orchestrator", "capture", str(job)]
    driver = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL)
    samples: list[tuple[float, float]] = []
    watcher = threading.Thread(target=_watch, args=(driver.pid, samples))
    watcher.start()
    assert driver.wait() == 0, "capture failed"
    watcher.join()
    store = TargetStore(open_storage(str(folder / "runs" / "pool")), "train")
    entries = sorted(store.log.entries(), key=lambda e: e.finished)
    first, last = entries[0].finished, entries[-1].finished
    times, cpu = np.array(samples).T
    return {
        "tokens": sum(e.tokens for e in entries[1:]),
        "wall_s": last - first,
        "cpu_s": float(np.interp(last, times, cpu) - np.interp(first, times, cpu)),
    }


def write_job(model: Path, folder: Path, units: int) -> Path:
    """A job that scores `units` units of given texts, every position of them."""
    rng = np.random.default_rng(0)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    with (folder / "given.jsonl").open("w") as file:
        for i in range(units * PROMPTS_PER_UNIT):
            words = [f"w{w}" for w in rng.integers(3, vocabulary, 128 + 37 * i % 385)]
            row = {"id": str(i), "prompt": words[0], "answer": " ".join(words[1:]), "split": "train"}
            file.write(json.dumps(row) + "\n")
    config = {
        "name": "pool",
        "storage": str(folder / "runs"),
        "teacher": {"model": str(model), "cpus_per_rank": 1.5, "threads_per_rank": 2},
        "prompts": {"given": str(folder / "given.jsonl")},
        "targets": {"prompts_per_unit": PROMPTS_PER_UNIT, "positions": "all"},
        "specialists": {
            "given": {
                "model": {"config": {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 1}},
                "train": {"tokens": 1000},
            }
        },
        "evaluate": {"heldout": 0.01},  # every row says that it is for training,
    }
    (folder / "pool.yaml").write_text(yaml.safe_dump(config))
    return folder / "pool.yaml"


def frozen_texts(run: Path) -> list[list[list[int]]]:
    """The ids of all texts by unit, in plan order."""
    storage = open_storage(str(run))
    manifest = Manifest(storage, "train")
    units = [manifest.prompts(unit.index) for unit in read_plan(storage, "train").units]
    return [[p.prompt_token_ids + (p.answer_token_ids or []) for p in unit] for unit in units]


def _watch(pid: int, samples: list[tuple[float, float]]) -> None:
    """CPU-seconds of a process and all below it, now and then; those of processes that ended are kept."""
    most: dict[int, float] = {}
    while True:
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                try:
                    used = process.cpu_times()
                    most[process.pid] = used.user + used.system
                except psutil.NoSuchProcess:
                    continue
        except psutil.NoSuchProcess:
            return
        samples.append((time.time(), sum(most.values())))
        if root.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(3)
