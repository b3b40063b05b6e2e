"""The teacher's and a student's distributions at every target position of some texts, made again whenever asked for.

20,000 positions of 49,152 logits are 3.9 GB, their hidden states 46 MB: the models run once, their heads as often as
needed. The student is the teacher without some layers around its middle, untrained (4 of SmolLM2-135M's 30: KL .8).

Legend: T target positions of all texts, D hidden size, V ids of the tokenizer.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Protocol

import torch

from workers.logit_map import logit_map
from workers.student.models.dropped_layers import drop_layers
from workers.targets.heads import TeacherHead
from workers.teacher.engine import TextRequest
from workers.teacher.generation.loop import pad

_BATCH_TOKENS = 2048
"""Tokens of one forward pass, padding included."""

_LEFT_OUT = 4 / 30
"""Share of the teacher's layers that the student has not."""


class Distributions(Protocol):
    """Distributions at T positions, text after text; each text's first token is no target."""

    texts: list[TextRequest]
    vocabulary: int
    tokens_T: torch.Tensor
    student_TD: torch.Tensor
    """What goes into the student's head."""

    def teacher_logits(self, s: slice) -> torch.Tensor: ...
    def student_logits(self, s: slice) -> torch.Tensor: ...


class Scored:
    """Those of a teacher and a student on given texts."""

    @torch.no_grad()
    def __init__(self, teacher: Any, student: Any, vocabulary: int, texts: list[TextRequest]) -> None:
        self.texts, self.vocabulary = texts, vocabulary
        sequences = [t.prompt_token_ids for t in texts]
        self.tokens_T = torch.tensor([i for ids in sequences for i in ids[1:]])
        self._teacher_head, self._student_head = teacher.get_output_embeddings(), student.get_output_embeddings()
        self._logit_map = logit_map(teacher.config)
        self.teacher_TD, self.student_TD = _hidden(teacher, sequences), _hidden(student, sequences)

    @torch.no_grad()
    def teacher_logits(self, s: slice) -> torch.Tensor:
        return self._teacher_head(self.teacher_TD[s])[:, : self.vocabulary]

    def head(self) -> TeacherHead:
        """The teacher's head, as a `hidden` store has it."""
        bias_V = self._teacher_head.bias
        weight_VH = self._teacher_head.weight.detach()[: self.vocabulary]
        return TeacherHead(weight_VH, None if bias_V is None else bias_V.detach()[: self.vocabulary], self._logit_map)

    @torch.no_grad()
    def student_logits(self, s: slice) -> torch.Tensor:
        return self._student_head(self.student_TD[s])[:, : self.vocabulary]


class SplitIds:
    """The same positions over a larger vocabulary: each id is split into several, then all is sharpened until the
    mean entropy is what it was. Which ids belong together in a context stays real."""

    def __init__(self, base: Distributions, vocabulary: int, tokens: int) -> None:
        """Of the first texts of `base`, with at least `tokens` target positions."""
        self._base, self.vocabulary = base, vocabulary
        held = list(accumulate(len(t.prompt_token_ids) - 1 for t in base.texts))
        count = next((i + 1 for i, n in enumerate(held) if n >= tokens), len(held))
        self.texts = base.texts[:count]
        self.tokens_T, self.student_TD = base.tokens_T[: held[count - 1]], base.student_TD[: held[count - 1]]
        V, generator = base.vocabulary, torch.Generator().manual_seed(0)
        self._parent_V = torch.arange(vocabulary) % V
        share_V = -3.0 * (1 + torch.arange(vocabulary) // V).log() + torch.randn(vocabulary, generator=generator)
        total_V = torch.zeros(V).index_add_(0, self._parent_V, share_V.exp())
        self._log_share_V = share_V - total_V.log()[self._parent_V]
        self._sharpness = self._sharpness_for()

    def teacher_logits(self, s: slice) -> torch.Tensor:
        return self._split(self._base.teacher_logits(s)).mul_(self._sharpness)

    def student_logits(self, s: slice) -> torch.Tensor:
        return self._split(self._base.student_logits(s)).mul_(self._sharpness)

    def _split(self, logits_BV: torch.Tensor) -> torch.Tensor:
        return logits_BV[:, self._parent_V].add_(self._log_share_V)

    def _sharpness_for(self) -> float:
        """By bisection on some positions from all over the texts."""
        few = torch.linspace(0, len(self.tokens_T) - 1, min(128, len(self.tokens_T))).long()
        logits_BV = torch.cat([self._base.teacher_logits(slice(i, i + 1)) for i in few.tolist()])
        wanted, split_BV = mean_entropy(logits_BV), self._split(logits_BV)
        low, high = 0.5, 8.0
        for _ in range(16):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if mean_entropy(split_BV * middle) > wanted else (low, middle)
        return (low * high) ** 0.5


def mean_entropy(logits_BV: torch.Tensor) -> float:
    """Mean Shannon entropy in nats."""
    logp_BV = logits_BV.float().log_softmax(-1)
    return float(-(logp_BV.exp() * logp_BV).sum(-1).mean())


def student_of(folder: str, texts: list[TextRequest]) -> Any:
    """The model of a folder without every second layer around its middle."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layers = len(model.get_decoder().layers)
    left_out = max(1, round(layers * _LEFT_OUT))
    with torch.no_grad():
        drop_layers(model, [layers // 2 - left_out + 1 + 2 * i for i in range(left_out)], [texts[0].prompt_token_ids])
    return model


def _hidden(model: Any, sequences: list[list[int]]) -> torch.Tensor:
    """What goes into the head at every position before a target, text after text [T, D]."""
    lengths = [len(ids) - 1 for ids in sequences]
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    hidden_TD = torch.empty(sum(lengths), model.get_output_embeddings().weight.shape[1])
    for batch in _batches(sequences):
        ids_BS, mask_BS = pad([sequences[i] for i in batch], left=False)
        out_BSD = model.get_decoder()(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).last_hidden_state
        for b, i in enumerate(batch):
            hidden_TD[firsts[i] : firsts[i] + lengths[i]] = out_BSD[b, : lengths[i]]
    return hidden_TD


def _batches(sequences: list[list[int]]) -> list[list[int]]:
    """Texts of similar length together."""
    batches: list[list[int]] = []
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
        if not batches or len(sequences[batches[-1][0]]) * (len(batches[-1]) + 1) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches
