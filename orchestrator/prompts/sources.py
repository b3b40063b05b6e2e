"""Reading prompt sources: rows, each usable or rejected with its reason, and which split they are. Touches no model."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchestrator.config.schema import PromptSource, RunConfig
from orchestrator.prompts.reading.files import SKIPPED_ROW, DataFile, Row, data_files, rows_by_footers, rows_of
from orchestrator.prompts.reading.formats import ABOUT, TABLE, AmbiguousSource, RowReader
from orchestrator.prompts.reading.messages import Message
from orchestrator.prompts.reading.places import PlacedRows, rows_at_places
from orchestrator.prompts.reading.sample import EvenSample
from workers.splits import HELDOUT, TRAIN


@dataclass(frozen=True)
class RawPrompt:
    """A row that could be read, before tokenization. Exactly one of `prompt` and `messages` is given."""

    id: str
    source: str
    domains: tuple[str, ...]
    split: str | None
    prompt: str | None
    """Text to be continued; "" where `answer` is the whole text."""
    messages: list[Message] | None
    """A conversation to be answered."""
    answer: str | Message | None
    """What is given as its continuation: text, or the assistant's turn."""
    tools: tuple[dict[str, Any], ...] | None = None
    """Functions that the conversation may call."""
    row: int = field(default=-1, compare=False)
    """Its place in its file, from 0."""
    file: str = field(default="", compare=False)
    """Its file, where its source is several."""

    @property
    def answer_text(self) -> str | None:
        """The given answer as text, without a template around it."""
        return self.answer["content"] if isinstance(self.answer, dict) else self.answer

    def rejected(self, reason: object) -> RejectedRow:
        return RejectedRow(self.source, self.row, self.id, str(reason), self.file)


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used, and why."""

    source: str
    row: int
    id: str | None
    reason: str
    file: str = ""

    def __str__(self) -> str:
        row = f"row {self.row + 1}" if self.row >= 0 else "a row"
        return f"{self.source} {self.file + ' ' if self.file else ''}{row}: {self.reason}"


@dataclass
class SourceRows:
    """The rows of a source, or of a sample of it."""

    rows: int = 0
    """Rows that the source has, usable or not, and whether they were read or not."""
    read: int = 0
    """How many of them were read: all, or a sample spread evenly."""
    exact: bool = True
    """Whether `rows` were counted; else they are reckoned from the bytes of those that were read."""
    placed: bool = False
    """Whether it is large, and the sample is of rows from places all over it."""
    prompts: list[RawPrompt] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    read_as: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Columns that rows were read from, and how many rows."""
    unread: Counter[str] = field(default_factory=Counter)
    """Columns that were not read, of usable rows."""


Screened = dict[str, SourceRows]
"""By source."""


Reading = Literal["all", "most", "few"]
"""How much of the sources is read: all rows; all rows but of large sources; of each at most so many. Of the others a
sample is, spread evenly over them."""

FEW_ROWS, LARGE_SAMPLE = 1024, 4096
"""Rows that are read of each source where few are wanted; and of a large one where all are but of those."""


def screen(name: str, source: PromptSource, reading: Reading = "all") -> SourceRows:
    """The usable rows of a source and the broken ones, or those of a sample. Raises ValueError if it is not there, or
    can be read in two ways."""
    found, reader = SourceRows(), RowReader(source)
    seen: set[str] = set()
    for row in _rows(source, reading, found):
        try:
            prompt, columns = _raw_prompt(name, reader, row)
        except AmbiguousSource as error:
            raise ValueError(_where(error, row)) from None
        except ValueError as error:
            found.rejected.append(_rejected(name, row, error))
            continue
        if prompt.id in seen:
            found.rejected.append(prompt.rejected(repeated_id(prompt.id)))
            continue
        seen.add(prompt.id)
        found.prompts.append(prompt)
        found.read_as[columns] += 1
        found.unread.update(row.value.keys() - {*columns, *ABOUT})
    return found


def repeated_id(identity: str) -> str:
    """Why a row is rejected that has the id of an earlier one."""
    return f"repeats the id {identity!r}"


