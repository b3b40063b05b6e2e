"""Text of the three domains: rows, the held-out rule, and rows as tokens.

A row is a dict with id, domain, prompt and reference (the known answer). Medical, legal and code rows
come from the user's prompt files; code rows to tune on are functions of Python's standard library, put
into the form of the code prompts, so that the rows of code.jsonl stay unseen.

Held-out rule: of each domain, the `count` rows with the smallest sha256(id) (hex digest, as text). It
depends on ids only, so whoever has the same file and count finds the same rows, without any list. Rows
about the same passage as a held-out row (see split_rows) belong to neither side.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

DOMAINS = ("medical", "legal", "code")
HELDOUT_ROWS = 32
CODE_REQUEST = "Complete this Python function.\n\n"
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3"}

Row = dict[str, str]


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Rows of folder/{medical,legal,code}.jsonl by domain, in file order."""
    rows: dict[str, list[Row]] = {}
    for domain in DOMAINS:
        file = folder / f"{domain}.jsonl"
        if not file.is_file():
            raise ValueError(f"prompts {folder}: no {file.name}; give a folder with one file a domain")
        # Not splitlines(): it also splits at U+2028 and the like, which JSON text may hold.
        lines = file.read_text(encoding="utf-8").split("\n")
        rows[domain] = [json.loads(line) for line in lines if line.strip()]
        for number, row in enumerate(rows[domain], 1):
            absent = [key for key in ("id", "prompt", "reference") if not isinstance(row.get(key), str)]
            if absent:
                raise ValueError(f"{file} row {number}: {absent[0]!r} is missing; each row needs it as text")
    return rows


def id_hash(row: Row) -> str:
    """The row's place in the held-out rule and in every shuffled order: sha256 of its id, hex."""
    return hashlib.sha256(row["id"].encode("utf-8")).hexdigest()


def heldout_ids(rows: list[Row], count: int) -> list[str]:
    """Ids of the held-out rows of one domain: the `count` smallest hashes, smallest first."""
    if not 0 < count < len(rows):
        raise ValueError(f"heldout {count}: the domain has {len(rows)} rows; give 1 to {len(rows) - 1}")
    return [row["id"] for row in sorted(rows, key=id_hash)[:count]]


def passage(row: Row) -> str:
    """What the prompt is about: all that follows its first blank line, or the whole prompt."""
    return (row["prompt"].partition("\n\n")[2] or row["prompt"]).strip()


def split_rows(rows: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """(rows to tune on in file order, held-out rows in hash order) of one domain.

    Tuning rows about the passage of a held-out row are dropped: LegalBench asks about the same clause
    in several tasks, each under its own instruction.
    """
    chosen = set(heldout_ids(rows, count))
    heldout = sorted((row for row in rows if row["id"] in chosen), key=id_hash)
    passages = {passage(row) for row in heldout}
    return [row for row in rows if row["id"] not in chosen and passage(row) not in passages], heldout


def functions(source: str) -> Iterator[tuple[str, str]]:
    """(header with docstring, body) of each function of the Python `source` that has both."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2 or ast.get_docstring(node) is None:
            continue
        middle = node.body[0].end_lineno
        if node.body[1].lineno <= middle:
            continue
        # One dedent for both halves: methods lose their class's indent, the body keeps the function's.
        whole = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).split("\n")
        cut = middle - node.lineno + 1
        yield "\n".join(whole[:cut]) + "\n", "\n".join(whole[cut:]) + "\n"


def stdlib_rows(longest: int = 2000) -> list[Row]:
    """Code rows from the running Python's standard library, in hash order.

    `longest`: characters of prompt and answer together; longer functions are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    rows: dict[str, Row] = {}
    for file in sorted(root.rglob("*.py")):
        if SKIPPED_FOLDERS & set(file.relative_to(root).parts):
            continue
        try:
            found = list(functions(file.read_text(encoding="utf-8")))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for header, body in found:
            if len(header) + len(body) <= longest:
                name = f"stdlib-{hashlib.sha256((header + body).encode()).hexdigest()[:16]}"
                prompt = CODE_REQUEST + header
                rows[name] = {"id": name, "domain": "code", "prompt": prompt, "reference": body}
    return sorted(rows.values(), key=id_hash)


@dataclass(frozen=True)
class Tokens:
    """One row as token ids, with the positions where its prompt and its answer begin."""

    ids: list[int]
    prompt_start: int
    answer_start: int


def encode(tokenizer: PreTrainedTokenizerBase, row: Row) -> Tokens:
    """`row` as the chat template writes it: the prompt as the user's turn, the reference as the answer.

    What precedes prompt_start (the system message, the same in every row) is context, never a target.
    """
    turns = [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["reference"]},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    # Found in the text, not counted: templates may strip the content or put other turns before it.
    prompt_at = text.index(row["prompt"].strip())
    answer_at = text.rindex(row["reference"].strip()) if row["reference"].strip() else len(text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    return Tokens(
        ids=encoded["input_ids"],
        prompt_start=next(place for place, end in enumerate(ends) if end > prompt_at),
        answer_start=next((place for place, end in enumerate(ends) if end > answer_at), len(ends)),
    )
