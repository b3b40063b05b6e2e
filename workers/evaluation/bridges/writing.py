"""Answers that a model goes on with, from whatever beginning: written greedily, cut and marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.evaluation.tasks.asked import AskedItems, TokenizedItem
from workers.evaluation.tasks.asking import cut, greedy
from workers.evaluation.tasks.items import WRITTEN
from workers.evaluation.tasks.marking import mark_texts
from workers.two_part_model import TwoPartModel


@dataclass(frozen=True)
class Question:
    """An item that is answered by writing, and how it is asked."""

    asked: TokenizedItem
    max_new_tokens: int
    stop: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its task and uid: two tasks may use the same uids."""
        return f"{self.asked.item.task}/{self.asked.item.uid}"


def questions_of(units: Sequence[AskedItems], domain: str) -> list[Question]:
    """The given items of a domain that are answered by writing; what was made of others is left out."""
    return [
        Question(one, unit.max_new_tokens, unit.stop)
        for unit in units
        for one in unit.items
        if one.item.domain == domain and one.item.variant_of is None and one.item.marking in WRITTEN
    ]


@dataclass(frozen=True)
class Begun:
    """A question, and the token ids with which its answer begins."""

    question: Question
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A whole answer."""

    ids: tuple[int, ...]
    """Without the id that ended it."""
    counting: int
    """How many of them, from the first, are before what ended it, be it an id or a string."""
    correct: bool


@dataclass(frozen=True)
class Writer:
    """A model, and what it takes to make text with it."""

    model: TwoPartModel
    vocabulary: int
    """Ids that count, the tokenizer's."""
    batch_tokens: int
    """Tokens at once, with padding."""
    stop_ids: Sequence[int]
    decode: Callable[[Sequence[int]], str]

    def finish(self, begun: Sequence[Begun]) -> list[Finished]:
        """Answers that go on greedily from their beginnings, each to the length that its question has in all, marked.
        One that begins with an end is not gone on with."""
        ended = [bool(one.ids) and one.ids[-1] in self.stop_ids for one in begun]
        first = [one.ids[:-1] if end else one.ids for one, end in zip(begun, ended, strict=True)]
        left = [
            0 if end else max(one.question.max_new_tokens - len(one.ids), 0)
            for one, end in zip(begun, ended, strict=True)
        ]
        prompts = [(*one.question.asked.prompt_token_ids, *ids) for one, ids in zip(begun, first, strict=True)]
        rest = greedy(self.model, prompts, left, self.vocabulary, self.batch_tokens, self.stop_ids)
        whole = [(*ids, *written) for ids, (written, _) in zip(first, rest, strict=True)]
        texts = [cut(ids, one.question.stop, self.decode) for one, ids in zip(begun, whole, strict=True)]
        marked = mark_texts([one.question.asked.item for one in begun], [(text, 0.0) for text, _ in texts])
        counting = [len(ids) if at is None else at - 1 for ids, (_, at) in zip(whole, texts, strict=True)]
        return [Finished(ids, n, a.correct) for ids, n, a in zip(whole, counting, marked, strict=True)]
