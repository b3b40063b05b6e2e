"""The plan's activations beside the tensors that autograd saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator.preflight.memory import activation_bytes
from workers.student.layers.recomputing import recompute

TOKENS = 256
SHAPES = [(256, 768, 4, 2, 64), (256, 768, 8, 2, 32), (128, 256, 4, 4, 32)]


def sizes(family: str, layers: int, shape: tuple[int, ...]) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    return {"model_type": family, "num_hidden_layers": layers, **dict(zip(names, shape, strict=True))}


def saved(config: dict[str, Any], dtype: torch.dtype, recomputed: float = 0) -> int:
    """Bytes of a decoder's saved tensors that are no weights, each storage once; inputs of layers that are recomputed
    are not among them."""
    made = AutoConfig.for_model(**config, vocab_size=64, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(made, dtype=dtype, attn_implementation="sdpa").train()
    recompute(model, recomputed)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=torch.zeros((1, TOKENS), dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "least", "most"), [("qwen3", 0.97, 1.03), ("llama", 0.7, 1.0)])
def test_what_a_layer_keeps(family: str, least: float, most: float, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Qwen3 saves what is counted, but a few numbers a head and token; Llama has no norms of queries and keys."""
    layer = saved(sizes(family, 3, shape), dtype) - saved(sizes(family, 2, shape), dtype)
    counted = activation_bytes(sizes(family, 1, shape), TOKENS, dtype.itemsize, recomputed=0)
    assert least * counted <= layer <= most * counted


def test_layers_that_are_recomputed_keep_their_inputs_and_the_last_of_them_all() -> None:
    one, four = sizes("qwen3", 1, SHAPES[0]), sizes("qwen3", 4, SHAPES[0])
    layer, given = activation_bytes(one, TOKENS, 2, recomputed=0), TOKENS * 256 * 2
    assert activation_bytes(four, TOKENS, 2, recomputed=0) == 4 * layer
    assert activation_bytes(four, TOKENS, 2, recomputed=0.25) == 3 * layer + given
    assert activation_bytes(four, TOKENS, 2, recomputed=0.5) == 2 * layer + 2 * given
    assert activation_bytes(four, TOKENS, 2, recomputed=1) == layer + 4 * given


def test_a_half_of_the_layers_keeps_half_as_much() -> None:
    whole = saved(sizes("qwen3", 4, SHAPES[0]), torch.float32)
    rest = saved(sizes("qwen3", 0, SHAPES[0]), torch.float32)
    half = saved(sizes("qwen3", 4, SHAPES[0]), torch.float32, 0.5)
    assert half - rest == pytest.approx((whole - rest) / 2, rel=0.06), (
        "what is saved in a layer, less two of its inputs"
    )
