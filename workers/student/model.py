"""A student as DeepSpeed sees it: backbone, head and loss in one module.

Under ZeRO-3 a parameter is whole only inside the forward of a module that owns it, so the loss that multiplies by the
head's weight is a module that owns it too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workers.student.fused import fused_cross_entropy


class LossHead(nn.Module):
    """The LM head and the loss; shares its parameters with the model's own head (and tied embeddings)."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias

    def forward(self, h_TD: Tensor, *targets: Tensor | None) -> Tensor:
        """`targets` as `fused_cross_entropy` takes them."""
        return fused_cross_entropy(h_TD, self.weight, self.bias, *targets)


class DistillationModel(nn.Module):
    """Token ids and targets in, summed loss out."""

    def __init__(self, causal_lm: Any) -> None:
        super().__init__()
        refuse_scaled_logits(causal_lm.config)
        self.causal_lm = causal_lm
        self.loss_head = LossHead(causal_lm.get_output_embeddings())

    def forward(self, input_BS: Tensor, mask_BS: Tensor, positions_T: Tensor, *targets: Tensor | None) -> Tensor:
        """Sum over target positions of the weighted cross-entropy, float32 scalar (see `MicroBatch`)."""
        backbone = self.causal_lm.get_decoder()
        h_BSD = backbone(input_ids=input_BS, attention_mask=mask_BS, use_cache=False).last_hidden_state
        return self.loss_head(h_BSD.flatten(0, 1)[positions_T], *targets)


def refuse_scaled_logits(config: Any) -> None:
    """Raise ValueError for a model whose logits are not just its head's output: the fused loss would be wrong."""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ValueError(
                f"model: {config.model_type} applies {name} after its head, which the fused loss does not do yet; "
                "choose a student without it"
            )


def load_causal_lm(folder: str, dtype: torch.dtype, *, gradient_checkpointing: bool = False) -> Any:
    """A student's model from a safetensors folder, ready to train."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.config.use_cache = False
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()
