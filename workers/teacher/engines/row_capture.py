"""Capture where another engine holds the decode loop: it gives the logits of some texts, and takes their next tokens.

Answers that are given are walked through token by token, so that every distribution is seen whole.

Legend: n texts, V ids of the model.
"""

from __future__ import annotations

import numpy as np
import torch

from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.choice import TokenChoice
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.teacher.sampling.capture import CaptureBuffer
from workers.transfers import to_device


class RowCapture:
    """The texts of one call of `TeacherEngine.run`. `fed` tokens of each are given to the engine as its prompt; those
    known after them are taken one by one, and then new ones are chosen."""

    def __init__(self, requests: list[TextRequest], spec: CaptureSpec, stop_ids: set[int], fed: list[int]) -> None:
        self._spec, self._fed = spec, fed
        self._known = [r.prompt_token_ids + (r.answer_token_ids or []) for r in requests]
        self._choice = TokenChoice(requests, spec, stop_ids)
        self.buffer = CaptureBuffer(requests, spec)

    def next_tokens(self, texts_n: np.ndarray, made_n: np.ndarray, logits_nV: torch.Tensor) -> torch.Tensor:
        """Capture the distributions after `made` tokens beyond the fed ones, and say which tokens follow [n]."""
        positions_n = np.array([self._fed[t] for t in texts_n]) + made_n
        tokens_n = torch.zeros(len(texts_n), dtype=torch.long, device=logits_nV.device)
        chunk = self.buffer.rows_at_once(logits_nV.device)
        for first in range(0, len(texts_n), chunk):
            s = slice(first, first + chunk)
            tokens_n[s] = self._next_of_chunk(texts_n[s], positions_n[s], logits_nV[s])
        return tokens_n

    def _next_of_chunk(self, texts_n: np.ndarray, positions_n: np.ndarray, logits_nV: torch.Tensor) -> torch.Tensor:
        probs = self.buffer.probs(logits_nV)
        known_n = np.array([p < len(self._known[t]) for t, p in zip(texts_n, positions_n, strict=True)])
        known = [self._known[t][p] if k else 0 for t, p, k in zip(texts_n, positions_n, known_n, strict=True)]
        tokens_n = to_device(known, logits_nV.device)
        free = np.flatnonzero(~known_n)
        if len(free) == len(texts_n):
            tokens_n = self._choice(texts_n, positions_n, logits_nV, probs)
        elif len(free):
            at = to_device(free, logits_nV.device)
            own_nV = logits_nV[at, : self._spec.vocabulary]
            tokens_n[at] = self._choice(texts_n[free], positions_n[free], own_nV, BlockedProbs(own_nV))
        self.buffer.add_probs(texts_n, positions_n, probs, tokens_n)
        return tokens_n