def _rows(source: PromptSource, reading: Reading, found: SourceRows) -> Iterator[Row]:
    """The rows to screen, which are counted in `found`."""
    if reading != "all" and (placed := _placed(source, FEW_ROWS if reading == "few" else LARGE_SAMPLE)) is not None:
        found.rows, found.read, found.exact, found.placed = placed.rows, len(placed.read), placed.exact, True
        yield from placed.read
        return
    if reading != "few":
        for row in read_rows(source):
            found.rows = found.read = found.rows + 1
            yield row
        return
    sample = EvenSample(FEW_ROWS)
    for number, row in enumerate(read_rows(source, sample)):
        found.rows = number + 1
        if row is not SKIPPED_ROW:
            sample.keep(number, row)
    found.read = len(sample.kept)
    yield from sample.kept


def _placed(source: PromptSource, most: int) -> PlacedRows | None:
    """Rows of a source from places all over it, where it is large; else None."""
    if source.limit is not None or source.dataset_config is not None:
        return None
    files = source_files(source)
    try:
        return rows_at_places(files, most, named=len(files) > 1) if files else None
    except OSError as error:
        raise ValueError(f"cannot read {source.path!r}: {error}") from error


def screen_all(config: RunConfig, reading: Reading = "all") -> Screened:
    """The rows of all sources, or samples of them. Raises ValueError, naming the source, for one that cannot be read or
    of which no row can."""
    screened: Screened = {}
    for name, source in config.prompts.items():
        try:
            screened[name] = screen(name, source, reading)
        except ValueError as error:
            raise ValueError(f"prompts.{name}: {error}") from None
        if not screened[name].prompts:
            raise ValueError(f"prompts.{name}: {nothing_left(source.path, screened[name].rejected)}")
    return screened


class MissingPrompts(ValueError):
    """Nothing of a kind is among the rows that were read."""


def require_prompts(config: RunConfig, domains: set[str], rejected: Sequence[RejectedRow]) -> None:
    """Every domain that a specialist wants has training prompts. Raises MissingPrompts, with the commonest reason why
    rows were rejected, for one that has none."""
    for name in config.specialists:
        for domain, share in config.mix_of(name).items():
            if share > 0 and domain not in domains:
                of_domain = [r for r in rejected if r.source == domain] or list(rejected)
                why = f" ({len(rejected)} rows rejected; {commonest(of_domain)})" if of_domain else ""
                raise MissingPrompts(
                    f"specialists.{name}.mix: no training prompt belongs to the domain {domain!r}; there are "
                    f"{sorted(domains)}{why}. Add a prompt source of that name, or fix the mix"
                )


def require_given(config: RunConfig, domains: set[str]) -> None:
    """Every domain of a specialist has given answers to train on, where `given_answers` is asked for. Raises
    MissingPrompts for one that has none; `domains` are those that have."""
    if "given_answers" not in config.evaluate.baselines:
        return
    for name in config.specialists:
        for domain, share in config.mix_of(name).items():
            if share > 0 and domain not in domains:
                raise MissingPrompts(
                    f"evaluate.baselines: given_answers, but no training prompt of {domain!r}, which "
                    f"specialists.{name} learns from, has a given answer (prompts.SOURCE.answers: sampled takes none); "
                    "give its rows answers, or take given_answers out"
                )


def commonest(rejected: Sequence[RejectedRow]) -> str:
    """The commonest reason of some rejected rows."""
    [(reason, count)] = Counter(r.reason for r in rejected).most_common(1)
    return f"{count} of them: {reason}"


def nothing_left(path: str, rejected: list[RejectedRow]) -> str:
    """What to say of a source of which nothing can be used: the commonest reason, and where to look."""
    if not rejected:
        return f"no usable row in {path!r}: it is empty"
    return f"no usable row in {path!r} ({len(rejected)} rejected; {commonest(rejected)}); see {TABLE}"


