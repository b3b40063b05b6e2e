"""Steps of a finished run's specialist with whole weights and with weights on a lattice, in turn, in one process.

python tests/benchmarks/quantise_bench/steps.py RUN SPECIALIST STEPS

Prints one JSON object: of each kind the median of wall and CPU-seconds, after a warm-up, and the median of the ratios
of steps that followed one another; and what each holds beside its weights.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import deepspeed
import torch
from transformers.utils import logging

from quantise_bench.finished_run import FinishedRun
from workers.layout import StudentLayout
from workers.manifest import read_plan
from workers.quantise.config import QuantisedConfig
from workers.splits import TRAIN
from workers.student.training.engine import start_engine
from workers.student.training.step import Optimiser
from workers.targets.reader import TargetStream
from workers.targets.store import TargetStore
from workers.teacher.engines.loading import join_process_group

WARM_UP = 5


def main() -> None:
    """Time both in turn."""
    source, name, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    logging.disable_progress_bar()
    join_process_group(0, 1, "127.0.0.1", 29679, "cpu")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        run = FinishedRun(source, Path(folder, "run"), name)
        student = run.sibling(QuantisedConfig.model_validate("qad"))
        storage, on_lattice = run.run.storage, student.config.train.model_copy(update={"zero": "auto"})
        kinds = {"whole": on_lattice.model_copy(update={"quantise": None}), "quantised": on_lattice}
        optimisers, took = {}, dict[str, list[tuple[float, float]]]()
        for kind, train in kinds.items():
            engine, device = start_engine(StudentLayout(name).final, train, student.config.loss, storage)
            optimisers[kind] = Optimiser(engine, device, student.config.loss, train)
        torch.set_num_threads(1)
        stream = TargetStream(TargetStore(storage, TRAIN), read_plan(storage, TRAIN), student.mix, 0)
        for step in range(WARM_UP + steps):
            rows = stream.next_batch(on_lattice.batch_tokens)
            for kind in sorted(kinds, reverse=bool(step % 2)):  # neither is always the one that finds the cache warm
                wall, cpu = time.perf_counter(), time.process_time()
                optimisers[kind].step(rows, 0)
                took.setdefault(kind, []).append((time.perf_counter() - wall, time.process_time() - cpu))
    print(json.dumps(_figures({kind: times[WARM_UP:] for kind, times in took.items()})))


def _figures(took: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind, times in took.items():
        figures[kind] = {"wall_s": median(t[0] for t in times), "cpu_s": median(t[1] for t in times)}
    pairs = list(zip(took["quantised"], took["whole"], strict=True))
    return figures | {"wall": median(q[0] / w[0] for q, w in pairs), "cpu": median(q[1] / w[1] for q, w in pairs)}


if __name__ == "__main__":
    main()
