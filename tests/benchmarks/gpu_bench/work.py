"""Shapes of real models with random weights, texts of random tokens, and time on a device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from workers.targets.encoding.scalars import GRIDS
from workers.targets.heads import as_stored
from workers.targets.reader import TargetRow

VOCABULARY = 151_936
KEPT = 9
"""Ids of a sample of 21 of a real teacher's distribution, on average."""

_QWEN3 = {"model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": _QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7b": _QWEN3
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4b": _QWEN3 | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "tiny": _QWEN3
    | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32}
    | {"num_key_value_heads": 1},
}
"""Of Qwen3's dense models; `tiny` is to try this on a CPU."""

TEACHER_WIDTH = 2048
"""Of hidden states, as Qwen3-30B-A3B has them."""


def dense_model(shape: str, vocabulary: int, device: str) -> Any:
    """A random model in bfloat16, made on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SHAPES[shape], vocab_size=vocabulary)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()


def step_flops(shape: str, vocabulary: int, lengths: list[int]) -> float:
    """Of a forward and a backward pass over texts of these lengths: 6 a weight and token, and attention's products,
    half of which a causal mask leaves out (Chowdhery et al. 2022, appendix B, there without the half)."""
    c = SHAPES[shape]
    D, L, queries = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"] * c["head_dim"]
    keys = c["num_key_value_heads"] * c["head_dim"]
    weights = L * (D * (2 * queries + 2 * keys) + 3 * D * c["intermediate_size"]) + vocabulary * D
    return sum(6 * weights * n + 6 * L * queries * n * n for n in lengths)


def rows(kind: str, tokens: int, longest: int, vocabulary: int, seed: int) -> list[TargetRow]:
    """Texts of so many tokens in all, of `longest` at most, with random targets at each token but the first: `sparse`
    and `ce` kept ids, `full` all log-probabilities, `hidden` the teacher's hidden states."""
    rng = np.random.default_rng(seed)
    sizes = [longest] * (tokens // longest) + [tokens % longest] * (tokens % longest > 1)
    return [_row(kind, f"{seed}.{i}", size, vocabulary, rng) for i, size in enumerate(sizes)]


def _row(kind: str, name: str, inputs: int, vocabulary: int, rng: np.random.Generator) -> TargetRow:
    """A text with so many tokens that have a next one, all of which are targets."""
    T, none = inputs, np.zeros(0, np.float32)
    tokens = rng.integers(0, vocabulary, T + 1).astype(np.uint32)
    entropy = rng.choice(GRIDS["entropy"], T).astype(np.float32)
    logprob = rng.choice(GRIDS["token_logprob"], T).astype(np.float32)
    ids, weights, kept, dense, hidden = none.astype(np.uint32), none, np.zeros(T, np.uint16), None, None
    if kind == "full":
        dense = torch.randn(T, vocabulary).log_softmax(-1).numpy()
    elif kind == "hidden":
        hidden = as_stored(torch.from_numpy(rng.standard_normal((T, TEACHER_WIDTH), np.float32)), "bfloat16")
    else:
        ids, kept = rng.integers(0, vocabulary, T * KEPT).astype(np.uint32), np.full(T, KEPT, np.uint16)
        weights = np.full(T * KEPT, 1 / KEPT, np.float32)
    precision = "bfloat16" if kind == "hidden" else "float32"
    return TargetRow(name, tokens, 1, kept, ids, weights, none, dense, entropy, logprob, hidden, precision, "teacher")


def seconds(work: Callable[[int], Any], device: str, times: int, warm_up: int = 3) -> float:
    """The median of the times that a piece of work takes to its end on the device; it is given a new number each."""
    took = []
    for i in range(warm_up + times):
        wait(device)
        began = time.perf_counter()
        work(i)
        wait(device)
        took.append(time.perf_counter() - began)
    return median(took[warm_up:])


def wait(device: str) -> None:
    """For all that the device has been given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def start_peak(device: str) -> None:
    """Give free memory back, and count the most from now on."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int | None:
    """Bytes of tensors at most since then; None on a CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
