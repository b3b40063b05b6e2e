"""Which questions with known answers models are asked, and how well a student must do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.settings import Settings, Share
from workers.evaluation.tasks.formats import check_regex, check_schema
from workers.evaluation.tasks.items import Edit, Marking


class FormatConfig(Settings):
    """What models are to write: one of both. White space around a text does not count."""

    regex: str | None = None
    """A regular expression that matches all of a text. Null: `json_schema` says it."""

    json_schema: dict[str, Any] | str | None = None
    """A JSON schema that a text, which is JSON and nothing else, follows: the schema itself, or the file that it is in
    (relative to the configuration). What it refers to must be in it. Null: `regex` says it."""

    @field_validator("regex")
    @classmethod
    def _is_regex(cls, value: str | None) -> str | None:
        if value is not None:
            check_regex(value)
        return value

    @field_validator("json_schema", mode="before")
    @classmethod
    def _is_schema(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            check_schema(value)
        return value

    @model_validator(mode="after")
    def _is_one(self) -> FormatConfig:
        if (self.regex is None) == (self.json_schema is None):
            raise ValueError("give one of regex and json_schema")
        return self


class TaskConfig(Settings):
    """A file of questions with known answers. A plain string means `path`."""

    path: str
    """JSONL of {prompt, choices, answer} (the answer as its text among the choices, or as its index from 0),
    {prompt, answer} or {prompt, tests}, or {prompt} where there is a `format`, each with `domain` and, if it likes,
    `id`, and `counterfactual`: the same question with other names or terms and the same right answer, for bias by
    swapped names. The other kinds of file that `prompts` reads are read too."""

    domain: str | None = None
    """The domain that all of its items are of. Null: each row says its own."""

    marking: Marking | None = None
    """How an answer is judged. `choice`: the most probable of `choices` is the right one. `exact`: what is written, but
    for white space around it, is `answer`. `regex`: `answer` is a regular expression that matches all of it. `tests`:
    `tests` is Python that runs behind it without an error (needs `run_code`). `format`: it has the `format`, whatever
    it says. Null: by what each row has, `choices`, `tests` or `answer`, the last being exact, or none of them."""

    format: FormatConfig | None = None
    """What models are to write, {regex: ...} or {json_schema: ...}: the report says which share of texts has the
    format, beside and whether or not they are right. Null: anything."""

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

    @model_validator(mode="after")
    def _can_have_format(self) -> TaskConfig:
        if self.marking == "format" and self.format is None:
            raise ValueError("marking: format, and there is no format; give one, or another marking")
        if self.marking == "choice" and self.format is not None:
            raise ValueError("format: is of texts that are written, and marking is choice; take one of them out")
        return self


class GateConfig(Settings):
    """What a specialist must reach. `stillhouse evaluate` and `run` exit with 3 where one does not."""

    retention: Share = Field(gt=0, le=1)
    """Least part of its teacher's score that a specialist must keep in each domain of its mix that has items: what
    counts is the lower end of the 95 % interval."""
