"""What a model costs to run on this machine: its size, what it computes for a token, and how fast it answers.

Legend: B texts at once, S tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from workers.evaluation.cost import Speed
from workers.evaluation.decoding import Ids, write
from workers.model_sizes import EXPERT_WEIGHTS, ModelSize
from workers.two_part_model import TwoPartModel

_REPEATS = 3
"""Times of which the median is taken; one before them is not counted."""


def measure(model: TwoPartModel, prompts: Sequence[np.ndarray], new_tokens: int) -> Speed:
    """Answer prompts greedily, `new_tokens` each, whatever they end with: the first one alone, then all at once, cut to
    the length of the shortest."""
    S = min(map(len, prompts))
    texts = [p[-S:] for p in prompts]
    _answer(model, texts, 2)
    first_s = median(_timed(model, lambda: _answer(model, texts[:1], 1)) for _ in range(_REPEATS))
    begun_s = median(_timed(model, lambda: _answer(model, texts, 1)) for _ in range(_REPEATS))
    whole_s = median(_timed(model, lambda: _answer(model, texts, new_tokens)) for _ in range(_REPEATS))
    parameters, active, bytes_ = _sizes(model.model)
    return Speed(
        parameters=parameters,
        active_parameters=active,
        weight_bytes=bytes_,
        flops_per_token=2 * (active - _looked_up(model.model)),
        prompt_tokens=S,
        batch=len(prompts),
        new_tokens=new_tokens,
        first_token_ms=1000 * first_s,
        tokens_per_s=len(prompts) * (new_tokens - 1) / max(whole_s - begun_s, 1e-9),
        device=_device(model.device),
    )


def _answer(model: TwoPartModel, prompts: Sequence[Ids], new_tokens: int) -> None:
    write(model, prompts, new_tokens, lambda logits_BV: logits_BV.argmax(-1).cpu())


def _timed(model: TwoPartModel, work: Callable[[], None]) -> float:
    _wait(model.device)
    began = time.perf_counter()
    work()
    _wait(model.device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _sizes(model: Any) -> tuple[int, int, int]:
    """Parameters, those that a token meets, and bytes of all. Tied weights count once."""
    total = experts = bytes_ = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        bytes_ += parameter.numel() * parameter.element_size()
        experts += parameter.numel() if any(part in name for part in EXPERT_WEIGHTS) else 0
    return total, ModelSize(total, experts).active(model.config.get_text_config().to_dict()), bytes_


def _looked_up(model: Any) -> int:
    """Weights of input embeddings that are only looked up: a tied head multiplies with them."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs.weight
    return 0 if tied else int(inputs.weight.numel())


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
