"""Reading prompt sources: files and datasets of rows, each usable or rejected with its reason. Touches no model."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cluster.storage import open_storage, read_buffer
from orchestrator.config.schema import PromptSource, RunConfig
from workers.splits import HELDOUT, TRAIN


@dataclass(frozen=True)
class RawPrompt:
    """A row that could be read, before tokenization."""

    id: str
    source: str
    domains: tuple[str, ...]
    split: str | None
    prompt: str | None
    messages: list[dict[str, Any]] | None
    answer: str | None
    row: int = field(default=-1, compare=False)
    """Its place in its source, from 0."""


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used, and why."""

    source: str
    row: int
    id: str | None
    reason: str


def _parquet_rows(file: BinaryIO) -> Iterator[Any]:
    import pyarrow.parquet as pq  # half a second that a JSONL run need not spend

    for batch in pq.ParquetFile(file).iter_batches(1024, use_threads=False):
        yield from batch.to_pylist()


def read_rows(source: PromptSource) -> Iterator[Any]:
    """Rows of a source, whatever they are. Raises ValueError if there is no such file or dataset."""
    if not source.path:
        raise ValueError("path is empty; name a file or a dataset")
    path, there = Path(source.path), source.path.startswith("s3://") or Path(source.path).is_file()
    if path.suffix == ".parquet" and there:
        rows = _parquet_rows(_opened(source.path))
    elif path.suffix in (".jsonl", ".json") and there:
        rows = _json_lines(_opened(source.path))
    elif path.suffix in (".jsonl", ".json", ".parquet") or (path.is_absolute() and not path.is_dir()):
        if path.is_file():
            raise ValueError(f"{source.path!r} is not a kind of file that is read; use .jsonl or .parquet")
        raise ValueError(f"no such file {source.path!r}")
    else:
        rows = _dataset_rows(source)
    return itertools.islice(rows, source.limit)


def screen(name: str, source: PromptSource) -> tuple[list[RawPrompt], list[RejectedRow]]:
    """The usable rows of a source and the broken ones with their reason."""
    good: list[RawPrompt] = []
    bad: list[RejectedRow] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(source)):
        try:
            prompt = _raw_prompt(name, source, row, number)
            if prompt.id in seen:
                raise ValueError(f"repeats the id {prompt.id!r}")
        except ValueError as error:
            identity = str(row["id"]) if isinstance(row, dict) and row.get("id") is not None else None
            bad.append(RejectedRow(name, number, identity, str(error)))
            continue
        seen.add(prompt.id)
        good.append(prompt)
    return good, bad


Screened = dict[str, tuple[list[RawPrompt], list[RejectedRow]]]
"""By source: its usable rows, and the broken ones."""


def screen_all(config: RunConfig) -> Screened:
    """The rows of all sources. Raises ValueError, naming the source, for one that cannot be read."""
    screened: Screened = {}
    for name, source in config.prompts.items():
        try:
            screened[name] = screen(name, source)
        except ValueError as error:
            raise ValueError(f"prompts.{name}: {error}") from None
    return screened


def read_probes(path: str) -> list[dict[str, str]]:
    """Probes of a JSONL file. Raises ValueError naming the line that is not {domain, prompt, answer}."""
    probes = []
    for number, row in enumerate(_json_lines(_opened(path))):
        if not isinstance(row, dict) or not all(
            isinstance(row.get(k), str) and row[k] for k in ("domain", "prompt", "answer")
        ):
            raise ValueError(f"evaluate.probes: line {number + 1} of {path!r} is not {{domain, prompt, answer}}")
        probes.append(row)
    return probes


