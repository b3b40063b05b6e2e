"""Answering a batch of prompts: the forward passes with their cache, and which token stands where.

Legend: B texts of the batch, S tokens, V model vocabulary, n live texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workers.randomness import position_uniforms
from workers.teacher.capture import CaptureBuffer
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.masses import Masses
from workers.teacher.next_token import next_token


class Generation:
    """The texts of one batch as they grow. All prompts of a batch share their sampling settings."""

    def __init__(
        self, model: Any, device: str, requests: list[TextRequest], spec: CaptureSpec, stop_ids: set[int]
    ) -> None:
        self._model, self._device, self._requests, self._stop_ids = model, device, requests, stop_ids
        self.texts = [list(r.prompt_ids) for r in requests]
        self.live = np.array([r.max_new_tokens > 0 for r in requests], bool)
        self._uniforms = [
            position_uniforms(spec.seed, "token", r.prompt_id, r.sample, len(r.prompt_ids) + r.max_new_tokens)
            for r in requests
        ]
        self._spec = spec
        self._mask_BS = torch.zeros(0)
        self._cache: Any = None

    def prefill(self, *, all_positions: bool) -> torch.Tensor:
        """Run the prompts; logits of every prompt position [B, S, V] (left-padded), or of the last one only."""
        ids_BS, mask_BS = pad(self.texts, left=True)
        self._mask_BS = mask_BS.to(self._device)
        return self._forward(ids_BS.to(self._device), keep=0 if all_positions else 1)

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Run one more token of every text; logits of the next [B, V]."""
        self._mask_BS = torch.cat([self._mask_BS, self._mask_BS.new_ones(len(tokens_B), 1)], 1)
        return self._forward(tokens_B[:, None].to(self._device), keep=1)[:, -1]

    def choose(self, logits_BV: torch.Tensor, buffer: CaptureBuffer, rows: np.ndarray) -> torch.Tensor:
        """Sample the next token of every live text and capture the distribution it came from; 0 elsewhere [B].

        `rows` names the texts of the batch in the buffer.
        """
        live = np.flatnonzero(self.live)
        logits_nV = logits_BV[torch.as_tensor(live, device=logits_BV.device)]
        positions = np.array([len(self.texts[b]) for b in live])
        uniform_n = torch.tensor(
            [self._uniforms[b][p] for b, p in zip(live, positions, strict=True)], dtype=torch.float64
        )
        request = self._requests[0]
        masses = buffer.masses(logits_nV)
        raw = masses if self._spec.temperature == 1 else Masses(logits_nV[:, : self._spec.vocabulary])
        tokens_n = next_token(raw, uniform_n.to(logits_nV.device), request.temperature, request.top_p)
        buffer.add_masses(rows[live], positions, masses, tokens_n)
        tokens_B = torch.zeros(len(logits_BV), dtype=torch.long, device=logits_BV.device)
        tokens_B[torch.as_tensor(live, device=tokens_B.device)] = tokens_n
        return tokens_B

    def append(self, tokens_B: torch.Tensor) -> None:
        """Put the chosen tokens at the end of the live texts, and end those that are complete."""
        for b, token in enumerate(tokens_B.tolist()):
            if self.live[b]:
                self.texts[b].append(token)
                made = len(self.texts[b]) - len(self._requests[b].prompt_ids)
                self.live[b] = token not in self._stop_ids and made < self._requests[b].max_new_tokens

    def _forward(self, ids_BS: torch.Tensor, keep: int) -> torch.Tensor:
        positions_BS = (self._mask_BS.cumsum(-1) - 1).clamp_min(0)[:, -ids_BS.shape[1] :]
        out = self._model(
            input_ids=ids_BS,
            attention_mask=self._mask_BS,
            position_ids=positions_BS,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self._cache = out.past_key_values
        return out.logits


def pad(sequences: list[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, S] padded with 0, and their attention mask."""
    S = max(map(len, sequences))
    ids_BS = torch.zeros(len(sequences), S, dtype=torch.long)
    mask_BS = torch.zeros_like(ids_BS)
    for b, sequence in enumerate(sequences):
        place = slice(S - len(sequence), S) if left else slice(0, len(sequence))
        ids_BS[b, place] = torch.tensor(sequence)
        mask_BS[b, place] = 1
    return ids_BS, mask_BS
