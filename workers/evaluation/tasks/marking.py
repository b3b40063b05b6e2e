"""Which answers are right. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from workers.evaluation.tasks.formats import TextFormat, follows
from workers.evaluation.tasks.items import TaskAnswer, TaskItem
from workers.evaluation.tasks.sandbox import full_matches, runs_to_its_end


def mark_choice(item: TaskItem, logprobs: Sequence[float], normalise: Literal["none", "characters"]) -> TaskAnswer:
    """The answer of a model that gives the choices of an item these log-probabilities: sums over their tokens.

    The most probable choice is taken (`acc` of lm-evaluation-harness); `characters` divides each sum by the characters
    of its choice before (its `acc_norm`). Confidence is a probability among the choices in either case, by softmax of
    the sums. Of equal ones the first counts.
    """
    sums_C = np.asarray(logprobs, np.float64)
    lengths_C = np.array([len(choice) if normalise == "characters" else 1 for choice in item.choices])
    taken, right = int(np.argmax(sums_C / lengths_C)), item.choices.index(item.answer)
    odds_C = np.exp(sums_C - sums_C.max())
    odds_C /= odds_C.sum()
    return TaskAnswer(
        uid=item.uid,
        correct=taken == right,
        given=item.choices[taken],
        confidence=float(odds_C[taken]),
        answer_probability=float(odds_C[right]),
        logprobs=tuple(map(float, sums_C)),
    )


def mark_texts(
    items: Sequence[TaskItem], written: Sequence[tuple[str, float]], form: TextFormat | None = None
) -> list[TaskAnswer]:
    """The answers of a model that wrote texts, each given with its log-probability. Programs are run. `form` is what
    the texts are to look like; items of marking `format` need one."""
    patterns = [(i.answer, text.strip()) for i, (text, _) in zip(items, written, strict=True) if i.marking == "regex"]
    matches = iter(full_matches(patterns))
    formed = [None] * len(items) if form is None else follows([text for text, _ in written], form)
    answers = []
    for item, (text, logprob), has_form in zip(items, written, formed, strict=True):
        if item.marking == "exact":
            correct = text.strip() == item.answer.strip()
        elif item.marking == "regex":
            correct = next(matches)
        elif item.marking == "format":
            assert has_form is not None, "reading items refuses those without a format"
            correct = has_form
        else:
            correct = any(runs_to_its_end(f"{program}\n\n{item.tests}\n") for program in _programs(item, text))
        answers.append(TaskAnswer(item.uid, correct, text, math.exp(logprob), follows_format=has_form))
    return answers


_FENCE = "```"


def _programs(item: TaskItem, text: str) -> Iterator[str]:
    """What a model wrote as a program, of which one must pass: by itself, or what stands in its first fenced block; and
    as the continuation of the code that its prompt is."""
    _, opening, rest = text.partition(_FENCE)
    if opening:
        yield rest.partition(_FENCE)[0].partition("\n")[2]  # the first line may name the language
        return
    yield text
    yield item.prompt + text
