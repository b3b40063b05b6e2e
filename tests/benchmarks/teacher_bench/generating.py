"""Generation with capture against `model.generate` of the same prompts without it, in one process.

python tests/benchmarks/teacher_bench/generating.py MODEL ROUNDS TEXTS

`model.generate` samples at temperature 1 and is told to go on to the given lengths; so are we, by least and most
lengths, and what both bar on the way (the end of text) is the same. In static batches a batch runs to its longest
answer, and tokens beyond an answer's own length do not count. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine

BATCH, PROMPT = 32, 24
EQUAL, SHORTEST, LONGEST = 128, 16, 256


def main() -> None:
    """Equal lengths, then mixed ones; each pair of runs in turn."""
    model, rounds, texts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(2)
    engine = TransformersEngine(TeacherConfig(model=model, batch=BATCH))
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, len(engine.tokenizer), (texts, PROMPT)).tolist()
    equal, mixed = [EQUAL] * BATCH, rng.integers(SHORTEST, LONGEST + 1, texts).tolist()
    ours(engine, prompts[:BATCH], [8] * BATCH)
    static(engine, prompts[:BATCH], [8] * BATCH)
    found = {
        "equal": compare(engine, prompts[:BATCH], equal, rounds),
        "mixed": compare(engine, prompts, mixed, rounds),
    }
    print(json.dumps(found))


def compare(engine: TransformersEngine, prompts: list[list[int]], lengths: list[int], rounds: int) -> dict[str, Any]:
    """Tokens a second and a CPU-second of both, and the medians of the ratios."""
    rows = []
    for _ in range(rounds):
        (wall, cpu), (static_wall, static_cpu) = (timed(f, engine, prompts, lengths) for f in (ours, static))
        tokens = sum(lengths)
        rows.append([tokens / wall, tokens / static_wall, static_wall / wall, tokens / cpu, tokens / static_cpu])
    return {
        "rows": rows,
        "ratio": median(row[2] for row in rows),
        "ratio_cpu": median(row[3] / row[4] for row in rows),
    }


def timed(run: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(engine: TransformersEngine, prompts: list[list[int]], lengths: list[int]) -> None:
    """With targets. The lengths are known to the engine as `max_new_tokens`, as they would be of any request."""
    spec = CaptureSpec("systematic", 21, "answer", "float32", len(engine.tokenizer), 0)
    requests = [
        TextRequest(f"p{i}", 0, prompt, None, max_new_tokens=n, min_new_tokens=n)
        for i, (prompt, n) in enumerate(zip(prompts, lengths, strict=True))
    ]
    made = engine.run(requests, spec)
    assert made.target_lengths.tolist() == lengths


@torch.no_grad()
def static(engine: TransformersEngine, prompts: list[list[int]], lengths: list[int]) -> None:
    """Batches of 32 in the order given, each to its longest answer."""
    for i in range(0, len(prompts), BATCH):
        ids, longest = torch.tensor(prompts[i : i + BATCH]), max(lengths[i : i + BATCH])
        engine.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest,
            min_new_tokens=longest,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )


if __name__ == "__main__":
    main()
