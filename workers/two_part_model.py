"""A causal model as two parts: tokens to hidden states, and hidden states to logits.

The logits of a batch are far larger than anything else in its forward pass (8 x 512 tokens of a vocabulary of 151,936
are 2.5 GB), and most positions of a batch are wanted one chunk at a time, or not at all. So the body runs alone, and
the head on chunks of what it gave. The head is the model's own `forward` with its body stood in for, so that
whatever an architecture does after its body (logit scaling, soft-capping, a bias) is done.

Legend: B texts, S tokens, H hidden size, V model vocabulary, n positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from workers.logit_map import logit_map
from workers.transfers import to_device

_SAME = 0.05
"""Of the logits' spread: what parts may differ from the whole, as bfloat16 may round otherwise."""

_PROBE = [[5, 3, 8], [2, 7, 1]]


class _Given(torch.nn.Module):
    """Stands in for a model's body: gives the output that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


class TwoPartModel:
    """A transformers model run in two parts. Where an architecture cannot be parted, `parted` is False and what
    `body` gives are logits, all of them at once."""

    def __init__(self, model: Any, device: str) -> None:
        self.model, self.device = model, device
        self.steps = 0
        """Forward passes of the body so far."""
        self._given = _Given()
        self._output: Any = None
        self.parted = True
        self.parted = self._can_be_parted()

    @torch.no_grad()
    def body(
        self, ids_BS: torch.Tensor, mask_BS: torch.Tensor, cache: Any = None, positions_BS: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [B, S, H] of tokens, which see those of `cache` too; the mask is of all they see."""
        self.steps += 1
        kwargs: dict[str, Any] = {
            "input_ids": to_device(ids_BS, self.device),
            "attention_mask": to_device(mask_BS, self.device),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        if positions_BS is not None:
            kwargs["position_ids"] = to_device(positions_BS, self.device)
        if not self.parted:
            return self.model(**kwargs).logits
        output = self.model.base_model(**kwargs)
        self._output = type(output)
        return output.last_hidden_state

    @torch.no_grad()
    def head(self, hidden_nH: torch.Tensor) -> torch.Tensor:
        """Logits [n, V] of hidden states."""
        if not self.parted:
            return hidden_nH
        name = self.model.base_model_prefix
        body = self.model._modules[name]
        self._given.output = self._output(last_hidden_state=hidden_nH[None])
        self.model._modules[name] = self._given
        try:
            # The ids are not looked at; some architectures want one of ids and embeddings to be there.
            return self.model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False).logits[0]
        finally:
            self.model._modules[name] = body
            self._given.output = None

    def logits_by_chunk(self, hidden_nH: torch.Tensor, numbers: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits of many positions, each with its place among them; no more than so many numbers at once."""
        chunk = max(1, numbers // self.model.config.get_text_config().vocab_size)
        for i in range(0, len(hidden_nH), chunk):
            place = slice(i, i + chunk)
            yield place, self.head(hidden_nH[place])

    def head_is_plain(self) -> bool:
        """Whether the head is a matrix and what `logit_map` knows, so that hidden states say all that logits do."""
        head = self.model.get_output_embeddings()
        if not self.parted or not isinstance(head, torch.nn.Linear):
            return False
        ids_BS = torch.tensor(_PROBE)
        hidden_nH = self.body(ids_BS, torch.ones_like(ids_BS)).flatten(0, 1)
        with torch.no_grad():
            z_nV = head(hidden_nH).float()
        logit_map(self.model.config.get_text_config()).apply_(z_nV)
        own_nV = self.head(hidden_nH).float()
        return own_nV.shape == z_nV.shape and bool((own_nV - z_nV).abs().max() <= _SAME * own_nV.std())

    def _can_be_parted(self) -> bool:
        """Whether both parts in turn give what the whole gives, tried on a few tokens."""
        if self.model.base_model_prefix not in self.model._modules:
            return False
        ids_BS = torch.tensor(_PROBE)
        hidden_BSH = self.body(ids_BS, torch.ones_like(ids_BS))
        with torch.no_grad():
            whole_BSV = self.model(input_ids=ids_BS.to(self.device), use_cache=False).logits
        try:
            parts, whole = self.head(hidden_BSH.flatten(0, 1)).float(), whole_BSV.flatten(0, 1).float()
        except AttributeError:  # its head asks its body for more than an output, as Falcon-H1's does
            return False
        return parts.shape == whole.shape and bool((parts - whole).abs().max() <= _SAME * whole.std())
