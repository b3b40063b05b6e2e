"""Which token each text goes on with: its own random numbers, its own settings.

Legend: n texts, V tokenizer ids.
"""

from __future__ import annotations

import numpy as np
import torch

from workers.randomness import position_uniforms
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.next_token import next_token
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.transfers import to_device


class TokenChoice:
    """Chooses tokens of some requests' answers. `stop_ids` are barred until an answer has its least length."""

    def __init__(self, requests: list[TextRequest], spec: CaptureSpec, stop_ids: set[int]) -> None:
        self._requests, self._spec = requests, spec
        self._stop_ids = sorted(i for i in stop_ids if i < spec.vocabulary)
        self._uniforms: dict[int, np.ndarray] = {}

    def __call__(
        self, texts_n: np.ndarray, positions_n: np.ndarray, logits_nV: torch.Tensor, made: BlockedProbs
    ) -> torch.Tensor:
        """The tokens at `positions` of texts [n], from raw logits; `made` are the probabilities of them."""
        plain = made if self._spec.temperature == 1 else None
        device = logits_nV.device
        numbers = np.array([self._uniform(t, p) for t, p in zip(texts_n, positions_n, strict=True)])
        uniform_n = to_device(numbers, device)
        by_settings = self._by_settings(texts_n, positions_n)
        if plain is not None and len(by_settings) == 1:
            ((temperature, top_p, barred),) = by_settings
            if not barred:
                return next_token(plain, uniform_n, temperature, top_p)
        tokens_n = torch.zeros(len(texts_n), dtype=torch.long, device=device)
        for (temperature, top_p, barred), rows in by_settings.items():
            at = to_device(rows, device)
            own_nV = logits_nV[at, : self._spec.vocabulary].float()
            if barred:
                own_nV.index_fill_(1, to_device(self._stop_ids, device), -torch.inf)
            tokens_n[at] = next_token(BlockedProbs(own_nV), uniform_n[at], temperature, top_p)
        return tokens_n

    def _by_settings(self, texts_n: np.ndarray, positions_n: np.ndarray) -> dict[tuple[float, float, bool], list[int]]:
        """Rows by temperature, nucleus, and whether the end is barred still."""
        rows: dict[tuple[float, float, bool], list[int]] = {}
        for row, (text, position) in enumerate(zip(texts_n, positions_n, strict=True)):
            r = self._requests[text]
            barred = bool(self._stop_ids) and position - len(r.prompt_token_ids) + 1 < r.min_new_tokens
            rows.setdefault((r.temperature, r.top_p, barred), []).append(row)
        return rows

    def _uniform(self, text: int, position: int) -> float:
        if text not in self._uniforms:
            r = self._requests[text]
            length = len(r.prompt_token_ids) + r.max_new_tokens
            self._uniforms[text] = position_uniforms(self._spec.seed, "token", r.prompt_uid, r.sample, length)
        return float(self._uniforms[text][position])
