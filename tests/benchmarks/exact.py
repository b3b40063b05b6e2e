"""Exact distributions kept as hidden states and a head, beside every log-probability.

python tests/benchmarks/exact.py [--model FOLDER] [--texts 48] [--tokens 48] [--repeats 3] [--steps 3] [--units 2]
    [--only capture steps evaluation]

`capture`: the same texts are captured in both ways, by a teacher that computes in float32 and by one in bfloat16, whose
logits are rounded to 8 bits before they are stored as `full`, and are not where they are made of hidden states. KL is
that from the `full` distributions to those made of hidden states, in nats a token; bytes are those of a part's file;
speeds are target tokens a CPU-second of one thread, medians of ratios over the repeats. The default is the quickstart's
teacher. `steps`: a student's step on either, and on a sample (exact_bench/steps.py).
`evaluation`: memory and seconds of scoring (exact_bench/evaluating.py). Seen of a half and a quarter of SmolLM2-135M on
384 texts of 48 answered tokens, two cores: one process 262 s, two 153 s; 1,432 MB at 24, 96 and 384 texts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import torch
from exact_bench import evaluating
from exact_bench.steps import step_figures
from targets_bench.tables import show
from transformers.utils.logging import disable_progress_bar

import workers
from workers.model_files import token_ids
from workers.targets.config import Precision, Scheme
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.codec import encode
from workers.targets.encoding.schema import StoreHeader
from workers.targets.encoding.vocab_order import VocabOrder
from workers.targets.heads import head_of_folder
from workers.targets.reader import rows_of
from workers.targets.store import to_parquet
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine

CHECKOUT = Path(__file__).resolve().parents[2]
SUBJECTS = ["capture", "steps", "evaluation"]
QUICKSTART = CHECKOUT / "examples" / "quickstart" / "teacher"


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=QUICKSTART)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--units", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed, of each kind in a repeat")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    args = parser.parse_args()
    assert Path(workers.__file__).parents[1] == CHECKOUT, f"{workers.__file__} would be measured, not {CHECKOUT}"
    figures: dict[str, Any] = {}
    if "capture" in args.only:
        figures |= capture_figures(args)
    if "steps" in args.only:
        figures |= step_figures(args.repeats, args.steps)
    if "evaluation" in args.only:
        figures |= evaluation_figures(args)
    print(json.dumps(figures))


def capture_figures(args: argparse.Namespace) -> dict[str, Any]:
    """Both ways of keeping what teachers of two types say."""
    torch.set_num_threads(1)
    disable_progress_bar()
    vocabulary = max(token_ids(args.model).values()) + 1
    figures: dict[str, Any] = {"model": args.model.name, "vocabulary": vocabulary}
    rows = []
    for dtype in ("float32", "bfloat16"):
        found = compare(args.model, dtype, vocabulary, asked(args.texts, args.tokens, vocabulary), args.repeats)
        rows.append([dtype, *found.values()])
        short = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
        figures[f"hidden_over_full_kl_{short}"] = found["kl"]
        figures[f"hidden_bytes_per_token_{short}"] = found["hidden_bytes"]
        figures[f"full_bytes_per_token_{short}"] = found["full_bytes"]
        figures[f"hidden_over_full_speed_{short}"] = found["speed"]
    figures["hidden_bytes_per_token"] = figures["hidden_bytes_per_token_bf16"]
    columns = ["teacher's type", "KL", "largest KL", "hidden B/token", "full B/token", "hidden/full tokens/s"]
    show(f"{args.model.name}, {vocabulary:,} ids", columns, rows)
    return figures


def evaluation_figures(args: argparse.Namespace) -> dict[str, Any]:
    """An evaluation's memory and seconds."""
    vocabulary = max(token_ids(args.model).values()) + 1
    scored = evaluating.measure(args.model, vocabulary, asked(args.texts, args.tokens, vocabulary), args.units)
    show(f"scoring two models, {args.units} units of {args.texts} texts at first", [*scored], [list(scored.values())])
    return scored


def asked(texts: int, tokens: int, vocabulary: int) -> list[TextRequest]:
    """Prompts of random ids, each answered with so many tokens."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, vocabulary, 6).tolist() for _ in range(texts)]
    return [
        TextRequest(f"p{i}", 0, ids, None, max_new_tokens=tokens, min_new_tokens=tokens)
        for i, ids in enumerate(prompts)
    ]


def compare(model: Path, dtype: Precision, vocabulary: int, texts: list[TextRequest], repeats: int) -> dict[str, float]:
    """Both ways of keeping what one teacher says."""
    engine = TransformersEngine(TeacherConfig(model=str(model), dtype=dtype))
    headers = {scheme: header(scheme, dtype, vocabulary) for scheme in ("full", "hidden")}
    seconds: dict[str, list[float]] = {scheme: [] for scheme in headers}
    units: dict[str, UnitTargets] = {}
    for _ in range(repeats):
        for scheme, own in headers.items():
            began = time.process_time()
            units[scheme] = engine.run(texts, CaptureSpec.of(own, ()))
            seconds[scheme].append(time.process_time() - began)
    head = head_of_folder(model, dtype, vocabulary).on("cpu")
    kls = []
    for full, hidden in zip(*(rows_of(units[s], headers[s]) for s in headers), strict=True):
        assert full.logprobs is not None and hidden.hidden is not None
        t_TV = torch.from_numpy(full.logprobs.astype(np.float64)).log_softmax(-1)
        q_TV = head.log_probabilities(hidden.hidden, dtype).double()
        kls.append((t_TV.exp() * (t_TV - q_TV)).sum(-1))
    kl_T, targets = torch.cat(kls), len(units["full"].entropy)
    order = VocabOrder.identity(vocabulary)
    sizes = {s: len(to_parquet(encode(units[s], headers[s], order), headers[s], {})) for s in headers}
    return {
        "kl": float(kl_T.mean()),
        "most": float(kl_T.max()),
        "hidden_bytes": sizes["hidden"] / targets,
        "full_bytes": sizes["full"] / targets,
        "speed": statistics.median(f / h for f, h in zip(seconds["full"], seconds["hidden"], strict=True)),
    }


def header(scheme: Scheme, dtype: Precision, vocabulary: int) -> StoreHeader:
    """Of a held-out store; a `full` one keeps float32."""
    full = StoreHeader("full", 1, "answer", "float32", vocabulary, "", "", 0)
    return full if scheme == "full" else replace(full, scheme=scheme, precision=dtype)


if __name__ == "__main__":
    main()
