"""A question with a known answer, and what a model made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Marking = Literal["choice", "exact", "regex", "tests", "format"]
"""`choice`: the most probable of several continuations. The others mark a greedy continuation: equal to the answer but
for spaces around it; a regular expression that matches all of it; tests that its code passes; the task's format."""

WRITTEN: tuple[Marking, ...] = ("exact", "regex", "tests")
"""Those of answers that are written and may be wrong."""

Edit = Literal[
    "names", "order", "irrelevant", "numbers", "negation", "entity", "shuffled", "none_of_them", "no_question"
]
"""What was done to an item to make a variant. The first three leave the answer as it is, the next three change it. The
last three are of choices: in another order, the right one replaced by "none of the others", without the question."""

CHANGES_ANSWER: tuple[Edit, ...] = ("numbers", "negation", "entity")


@dataclass(frozen=True)
class TaskItem:
    """One question."""

    uid: str
    """Its name, of which there is one in its task."""
    task: str
    domain: str
    prompt: str
    """Text, or the user's turn where the task is asked as a chat."""
    marking: Marking
    choices: tuple[str, ...] = ()
    """Continuations to choose from."""
    answer: str = ""
    """The right one of `choices`, the text to be given, or a regular expression."""
    tests: str = ""
    """Python that fails unless the continuation, which stands before it, is right."""
    variant_of: str | None = None
    """The uid of the item that this one was made of; None of one that was given."""
    edit: Edit | None = None
    """What was done to that item."""
    reviewed: bool = True
    """False of a variant whose answer a rule made and nobody has looked at, though the rule may be wrong of it."""


@dataclass(frozen=True)
class TaskAnswer:
    """What one model made of one item."""

    uid: str
    correct: bool
    given: str
    """The choice that it took, or what it wrote."""
    confidence: float
    """Of choices its probability among them, else of its text (the product of its tokens' probabilities)."""
    answer_probability: float = 0.0
    """Of choices the right one's probability among them."""
    logprobs: tuple[float, ...] = field(default=())
    """Of choices, each one's log-probability."""
    follows_format: bool | None = None
    """Whether what it wrote has the format of the task; None where it wrote nothing, or the task has none."""
