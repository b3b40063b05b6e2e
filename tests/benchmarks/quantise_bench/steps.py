"""Steps of a finished run's specialist with whole weights and with weights on a lattice.

python tests/benchmarks/quantise_bench/steps.py RUN SPECIALIST STEPS [whole | quantised]

Times both in turn, in one process; with one of the two named, measures the memory that a step of that one alone takes.

Prints one JSON object. Of times: of each kind the median of wall and CPU-seconds, after a warm-up, and the median of
the ratios of steps that followed one another. Of memory, in bytes: `held`, what all tensors take between steps
(weights, states of the optimiser, gradients); `step`, by how much a step goes beyond that at most (activations, and
what it works with); `process`, the most that the process has held, with Python and all libraries.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import deepspeed
import torch
from transformers.utils import logging

from quantise_bench.finished_run import FinishedRun
from workers.export.running.process import peak_mb
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
    """Time both in turn, or measure what one takes."""
    source, name, steps, only = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    logging.disable_progress_bar()
    join_process_group(0, 1, "127.0.0.1", 29679, "cpu")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stillhouse-"))
        run = FinishedRun(source, Path(folder, "run"), name)
        student = run.sibling(QuantisedConfig.model_validate("qad"))
        storage, on_lattice = run.run.storage, student.config.train.model_copy(update={"zero": "auto"})
        kinds = {"whole": on_lattice.model_copy(update={"quantise": None}), "quantised": on_lattice}
        optimisers = {}
        for kind in only or kinds:
            engine, device = start_engine(StudentLayout(name).final, kinds[kind], student.config.loss, storage)
            optimisers[kind] = Optimiser(engine, device, student.config.loss, kinds[kind])
        torch.set_num_threads(1)
        stream = TargetStream(TargetStore(storage, TRAIN), read_plan(storage, TRAIN), student.mix, 0)
        batches = (stream.next_batch(on_lattice.batch_tokens) for _ in range(WARM_UP + steps))
        print(json.dumps(_memory(optimisers[only[0]], list(batches)) if only else _times(optimisers, batches)))


def _times(optimisers: dict[str, Optimiser], batches: Any) -> dict[str, Any]:
    took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in optimisers}
    for step, rows in enumerate(batches):
        for kind in sorted(optimisers, reverse=bool(step % 2)):  # neither is always the one that finds the cache warm
            wall, cpu = time.perf_counter(), time.process_time()
            optimisers[kind].step(rows, 0)
            took[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
    figures: dict[str, Any] = {}
    for kind, times in took.items():
        times[:] = times[WARM_UP:]
        figures[kind] = {"wall_s": median(t[0] for t in times), "cpu_s": median(t[1] for t in times)}
    pairs = list(zip(took["quantised"], took["whole"], strict=True))
    return figures | {"wall": median(q[0] / w[0] for q, w in pairs), "cpu": median(q[1] / w[1] for q, w in pairs)}


def _memory(optimiser: Optimiser, batches: list[Any]) -> dict[str, float]:
    for rows in batches[:WARM_UP]:
        optimiser.step(rows, 0)
    held, beyond = _held(), []
    for rows in batches[WARM_UP:]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            optimiser.step(rows, 0)
        beyond.append(_peak(profile))
    return {"held": held, "step": max(beyond), "process": round(peak_mb() * 2**20)}


def _held() -> int:
    """Bytes of all tensors; those that share memory count once."""
    gc.collect()
    storages = {}
    for tensor in (t for t in gc.get_objects() if isinstance(t, torch.Tensor)):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _peak(profile: Any) -> int:
    """How much more than at the beginning was allocated at most, in bytes."""
    changes = [(e.start_ns(), e.nbytes()) for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for _, nbytes in sorted(changes, key=lambda change: change[0]):
        now += nbytes
        most = max(most, now)
    return most


if __name__ == "__main__":
    main()
