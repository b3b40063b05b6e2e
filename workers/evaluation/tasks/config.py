"""Which questions with known answers models are asked, and how well a student must do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.settings import Settings, Share
from workers.evaluation.tasks.items import Edit, Marking


class TaskConfig(Settings):
    """A file of questions with known answers. A plain string means `path`."""

    path: str
    """JSONL of {prompt, choices, answer} (the answer as its text among the choices, or as its index from 0),
    {prompt, answer} or {prompt, tests}, each with `domain` and, if it likes, `id`, and `counterfactual`: the same
    question with other names or terms and the same right answer, for bias by swapped names. The other kinds of file
    that `prompts` reads are read too."""

    domain: str | None = None
    """The domain that all of its items are of. Null: each row says its own."""

    marking: Marking | None = None
    """How an answer is judged. `choice`: the most probable of `choices` is the right one. `exact`: what is written, but
    for white space around it, is `answer`. `regex`: `answer` is a regular expression that matches all of it. `tests`:
    `tests` is Python that runs behind it without an error (needs `run_code`). Null: by what each row has, `choices`,
    `tests` or `answer`, the last being exact."""

    chat: bool = False
    """Whether a prompt is the user's turn in the teacher's chat template, with the system prompt and the settings of
    its domain. False: text to be continued."""

    delimiter: str = " "
    """What stands between a text and each of its choices where neither has white space there. Nothing in a chat."""

    normalise: Literal["none", "characters"] = "none"
    """Which choice is taken. `none`: the most probable one (`acc` of lm-evaluation-harness). `characters`: that of the
    highest log-probability by character (its `acc_norm`), for choices of very different lengths."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Tokens that are written at most where there are no choices; the most probable one each time."""

    stop: list[str] = []
    """Strings before which what is written is cut, beside the ids that end an answer. A model that only continues text
    needs one, such as a line break."""

    limit: int | None = Field(default=None, ge=1)
    """Rows read at most. Null reads all."""

    edits: list[Edit] = []
    """Variants of each item that are asked too, for what edits cost a specialist beyond its teacher (the parrot test).
    Of any item: `shuffled`, `none_of_them` and `no_question` (of choices), `irrelevant` (another item's sentence before
    the question), `order` (its sentences but the last), `names` (by the table below). Of rows with a `template`
    (workers/evaluation/variants/templates.py) `numbers`, `negation`, `entity` and `names`. What cannot be done to an
    item is left out and counted."""

    names: dict[str, list[str]] = {}
    """By name or term, what may stand in its place in `names` without the answer being another."""

    variants: int = Field(default=1, ge=1)
    """Variants of a template by each of its edits, at most."""


class GateConfig(Settings):
    """What a specialist must reach. `stillhouse evaluate` and `run` exit with 3 where one does not."""

    retention: Share = Field(gt=0, le=1)
    """Least part of its teacher's score that a specialist must keep in each domain of its mix that has items: what
    counts is the lower end of the 95 % interval."""
