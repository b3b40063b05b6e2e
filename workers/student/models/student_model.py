"""A student as DeepSpeed sees it: backbone, head and loss in one module.

Under ZeRO-3 a parameter is whole only inside the forward of a module that owns it, so the loss that multiplies by the
head's weight is a module that owns it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from workers.logit_map import LogitMap, logit_map
from workers.quantise.config import QuantisedWeights
from workers.student.batches.packing import Layout, Texts
from workers.student.layers.recomputing import recompute
from workers.student.losses.fused import Divergence, HeadTargets, fused_loss, loss_of_logits
from workers.student.models.head import Abilities, tried
from workers.student.models.packed_attention import arguments, implementation


class LossHead(nn.Module):
    """The LM head and the loss; shares its parameters with the model's own head (and tied embeddings)."""

    def __init__(self, head: nn.Linear, divergence: Divergence | None, logits: LogitMap, gpu_share: float) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self._divergence, self._logits, self._gpu_share = divergence, logits, gpu_share

    def forward(self, h_TD: Tensor, targets: HeadTargets) -> Tensor:
        """Summed loss of hidden states at T positions (see `fused_loss`)."""
        return fused_loss(h_TD, self.weight, self.bias, targets, self._divergence, self._logits, self._gpu_share)


class DistillationModel(nn.Module):
    """Texts and targets in, summed loss out.

    `layout` is how texts must lie: as asked, but `padded` where the architecture lets packed texts see each other.
    `fused` is False where its logits are more than `LogitMap` knows: they are then made all at once. `abilities` are
    the model's, where it cannot be tried, since it is not whole; None: it is tried. `gpu_share` is the part of its GPU
    that is for this model.
    """

    def __init__(
        self,
        causal_lm: Any,
        divergence: Divergence | None = None,
        layout: Layout = "packed",
        abilities: Abilities | None = None,
        gpu_share: float = 1.0,
    ) -> None:
        super().__init__()
        can_be = abilities or tried(causal_lm)
        self.fused = can_be.fused
        self.layout: Layout = "packed" if layout == "packed" and can_be.packed else "padded"
        if self.layout == "packed":
            causal_lm.set_attn_implementation(implementation(causal_lm.device.type, causal_lm.dtype))
        self._divergence, self._gpu_share = divergence, gpu_share
        self.causal_lm = causal_lm
        self.quantised: QuantisedWeights | None = None
        """Its weights that are trained on a lattice; None where all are whole."""
        if self.fused:
            head = causal_lm.get_output_embeddings()
            self.loss_head = LossHead(head, divergence, logit_map(causal_lm.config), gpu_share)
        self.register_state_dict_post_hook(_drop_frozen)

    @contextmanager
    def comparing_by_kl(self) -> Iterator[None]:
        """The forward KL in place of the divergence that is trained with, while this lasts."""
        parts: list[Any] = [self, self.loss_head] if self.fused else [self]
        trained = self._divergence
        try:
            for part in parts:
                part._divergence = None
            yield
        finally:
            for part in parts:
                part._divergence = trained

    def forward(self, texts: Texts, targets: HeadTargets) -> Tensor:
        """Sum over target positions of the weighted loss, float32 scalar (see `fused_loss`)."""
        if not self.fused:
            z_BSV = self.causal_lm(**given(texts), use_cache=False).logits
            z_TV = z_BSV.flatten(0, 1)[texts.positions_T]
            return loss_of_logits(z_TV, targets, self._divergence, self._gpu_share)
        h_BSD = self.causal_lm.get_decoder()(**given(texts), use_cache=False).last_hidden_state
        return self.loss_head(h_BSD.flatten(0, 1)[texts.positions_T], targets)


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """A checkpoint has no use for what training leaves as it is. A shared parameter goes under each of its names."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def given(texts: Texts) -> dict[str, Any]:
    """Texts as a transformers model takes them."""
    if texts.lengths is None:
        return {"input_ids": texts.input_BS, "attention_mask": texts.mask_BS}
    packed = {"input_ids": texts.input_BS, "position_ids": texts.place_BS}
    return packed | arguments(texts.lengths, texts.input_BS.device)


def ready_to_train(causal_lm: Any, *, gradient_checkpointing: float) -> None:
    """Let a transformers model train, in place, with a share of its layers recomputed."""
    causal_lm.config.use_cache = False
    recompute(causal_lm, gradient_checkpointing)
    causal_lm.train()