def read_rows(source: PromptSource, sample: EvenSample | None = None) -> Iterator[Row]:
    """Rows of a source, whatever they are; SKIPPED_ROW for those that a sample leaves out. Raises ValueError if there
    is no such file or dataset."""
    sample = sample or EvenSample()
    files = source_files(source)
    if files is None:
        from orchestrator.prompts.reading.hub import hub_rows

        rows = hub_rows(source.path, source.dataset_config, source.dataset_split, sample)
    elif source.dataset_config is not None:
        raise ValueError(
            f"dataset_config is {source.dataset_config!r}, which is for a dataset on the Hub, and {source.path!r} is "
            "here; leave it out"
        )
    else:
        if sample.most is not None and "://" not in source.path:  # from elsewhere a footer costs the whole file
            sample.expect(min(rows_by_footers(files), source.limit or sys.maxsize))
        rows = rows_of(files, sample)
    return itertools.islice(rows, source.limit)


def source_files(source: PromptSource) -> list[DataFile] | None:
    """The files of a source; None for a dataset on the Hub. Raises ValueError if they are not there."""
    if not source.path:
        raise ValueError("path is empty; name a file or a dataset")
    try:
        return data_files(source.path, source.dataset_split)
    except OSError as error:
        raise ValueError(f"cannot read {source.path!r}: {error}") from error


def read_probes(path: str) -> list[dict[str, str]]:
    """Probes of a JSONL file. Raises ValueError naming the line that is not {domain, prompt, answer}."""
    try:
        files = data_files(path, TRAIN) or []
    except ValueError as error:
        raise ValueError(f"evaluate.probes: {error}") from None
    probes = []
    for row in rows_of(files):
        value = row.value
        if not isinstance(value, dict) or not all(
            isinstance(value.get(k), str) and value[k] for k in ("domain", "prompt", "answer")
        ):
            raise ValueError(f"evaluate.probes: line {row.number + 1} of {path!r} is not {{domain, prompt, answer}}")
        probes.append(value)
    if not probes:
        raise ValueError(
            f"evaluate.probes: {path!r} holds none; add lines of {{domain, prompt, answer}}, or leave it out"
        )
    return probes


def _given_id(row: Any) -> str | None:
    return str(row["id"]) if isinstance(row, dict) and row.get("id") is not None else None


def read_prompt(name: str, reader: RowReader, row: Row, *, numbered: bool = True) -> RawPrompt | RejectedRow:
    """A row of a source, usable or rejected. Raises AmbiguousSource, which names the row if it is `numbered` in its
    file."""
    try:
        return _raw_prompt(name, reader, row)[0]
    except AmbiguousSource as error:
        raise AmbiguousSource(_where(error, row if numbered else replace(row, number=-1))) from None
    except ValueError as error:
        return _rejected(name, row, error)


def _rejected(name: str, row: Row, reason: ValueError) -> RejectedRow:
    return RejectedRow(name, row.number, _given_id(row.value), str(reason), row.file)


def _where(error: AmbiguousSource, row: Row) -> str:
    number = f"row {row.number + 1}" if row.number >= 0 else "a row"
    return f"{error} ({number}{' of ' + row.file if row.file else ''})"


def _raw_prompt(name: str, reader: RowReader, given: Row) -> tuple[RawPrompt, tuple[str, ...]]:
    """One row, checked, and the columns that it was read from. Raises ValueError with the reason to reject it."""
    row = given.value
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"is {type(row).__name__}, not an object")
    asked = reader.read(row)
    split = row.get("split")
    if split not in (None, TRAIN, HELDOUT):
        raise ValueError(f"'split' is {split!r}, not train or heldout")
    domains = name if row.get("domain") is None else row["domain"]
    domains = [domains] if isinstance(domains, str) else domains
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) and d for d in domains):
        raise ValueError("'domain' is neither a name nor a list of names")
    identity = _given_id(row)
    if identity is None:
        content = json.dumps(asked.content, sort_keys=True, default=str)
        identity = hashlib.sha256(content.encode()).hexdigest()[:16]
    prompt = RawPrompt(
        id=f"{name}/{identity}",
        source=name,
        domains=tuple(sorted(set(domains))),
        split=split,
        prompt=asked.prompt,
        messages=None if asked.messages is None else list(asked.messages),
        answer=asked.answer,
        tools=asked.tools,
        row=given.number,
        file=given.file,
    )
    return prompt, asked.columns
