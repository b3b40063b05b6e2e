"""What becomes of a unit's answers after they are made: which are kept, and why others are rejected. Loads no torch.

Each training answer is asked in turn whether it holds a withheld word, is too short or too long, was cut off, repeats
another answer to its prompt, or is refused by the user's own filter. The first reason counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import AnswersConfig
from workers.teacher.units.answer_filter import AnswerFilter, FilterCode
from workers.units import Prompt


@dataclass(frozen=True)
class AnswerRules:
    """Everything that decides on answers, as it crosses to a replica."""

    settings: AnswersConfig = field(default_factory=AnswersConfig)
    withhold: dict[str, list[str]] = field(default_factory=dict)
    """Words that no training text of a domain may hold."""
    filter: FilterCode | None = None
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer of the teacher."""

    def record(self) -> dict[str, Any]:
        """What the header of a store says of them: the rules that are in force, the filter by its hash."""
        usual = AnswersConfig().model_dump()
        said = {k: v for k, v in self.settings.model_dump().items() if k == "duplicates" or v != usual[k]}
        if self.filter is not None:
            said["filter"] = f"{self.filter.file}:{self.filter.function}"
            said["filter_sha256"] = self.filter.sha256
        return said


@dataclass(frozen=True)
class Answer:
    """One answer, in its unit's row `row`."""

    row: int
    prompt: Prompt
    sample: int
    before: str
    """The prompt's text, as the teacher saw it."""
    text: str
    """Without the end token."""
    tokens: int
    """The end token included."""
    ended: bool
    """Whether it is complete: by an end token, a stop string, or because it was given."""

    def about(self) -> dict[str, Any]:
        """What a filter is told beside the texts."""
        return {
            "id": self.prompt.id,
            "sample": self.sample,
            "domains": self.prompt.domains,
            "teacher": self.prompt.teacher,
            "tokens": self.tokens,
            "ended": self.ended,
            "given": self.prompt.answer_token_ids is not None,
        }


class AnswerSelection:
    """The rules at work in one process. The filter is loaded when the first answer comes."""

    def __init__(self, rules: AnswerRules) -> None:
        self._rules = rules
        self._filter: AnswerFilter | None = None

    def __call__(self, targets: UnitTargets, prompts: list[Prompt]) -> tuple[UnitTargets, list[dict[str, Any]]]:
        """The rows of a unit that are kept, and {id, sample, reason} of each other one.

        Raises ValueError if the filter cannot be loaded.
        """
        keep, rejected = [], []
        seen: set[tuple[str, str]] = set()
        for answer in answers_of(targets, prompts, self._rules.stop_ids):
            reason = self._reason(answer, targets.temperature, targets.texts[answer.row], seen)
            if reason is None:
                keep.append(answer.row)
            else:
                rejected.append({"id": answer.prompt.id, "sample": answer.sample, "reason": reason})
        return (targets.select(np.array(keep, np.int64)) if rejected else targets), rejected

    def _reason(self, answer: Answer, temperature: float, whole: str, seen: set[tuple[str, str]]) -> str | None:
        if (word := self._withheld(answer.prompt, whole)) is not None:
            return f"contains the withheld {word!r}"
        if (reason := length_reason(answer, self._rules.settings)) is not None:
            return reason
        if not answer.ended and self._rules.settings.unfinished == "drop":
            return f"is cut off at {answer.prompt.max_new_tokens} tokens"
        if drops_duplicates(self._rules.settings, answer.prompt, temperature):
            if (answer.prompt.id, whole) in seen:
                return "repeats another answer to its prompt"
            seen.add((answer.prompt.id, whole))
        if self._rules.filter is None:
            return None
        if self._filter is None:
            self._filter = AnswerFilter(self._rules.filter)
        return self._filter.reason(answer.before, answer.text, answer.about())

    def _withheld(self, prompt: Prompt, text: str) -> str | None:
        return next((w for d in prompt.domains for w in self._rules.withhold.get(d, ()) if w in text), None)


def answers_of(targets: UnitTargets, prompts: list[Prompt], stop_ids: frozenset[int]) -> Iterator[Answer]:
    """The answers of a unit, row by row."""
    prompt_of = {p.id: p for p in prompts}
    begins = np.cumsum(targets.lengths) - targets.lengths
    for row, (begin, length) in enumerate(zip(begins.tolist(), targets.lengths.tolist(), strict=True)):
        prompt = prompt_of[targets.prompt_uids[row]]
        ids, ends = targets.tokens[begin : begin + length], targets.ends[begin : begin + length]
        count = length - len(prompt.prompt_token_ids)
        closed = count > 0 and int(ids[-1]) in stop_ids
        data = targets.texts[row].encode()
        start = _offset(ends, len(prompt.prompt_token_ids))
        text = data[start : _offset(ends, length - closed)].decode(errors="replace")
        whole = prompt.answer_token_ids is not None or count < prompt.max_new_tokens
        yield Answer(
            row=row,
            prompt=prompt,
            sample=int(targets.samples[row]),
            before=data[:start].decode(errors="replace"),
            text=text,
            tokens=count,
            ended=whole or closed or any(s in text for s in prompt.stop),
        )


def length_reason(answer: Answer, settings: AnswersConfig) -> str | None:
    """Why the length of an answer is not one that is kept; None if it is."""
    for unit, length in (("tokens", answer.tokens), ("characters", len(answer.text.strip()))):
        least, most = getattr(settings, f"min_{unit}"), getattr(settings, f"max_{unit}")
        if length < least:
            return f"is shorter than {least} {unit}"
        if most is not None and length > most:
            return f"is longer than {most} {unit}"
    return None


def drops_duplicates(settings: AnswersConfig, prompt: Prompt, temperature: float) -> bool:
    """Whether of equal answers to a prompt only the first is kept, at the temperature of the capture."""
    if settings.duplicates != "auto":
        return settings.duplicates == "drop"
    return prompt.temperature != temperature or prompt.top_p < 1 or prompt.min_new_tokens > 0


def _offset(ends: np.ndarray, tokens: int) -> int:
    """The byte of a text at which its first tokens end."""
    return int(ends[tokens - 1]) if tokens else 0
