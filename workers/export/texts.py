"""The texts that exported files are measured on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from cluster.storage import Storage
from workers.evaluation.heldout.exact import ExactTargets
from workers.evaluation.heldout.rows import CommittedRows
from workers.export.measuring import Texts
from workers.targets.reader import TargetRow

_FILE_TOKENS = 256
"""Of the pieces that a file is cut into."""


def heldout_texts(storage: Storage, split: str, domain: str, count: int) -> Texts:
    """The first texts of a domain of a run's held-out store, with the teacher's distributions. Raises ValueError where
    there are none."""
    committed = CommittedRows(storage, split)
    rows = list(islice((row for row in committed.all_rows(domain) if row.targets), count))
    if not rows:
        raise ValueError(f"export: no held-out text of {domain!r} is captured, on which a file could be measured")
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
