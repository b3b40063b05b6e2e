"""A decode step of the transformers engine: a random mixture of the shape of Qwen3-30B-A3B, cut to some layers."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.model_families import word_tokenizer

from gpu_bench.work import VOCABULARY, peak, start_peak, wait
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest

SHORT, LONG = 8, 40
"""New tokens of the texts of two runs, whose difference is decode steps."""

_SHAPE = {
    "hidden_size": 2048, "moe_intermediate_size": 768, "intermediate_size": 6144, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
}  # fmt: skip
_TINY = {
    "hidden_size": 64, "moe_intermediate_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "num_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip


def measure(args: Any) -> dict[str, Any]:
    """Milliseconds of a step of so many slots, with and without a capture of a sample of 21."""
    from workers.teacher.engines.transformers_engine import TransformersEngine

    vocabulary = args.vocabulary or VOCABULARY
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        _save(Path(folder), vocabulary, args)
        start_peak(args.device)
        config = TeacherConfig(model=folder, batch=args.slots, dtype="bfloat16")
        engine = TransformersEngine(config, device=args.device)
    engine.stop_ids = set()
    sample = CaptureSpec("systematic", 21, "answer", "float32", vocabulary, 0)
    found = {}
    for name, spec in (("captured", sample), ("hidden", replace(sample, scheme="hidden", precision="bfloat16"))):
        _run(engine, spec, SHORT, args)
        took = _run(engine, spec, LONG, args) - _run(engine, spec, SHORT, args)
        found[f"{name}_ms"] = 1e3 * took / (LONG - SHORT)
    found["tokens_per_s"] = 1e3 * args.slots / found["captured_ms"]
    return found | {"layers": args.layers, "slots": args.slots, "peak_bytes": peak(args.device)}


def _run(engine: Any, spec: CaptureSpec, tokens: int, args: Any) -> float:
    """Seconds of answers of so many tokens, as many as there are slots, at temperature 1."""
    asked = [TextRequest(f"p{i}", 0, [5, 6, 7 + i], None, max_new_tokens=tokens) for i in range(args.slots)]
    wait(args.device)
    began = time.perf_counter()
    engine.run(asked, spec, texts=False)
    wait(args.device)
    return time.perf_counter() - began


def _save(folder: Path, vocabulary: int, args: Any) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    sizes = {**(_TINY if args.small else _SHAPE), "num_hidden_layers": args.layers, "vocab_size": vocabulary}
    with torch.device(args.device):
        model = Qwen3MoeForCausalLM._from_config(Qwen3MoeConfig(**sizes), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
