"""The texts that exported files are measured on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from cluster.storage import Storage
from workers.evaluation.heldout.exact import ExactTargets
from workers.evaluation.heldout.rows import CommittedRows
from workers.export.measuring import Texts
from workers.manifest import read_plan
from workers.targets.reader import TargetRow

_FILE_TOKENS = 256
"""Of the pieces that a file is cut into."""


class NoTexts(ValueError):
    """There is nothing to measure on."""


def heldout_texts(storage: Storage, split: str, domain: str, count: int) -> Texts:
    """The first texts of a domain of a run's held-out store, with the teacher's distributions. Raises NoTexts where
    there are none."""
    missing = NoTexts(
        f"export: no held-out text of {domain!r} is captured, on which a file could be measured; set measure: 0 in "
        "this export, or capture some"
    )
    try:
        committed, units = CommittedRows(storage, split), read_plan(storage, split).of_domain(domain)
        there = committed.store.log.committed()
        found = (row for unit in units if unit in there for row, _ in committed.rows(unit, (domain,)))
        rows = list(islice((row for row in found if row.targets), count))
    except FileNotFoundError:
        raise missing from None
    if not rows:
        raise missing
    return Texts(rows, ExactTargets(committed.store, "cpu"), committed.store.header.vocabulary)


def texts_of_file(path: Path, tokenizer: Path, count: int) -> Texts:
    """A file of text in pieces, each measured from its second token on. Raises ValueError for an empty one."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    ids = np.array(own(path.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"], np.int32)
    pieces = [ids[i : i + _FILE_TOKENS] for i in range(0, len(ids), _FILE_TOKENS)][:count]
    rows = [_row(f"{i}", piece) for i, piece in enumerate(pieces) if len(piece) > 1]
    if not rows:
        raise ValueError(f"export: {str(path)!r} has no text of two tokens")
    return Texts(rows)


def _row(uid: str, tokens: np.ndarray) -> TargetRow:
    none = np.zeros(0)
    return TargetRow(uid, tokens, 1, none, none, none, none, None, none, none)
