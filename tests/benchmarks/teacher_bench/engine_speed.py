"""Tokens a second of one engine on one model, scoring and generating with capture.

python tests/benchmarks/teacher_bench/engine_speed.py MODEL transformers|vllm [--threads 1]

Each engine wants an environment of its own (`make test-vllm` makes vLLM's): run it once in each, taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from workers.model_files import read_model_config
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TeacherEngine, TextRequest
from workers.teacher.engines.choosing import load_engine


def main() -> None:
    """Print a line per case and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("engine", choices=["transformers", "vllm"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    vocabulary = int(read_model_config(args.model)["vocab_size"])
    vllm = {"vllm": {"engine_kwargs": {"max_model_len": 1024}}} if args.engine == "vllm" else {}
    config = TeacherConfig(
        model=str(args.model), engine=args.engine, dtype="float32", threads_per_rank=args.threads, **vllm
    )
    engine = load_engine(config, rank=0, ranks=1, device="cpu", address="127.0.0.1", port=0)
    figures = {name: speed(engine, *case) for name, case in cases(vocabulary).items()}
    for name, figure in figures.items():
        print(f"{name:24s} {figure}")
    print(json.dumps({"engine": args.engine, "threads": torch.get_num_threads(), **figures}))


def cases(vocabulary: int) -> dict[str, tuple[list[TextRequest], CaptureSpec]]:
    """Requests and what is captured, by name."""
    rng = np.random.default_rng(0)

    def text(tokens: int) -> list[int]:
        return rng.integers(0, vocabulary, tokens).tolist()

    def spec(scheme: str) -> CaptureSpec:
        return CaptureSpec(scheme, 21, "answer", "float32", vocabulary, 7, top_k=64 if scheme == "topk" else 0)  # type: ignore[arg-type]

    long = [TextRequest(f"s{i}", 0, text(1), text(255)) for i in range(16)]
    short = [TextRequest(f"s{i}", 0, text(1), text(63)) for i in range(32)]
    asked = [TextRequest(f"g{i}", 0, text(48), None, max_new_tokens=64, min_new_tokens=64) for i in range(32)]
    return {
        "score_topk": (long, spec("topk")),
        "score_systematic": (short, spec("systematic")),
        "generate_topk": (asked, spec("topk")),
        "generate_systematic": (asked, spec("systematic")),
    }


def speed(engine: TeacherEngine, requests: list[TextRequest], spec: CaptureSpec) -> dict[str, float]:
    """Target tokens of one call, after a small one, by wall and by this process's CPU seconds."""
    engine.run(requests[:2], spec)
    wall, cpu = time.monotonic(), time.process_time()
    targets = engine.run(requests, spec)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {"per_s": round(len(targets.entropy) / wall, 1), "per_cpu_s": round(len(targets.entropy) / cpu, 1)}


if __name__ == "__main__":
    main()
