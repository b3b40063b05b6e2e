"""A model that adds two numbers by rule, place by place, where every carry is written and decides the rest.

"47+85=" is answered with ";c1;c1" (a filler and the carry of each place, the least one first), "=" and "132". Whatever
stands before, the next token follows from it: a carry that is written wrong is carried on, and a filler is nothing.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

PAD, END, PLUS, EQUALS, COLON, FILLER, OTHER_FILLER = 0, 1, 12, 13, 14, 15, 16
DIGITS, CARRIES = range(2, 12), (17, 18)
V = 19
_TEXTS = {PAD: "", END: "", PLUS: "+", EQUALS: "=", COLON: ":", FILLER: ";", OTHER_FILLER: ",", 17: "a", 18: "b"}
SURE, HESITATES = (9.0, 3.0), (3.0, 2.9)
"""Logits of the first and the second token; of all others 0. The first is given 98 % or 40 %."""


def decode(ids: Any) -> str:
    return "".join(str(i - 2) if i in DIGITS else _TEXTS[i] for i in ids)


def encode(text: str) -> tuple[int, ...]:
    ids = {t: i for i, t in _TEXTS.items() if t} | {str(d): d + 2 for d in range(10)}
    return tuple(ids[c] for c in text)


class CarryingAdder(torch.nn.Module):
    """It hesitates at "=" alone, where ":" does as well. `forgets_carries`: it gives every carry as none, and is sure
    of it."""

    base_model_prefix = "rule"

    def __init__(self, *, forgets_carries: bool = False) -> None:
        super().__init__()
        from transformers import LlamaConfig

        self.config = LlamaConfig(
            vocab_size=V, hidden_size=V + 1, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
        )
        self.rule = _Rule(forgets_carries)
        self.lm_head = torch.nn.Linear(V, V, bias=False)
        self.lm_head.weight.data = torch.eye(V)

    @property
    def base_model(self) -> torch.nn.Module:
        return self.rule

    def forward(self, **kwargs: Any) -> Any:
        return SimpleNamespace(logits=self.lm_head(self.rule(**kwargs).last_hidden_state))


class _Rule(torch.nn.Module):
    """Its hidden states are its logits. The cache holds the ids that were read."""

    def __init__(self, forgets_carries: bool) -> None:
        super().__init__()
        self.forgets_carries = forgets_carries

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        read = getattr(past_key_values, "read", input_ids[:, :0])
        whole = torch.cat([read, input_ids], 1)
        if past_key_values is not None:
            past_key_values.read = whole
        mask = torch.ones_like(whole) if attention_mask is None else attention_mask
        logits = torch.zeros(*input_ids.shape, V)
        for b, (ids, there) in enumerate(zip(whole, mask.bool(), strict=True)):
            for s in range(input_ids.shape[1]):
                end = read.shape[1] + s + 1
                first, second, (high, low) = self._next(ids[:end][there[:end]].tolist())
                logits[b, s, first], logits[b, s, second] = high, low
        return BaseModelOutputWithPast(last_hidden_state=logits)

    def _next(self, ids: list[int]) -> tuple[int, int, tuple[float, float]]:
        """The next token, the runner-up, and their logits."""
        if EQUALS not in ids or PLUS not in ids or ids.index(PLUS) > ids.index(EQUALS):
            return END, PAD, SURE  # no sum
        equals, plus = ids.index(EQUALS), ids.index(PLUS)
        a, b = ([i - 2 for i in reversed(number)] for number in (ids[:plus], ids[plus + 1 : equals]))
        answer, n = ids[equals + 1 :], len(a)
        sums = [a[i] + b[i] + (answer[2 * i - 1] == CARRIES[1] if i else 0) for i in range(n) if 2 * i <= len(answer)]
        k = len(answer)
        if k < 2 * n and k % 2 == 0:
            return FILLER, OTHER_FILLER, SURE
        if k < 2 * n:
            carry = sums[k // 2] > 9 and not self.forgets_carries
            return CARRIES[carry], CARRIES[not carry], SURE
        if k == 2 * n:
            return EQUALS, COLON, HESITATES
        if k > 3 * n + 1:
            return END, PAD, SURE
        place = 3 * n + 1 - k  # of the digit, n is that of the last carry
        digit = sums[place] % 10 if place < n else int(answer[2 * n - 1] == CARRIES[1])
        return DIGITS[digit], DIGITS[(digit + 1) % 10], SURE


def working(a: int, b: int) -> str:
    """The right answer to the sum of two numbers of as many digits."""
    text, carry = "", 0
    for one, other in zip(reversed(str(a)), reversed(str(b)), strict=True):
        carry = int(int(one) + int(other) + carry > 9)
        text += ";" + "ab"[carry]
    return f"{text}={a + b:0{len(str(a)) + 1}}"
