"""Dense Llama weights -> Mixtral weights: every MLP becomes a layer of experts behind a router.

Attention, norms and embeddings are carried over unchanged. Nothing here trains or reads a file.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

# One expert's MLPs: Llama parameter name ("model.layers.3.mlp.up_proj.weight") -> weight.
Mlps = dict[str, Tensor]

# Configuration entries that mean the same in both architectures.
CARRIED = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
]


def mixtral_config(dense: LlamaConfig, experts: int, top_k: int) -> MixtralConfig:
    """The Mixtral configuration whose attention and MLP shapes are those of `dense`."""
    if dense.model_type != "llama" or dense.attention_bias or dense.mlp_bias:
        raise ValueError(
            f"dense model of type {dense.model_type!r}, or with biases: Mixtral has no place for them; "
            "give a Llama model without biases, such as SmolLM2"
        )
    if not 0 < top_k <= experts:
        raise ValueError(f"top_k {top_k}: there are {experts} experts; give 1 to {experts}")
    carried = {name: getattr(dense, name) for name in CARRIED}
    return MixtralConfig(**carried, num_local_experts=experts, num_experts_per_tok=top_k)


def mlps_of(dense: LlamaForCausalLM) -> Mlps:
    """A copy of every MLP weight of `dense`."""
    return {name: weight.detach().clone() for name, weight in dense.named_parameters() if ".mlp." in name}


def put_mlps(dense: LlamaForCausalLM, mlps: Mlps) -> None:
    """Overwrite the MLPs of `dense` in place; all else stays."""
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            if ".mlp." in name:
                weight.copy_(mlps[name])


def upcycle(dense: LlamaForCausalLM, experts: list[Mlps], routers: list[Tensor], top_k: int = 2) -> MixtralForCausalLM:
    """The MoE (float32, eval mode) with `experts` in the places of the MLPs of `dense`.

    experts: one set of MLPs an expert, in expert order.
    routers: one weight (experts, hidden_size) a layer.
    """
    moe = MixtralForCausalLM(mixtral_config(dense.config, len(experts), top_k)).eval()
    shared = {name: weight for name, weight in dense.state_dict().items() if ".mlp." not in name}
    missing, unexpected = moe.load_state_dict(shared, strict=False)
    left = [name for name in missing if ".mlp." not in name]
    if left or unexpected:
        raise ValueError(f"weights without a place in Mixtral: {unexpected}, places left empty: {left}")
    with torch.no_grad():
        for number, layer in enumerate(moe.model.layers):
            prefix = f"model.layers.{number}.mlp"
            for place, mlps in enumerate(experts):
                # Mixtral keeps gate and up projection in one tensor, gate first.
                gate, up = mlps[f"{prefix}.gate_proj.weight"], mlps[f"{prefix}.up_proj.weight"]
                layer.mlp.experts.gate_up_proj[place].copy_(torch.cat([gate, up]))
                layer.mlp.experts.down_proj[place].copy_(mlps[f"{prefix}.down_proj.weight"])
            layer.mlp.gate.weight.copy_(routers[number])
    return moe


@torch.no_grad()
def identity_error(dense: LlamaForCausalLM, experts: int, tokens: Tensor, seed: int = 0) -> tuple[float, float]:
    """Largest logit difference between `dense` and its upcycling with identical experts.

    Absolute, and relative to the largest logit: float32 rounding grows with the logits (SmolLM2's reach
    40), and two attention kernels of the same dense model already differ by 1e-4 there.

    The routers are random: with equal experts no choice may matter, since the top-k weights sum to one.
    tokens: (batch, length) ids.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (experts, dense.config.hidden_size)
    layers = range(dense.config.num_hidden_layers)
    routers = [torch.randn(shape, generator=generator) for _ in layers]
    moe = upcycle(dense, [mlps_of(dense)] * experts, routers)
    expected = dense(input_ids=tokens).logits
    error = (moe(input_ids=tokens).logits - expected).abs().max()
    return error.item(), (error / expected.abs().max()).item()