def _raw_prompt(name: str, source: PromptSource, row: Any, number: int) -> RawPrompt:
    """One row, checked. Raises ValueError with the reason to reject it."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"is {type(row).__name__}, not an object")
    prompt, messages, answer = (
        row.get(source.prompt_field),
        row.get(source.messages_field),
        row.get(source.answer_field),
    )
    if messages is None and prompt is None:
        raise ValueError(f"has neither {source.prompt_field!r} nor {source.messages_field!r}")
    if messages is None and not isinstance(prompt, str):
        raise ValueError(f"{source.prompt_field!r} is {type(prompt).__name__}, not text")
    if isinstance(prompt, str) and messages is None and not prompt.strip():
        raise ValueError(f"{source.prompt_field!r} is empty")
    if messages is not None and not (
        isinstance(messages, list) and messages and all(isinstance(m, dict) for m in messages)
    ):
        raise ValueError(f"{source.messages_field!r} is not a list of messages")
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"{source.answer_field!r} is {type(answer).__name__}, not text")
    split = row.get("split")
    if split not in (None, TRAIN, HELDOUT):
        raise ValueError(f"'split' is {split!r}, not train or heldout")
    domains = name if row.get("domain") is None else row["domain"]
    domains = [domains] if isinstance(domains, str) else domains
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) and d for d in domains):
        raise ValueError("'domain' is neither a name nor a list of names")
    content = json.dumps([prompt, messages, answer], sort_keys=True, default=str)
    identity = str(row["id"]) if row.get("id") is not None else hashlib.sha256(content.encode()).hexdigest()[:16]
    return RawPrompt(
        f"{name}/{identity}",
        name,
        tuple(sorted(set(domains))),
        split,
        None if messages is not None else prompt,
        messages,
        answer or None,
        number,
    )


def assign_splits(prompts: list[RawPrompt], heldout: float) -> list[str]:
    """Split of each prompt: what its row says; else `train` where rows of its source say `heldout` themselves; else a
    share `heldout` by a hash of its id. Of each domain set, the prompt with the largest hash trains in any case."""
    explicit = {p.source for p in prompts if p.split == HELDOUT}
    keeps: dict[tuple[str, ...], str] = {}
    for p in prompts:
        if p.split is None:
            keeps[p.domains] = max(keeps.get(p.domains, p.id), p.id, key=hash_share)

    def split(p: RawPrompt) -> str:
        held = p.source not in explicit and hash_share(p.id) < heldout and keeps[p.domains] != p.id
        return HELDOUT if held else TRAIN

    return [p.split or split(p) for p in prompts]


def hash_share(identity: str) -> float:
    """A number in [0, 1) from an id: the same rows are held out whatever else the file holds."""
    return int.from_bytes(hashlib.sha256(identity.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64


def _opened(path: str) -> BinaryIO:
    """A prompt file on this machine or on S3. Raises ValueError if it is not there."""
    if not path.startswith("s3://"):
        return Path(path).open("rb")
    folder, _, name = path.rpartition("/")
    try:
        return read_buffer(open_storage(folder), name)
    except OSError as error:
        raise ValueError(f"cannot read {path!r}: {error}") from error


def _json_lines(file: BinaryIO) -> Iterator[Any]:
    """Values of a JSONL file; a line that is not JSON comes as a ValueError in its place."""
    with file:
        for number, line in enumerate(file):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            if text.strip():
                try:
                    yield json.loads(text)
                except UnicodeDecodeError:
                    yield ValueError("is not UTF-8")
                except (ValueError, RecursionError):
                    yield ValueError("is not JSON")


def _dataset_rows(source: PromptSource) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source.path!r} is no file; to read it as a Hugging Face dataset: pip install 'stillhouse[hub]'"
        ) from error
    try:
        data = datasets.load_dataset(source.path, source.dataset_config, split=source.dataset_split, streaming=True)
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(
            f"{source.path!r} is neither a file nor a Hugging Face dataset within reach ({type(error).__name__})"
        ) from error
    except ValueError as error:  # the dataset is there; the library says which splits and configurations it has
        part = f"split {source.dataset_split!r} of configuration {source.dataset_config or 'default'!r}"
        raise ValueError(f"the dataset {source.path!r} has no {part}: {' '.join(str(error).split())}") from error
    return iter(data)
