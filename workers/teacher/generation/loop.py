"""Answers as they grow: prompts wait for a slot, live in it token by token, and leave it to the next.

Each step runs one token of every live text. A text that ends leaves its slot at once; when an eighth of the slots are
free, waiting prompts are prefilled together and join, as far as memory holds all of them at their longest. What is
computed of a text does not depend on its neighbours but for the last bits of a sum, and which texts are neighbours
depends on the requests alone, on those that were given ahead or are left from before, and on that memory.

Legend: n texts at work, P tokens of a prompt, H hidden size, V tokenizer ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from workers.teacher.engine import TextRequest
from workers.teacher.generation.batches import waiting_order
from workers.teacher.generation.layout import CacheLayout
from workers.transfers import to_device
from workers.two_part_model import TwoPartModel

Choose = Callable[[np.ndarray, torch.Tensor], torch.Tensor]
"""From texts [n] and their last hidden states [n, H] to their next tokens [n]; captures what they are drawn from."""

Prefilled = Callable[[int, torch.Tensor], None]
"""Takes a text and the hidden states of its prompt [P, H]."""


@dataclass
class Ends:
    """What ends an answer: ids, strings, lengths."""

    stop_ids: set[int]
    decode: Callable[[list[int]], str]

    def reached(self, request: TextRequest, answer: list[int]) -> bool:
        """Whether an answer is complete with its last token."""
        if len(answer) >= request.max_new_tokens:
            return True
        if len(answer) < request.min_new_tokens:
            return False
        return answer[-1] in self.stop_ids or any(self._holds(s, answer) for s in request.stop)

    def _holds(self, stop: str, answer: list[int]) -> bool:
        # A string has at most as many tokens as bytes, and the first characters of a window may be broken.
        return stop in self.decode(answer[-len(stop.encode()) - 4 :])


class Joining(NamedTuple):
    """Texts that are prefilled together."""

    prompts: list[list[int]]
    """Distinct ones."""
    texts: list[int]
    """The texts that they begin."""
    row_of_text: list[int]
    """Of each, the place of its prompt."""

    @property
    def tokens(self) -> int:
        """Of the forward pass, padding included."""
        return len(self.prompts) * max(map(len, self.prompts))


class Generation:
    """Answers in the slots of one rank. `texts` holds prompt and answer so far, by the text's number."""

    def __init__(
        self, model: TwoPartModel, ends: Ends, layout: CacheLayout, *, slots: int, most: int | None = None
    ) -> None:
        """`most`: tokens of keys and values that memory is taken for, padding included; None is any number."""
        self._model, self._ends, self._layout, self._slots, self._most = model, ends, layout, slots, most
        self._requests: dict[int, TextRequest] = {}
        self._waiting: deque[int] = deque()
        self._cache = layout.new(slots, 1, most)
        self._live: list[int] = []
        self._given = 0
        self.texts: dict[int, list[int]] = {}

    def add(self, requests: Sequence[TextRequest]) -> range:
        """Let requests wait behind those that wait already; returns the numbers of their texts. Raises ValueError where
        `why_not` says why."""
        if (reason := self.why_not(requests)) is not None:
            raise ValueError(reason)
        numbers = range(self._given, self._given + len(requests))
        self._given += len(requests)
        self._requests |= zip(numbers, requests, strict=True)
        self.texts |= {n: list(r.prompt_token_ids) for n, r in zip(numbers, requests, strict=True)}
        self._waiting += [numbers[i] for i in waiting_order(range(len(requests)), requests)]
        return numbers

    def why_not(self, requests: Sequence[TextRequest]) -> str | None:
        """Why requests cannot be answered here, or None if they can: what the model's layers keep, or the length of a
        text alone."""
        if requests and self._layout.why_not is not None:
            return f"teacher.model: {self._layout.why_not}; have it score given answers, or take engine vllm"
        longest = max((len(r.prompt_token_ids) + r.max_new_tokens for r in requests), default=0)
        if self._most is not None and longest > self._most:
            return (
                f"teacher.kv_cache_memory: a rank has room for the keys and values of {self._most:,} tokens, but a "
                f"prompt and its answer may have {longest:,}; give it more, lower teacher.sampling.max_new_tokens, or "
                "take shorter prompts"
            )
        return None

    def unfinished(self, numbers: range) -> bool:
        """Whether some of these texts grow or wait still; those that were added before them do not."""
        return bool(self._waiting and self._waiting[0] in numbers) or any(text in numbers for text in self._live)

    def take(self, numbers: range) -> list[list[int]]:
        """Prompts and answers of texts that are finished, which are forgotten here."""
        for number in numbers:
            del self._requests[number]
        return [self.texts.pop(number) for number in numbers]

    @property
    def live(self) -> int:
        """Texts that a step has to run."""
        return len(self._live)

    def next_to_join(self, tokens: int) -> Joining | None:
        """The texts to prefill now: of those that wait the first for which there are slots and memory, as many as fit
        `tokens` with padding. None: not now, as too few would join."""
        if not self._waiting or self._slots - self.live < max(1, self._slots // 8):
            return None
        worth = min(max(1, self.live // 8), len(self._waiting))  # a few at a time would prefill again and again
        admitted = self._admitted()
        return self._packed(admitted, tokens) if len(admitted) >= worth else None

    def join(self, joining: Joining, choose: Choose, prefilled: Prefilled) -> None:
        """Prefill the prompts of texts that are next to join; their answers begin."""
        prompts, texts, row_of_text = joining
        for _ in texts:
            self._waiting.popleft()
        ids_BP, mask_BP = pad(prompts, left=True)
        cache = self._layout.new(len(prompts), ids_BP.shape[1] + 1)
        cache.first = [ids_BP.shape[1] - len(p) for p in prompts]
        hidden_BPH = self._model.body(ids_BP, mask_BP, cache, (mask_BP.cumsum(-1) - 1).clamp_min(0))
        cache.advance(ids_BP.shape[1])
        for text, row in zip(texts, row_of_text, strict=True):
            prefilled(text, hidden_BPH[row, ids_BP.shape[1] - len(prompts[row]) :])
        rows_n = to_device(row_of_text, self._model.device)
        grows = self._append(texts, choose(np.array(texts), hidden_BPH[rows_n, -1]))
        if any(grows):
            self._cache.join(cache, [row for row, more in zip(row_of_text, grows, strict=True) if more])
            self._live += [text for text, more in zip(texts, grows, strict=True) if more]

    def step(self, choose: Choose) -> None:
        """One more token of every live text."""
        last = [self.texts[t][-1] for t in self._live]
        positions = [len(self.texts[t]) - 1 for t in self._live]
        last_n, position_n, first_n = to_device(np.array([last, positions, self._cache.first]), self._model.device)
        mask = self._cache.mask(first_n, 1)
        hidden_n1H = self._model.body(last_n[:, None], mask, self._cache, position_n[:, None])
        self._cache.advance(1)
        grows = self._append(self._live, choose(np.array(self._live), hidden_n1H[:, -1]))
        for row in reversed(range(len(grows))):
            if not grows[row]:
                self._cache.leave(row)
                self._live[row] = self._live[-1]
                self._live.pop()

    def idle_step(self) -> None:
        """A pass of one token that nobody wants, so that peers' collectives are answered."""
        self._model.body(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long))

    def _admitted(self) -> list[int]:
        """The first texts that wait for which there are slots, and memory when they and the live ones are at their
        longest."""
        to_come = [self._requests[t].max_new_tokens - self._made(t) for t in self._live]
        length, tokens = 0, max(to_come, default=0)
        admitted: list[int] = []
        for text in islice(self._waiting, self._slots - self.live):
            request = self._requests[text]
            length = max(length, len(request.prompt_token_ids))
            tokens = max(tokens, request.max_new_tokens - 1)  # the first comes with the prompt
            rows = self.live + len(admitted) + 1
            if self._most is not None and rows * self._cache.columns_for(length, tokens) > self._most:
                break
            admitted.append(text)
        return admitted

    def _made(self, text: int) -> int:
        return len(self.texts[text]) - len(self._requests[text].prompt_token_ids)

    def _packed(self, admitted: Sequence[int], tokens: int) -> Joining:
        """The first of these texts, as many as fit `tokens`, and one at least."""
        prompts: list[list[int]] = []
        texts: list[int] = []
        row_of_text: list[int] = []
        for text in admitted:
            prompt = self._requests[text].prompt_token_ids
            if not prompts or prompt != prompts[-1]:
                longest = max(len(prompt), *map(len, prompts)) if prompts else len(prompt)
                apart = not self._layout.pads and bool(prompts) and len(prompt) != len(prompts[-1])
                if prompts and (apart or longest * (len(prompts) + 1) > tokens):
                    break
                prompts.append(prompt)
            texts.append(text)
            row_of_text.append(len(prompts) - 1)
        return Joining(prompts, texts, row_of_text)

    def _append(self, texts: Sequence[int], tokens_n: torch.Tensor) -> list[bool]:
        """Put the chosen tokens at the end of texts; whether each goes on."""
        grows = []
        for text, token in zip(texts, tokens_n.tolist(), strict=True):
            self.texts[text].append(token)
            request = self._requests[text]
            grows.append(not self._ends.reached(request, self.texts[text][len(request.prompt_token_ids) :]))
        return grows


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
