"""Steps of the shipped loop: a store's stream, micro-batches, the DeepSpeed engine, one optimiser step.

python tests/benchmarks/students_bench/ours.py FOLDER STEPS KIND [KIND ...]

Kinds take turns, step by step, in one process, each with an engine of its own. Prints one JSON object: of each kind
tokens, wall and CPU-seconds after warm-up, and the process's peak memory.

    sparse, topk, full   the divergence on a store of that scheme (`sparse` is systematic)
    hidden, hidden_bf16  the same on hidden states and the teacher's head, in float32 or bfloat16
    reverse              the reverse KL on `topk`
    ce                   plain cross-entropy, the same loop and fused head
    live                 a dense teacher runs in each step, the student learns all of its distribution
    unfused_ce           plain cross-entropy as transformers computes it, in the same engine
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from teacher_bench.rank import memory

from cluster.storage import LocalStorage
from students_bench.work import plan_of
from workers.student.config import LossConfig, TrainConfig
from workers.student.losses.teacher_states import read_heads
from workers.student.training.engine import engine_over, start_engine
from workers.student.training.step import Optimiser
from workers.targets.reader import TargetStream
from workers.teacher.engines.loading import join_process_group

THREADS, WARM_UP = 2, 3
_BATCH = 4 * 189
LOSSES = {"ce": {"kl": 0, "ce": 1}, "reverse": {"divergence": "reverse_kl"}}
STORES = {
    "sparse": "systematic",
    "ce": "systematic",
    "reverse": "topk",
    "live": "systematic",
    "unfused_ce": "systematic",
}


class Ours:
    """The shipped loop."""

    def __init__(self, folder: Path, kind: str, port_free: Any = None) -> None:
        loss = LossConfig.model_validate(LOSSES.get(kind, {}))
        train = TrainConfig(tokens=10**9, batch_tokens=_BATCH, lr=1e-4, threads_per_worker=THREADS, schedule="constant")
        self.engine, device = start_engine("student", train, loss, LocalStorage(folder))
        store, plan = plan_of(folder, STORES.get(kind, kind))
        heads = read_heads(store, plan, ["all"], device, kind)
        self.optimiser = Optimiser(self.engine, device, loss, train, heads)
        self.stream = TargetStream(store, plan, {"all": 1.0}, 0)

    def step(self) -> int:
        rows = self.stream.next_batch(_BATCH)
        self.optimiser.step(rows, 0)
        return sum(r.targets for r in rows)


class Live(Ours):
    """The teacher's logits instead of kept ids."""

    def __init__(self, folder: Path, kind: str) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(folder, kind)
        self.teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32).eval()
        work = self.optimiser._work
        self.optimiser._work = lambda rows, spent: [self._with_all(b) for b in work(rows, spent)]  # type: ignore[method-assign]

    @torch.no_grad()
    def _with_all(self, batch: Any) -> Any:
        texts = batch.texts
        assert len(set(texts.lengths)) == 1
        h = self.teacher.get_decoder()(
            texts.input_BS.reshape(len(texts.lengths), -1), use_cache=False
        ).last_hidden_state
        p = self.teacher.lm_head(h.flatten(0, 1)[texts.positions_T]).softmax(-1)
        return replace(batch, targets=replace(batch.targets, ids_TK=None, weights_TK=p))


class Unfused(Ours):
    """What transformers does with labels."""

    def __init__(self, folder: Path, kind: str) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32).train()
        self.engine = engine_over(model, TrainConfig(lr=1e-4), "float32")
        self.texts = torch.tensor(json.loads((folder / "texts.json").read_text()))
        self.at = count()

    def step(self) -> int:
        first = 4 * next(self.at) % len(self.texts)
        ids = self.texts[first : first + 4]
        self.engine.backward(self.engine(input_ids=ids, labels=ids, use_cache=False).loss)
        self.engine.step()
        return ids.numel() - len(ids)


def main() -> None:
    """Time the kinds in turn."""
    folder, steps, kinds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(THREADS)
    join_process_group(0, 1, "127.0.0.1", int(os.environ.get("BENCH_PORT", "29677")), "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    before = memory("VmHWM")
    loops = {kind: {"live": Live, "unfused_ce": Unfused}.get(kind, Ours)(folder, kind) for kind in kinds}
    took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    tokens = 0
    for _ in range(WARM_UP + steps):
        for kind, loop in loops.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = loop.step()
            took[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
    figures: dict[str, Any] = {}
    for kind, times in took.items():
        walls, cpus = zip(*times[WARM_UP:], strict=True)
        figures[kind] = {"tokens": tokens, "wall_s": median(walls), "cpu_s": median(cpus)}
    print(json.dumps(figures | {"peak": memory("VmHWM"), "before": before}))


if __name__ == "__main__":
    main()
