"""One process of a measurement: loads a model, alone or as a rank of two, and runs texts. Prints one JSON object.

python tests/benchmarks/teacher_bench/rank.py KIND MODEL TEXTS.json RANK RANKS THREADS PORT

KIND is `score` (the engine, with targets), `bare` (a plain loop of the model over the same batches), or `load`.
TEXTS holds units: lists of texts, which are lists of ids. Every text is scored from its second token on.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.loading import join_process_group, load_teacher, weights_held
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.generation.batches import by_tokens
from workers.teacher.generation.loop import pad
from workers.teacher.groups.dealing import deal


def main() -> None:
    """Load, warm up on the first unit, measure the others."""
    kind, model, texts = sys.argv[1:4]
    rank, ranks, threads, port = map(int, sys.argv[4:8])
    torch.set_num_threads(threads)
    if ranks > 1:
        join_process_group(rank, ranks, "127.0.0.1", port, "cpu")
    config = TeacherConfig(model=model, ep_size=ranks)
    if kind == "load":
        found = load(config, ranks)
    else:
        engine = TransformersEngine(config, rank=rank, ranks=ranks)
        units = [requests(unit, rank, ranks) for unit in json.loads(Path(texts).read_text())]
        run = {"score": score, "bare": bare}[kind]
        run(engine, units[:1])
        wall, cpu = time.perf_counter(), time.process_time()
        run(engine, units[1:])
        found = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        found["tokens"] = sum(
            len(r.prompt_token_ids) + len(r.answer_token_ids or ()) for unit in units[1:] for r in unit
        )
    print(json.dumps(found))
    if ranks > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def load(config: TeacherConfig, ranks: int) -> dict[str, Any]:
    """What a rank holds, and the most memory that loading it took: of its own, and with the pages of the files."""
    before, own_before = memory("VmRSS"), memory("RssAnon")
    own: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            own.append(memory("RssAnon") - own_before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM from now on
    model = load_teacher(config, ranks=ranks)
    peak = memory("VmHWM") - before
    over.set()
    watcher.join()
    return {"load_peak": peak, "load_peak_own": max(own), "weights_held": weights_held(model)}


def requests(unit: list[list[int]], rank: int, ranks: int) -> list[TextRequest]:
    """This rank's share of a unit, as a worker group deals it."""
    texts = [TextRequest(f"t{i}", 0, ids[:1], ids[1:]) for i, ids in enumerate(unit)]
    return [texts[i] for i in deal(texts, ranks)[rank]]


def score(engine: TransformersEngine, units: list[list[TextRequest]]) -> None:
    """Each unit with its targets."""
    spec = CaptureSpec("systematic", 21, "all", "float32", len(engine.tokenizer), 0)
    for unit in units:
        engine.run(unit, spec)


@torch.no_grad()
def bare(engine: TransformersEngine, units: list[list[TextRequest]]) -> None:
    """What anyone would write: the model's own forward over the same batches, and nothing done with its logits."""
    for unit in units:
        for batch in by_tokens(range(len(unit)), unit, engine.config.score_tokens):
            ids_BS, mask_BS = pad(
                [unit[i].prompt_token_ids + (unit[i].answer_token_ids or []) for i in batch], left=False
            )
            engine.model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False)


def memory(name: str) -> int:
    """Bytes of this process: VmRSS (now), VmHWM (most), RssAnon (now, without the pages of files)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
