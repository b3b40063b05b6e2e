"""Chat prompts for benchmarks: as many as are wanted, each with words and an id of its own."""

from __future__ import annotations

import json
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from workers.chat_template import read_chat_template

_TEXT = (
    "the patient has a mild fever and coughs since three days what should be done first contract binds both parties "
    "unless function returns list of values"
)
WORDS = _TEXT.split()
_BLOCK = 20_000


def write_chats(path: Path, rows: int, model: Path) -> Path:
    """A JSONL file of questions of 20 to 60 words; for a model without a chat template, of texts."""
    chat = bool(read_chat_template(model))
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for begin in islice(count(0, _BLOCK), -(-rows // _BLOCK)):
            lengths = rng.integers(20, 61, min(_BLOCK, rows - begin))
            words = iter(rng.integers(0, len(WORDS), int(lengths.sum())).tolist())
            for number, length in enumerate(lengths.tolist(), start=begin):
                text = " ".join(WORDS[word] for word in islice(words, length))
                asked: Any = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
                file.write(json.dumps({"id": number, **asked}) + "\n")
    return path


def write_config(path: Path, model: Path, prompts: str, storage: str) -> Path:
    """A configuration of a run that captures them."""
    data = {
        "name": "large",
        "storage": storage,
        "teacher": {"model": str(model)},
        "prompts": {"chat": {"path": prompts}},
        "specialists": {"chat": {"model": {"base": str(model)}}},
    }
    path.write_text(yaml.safe_dump(data))
    return path
