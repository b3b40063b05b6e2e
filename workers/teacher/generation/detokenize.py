"""Texts of token sequences, and where in their bytes each token ends."""

from __future__ import annotations

from typing import Any

import numpy as np

_WINDOW = 8
"""Tokens decoded again before a new one, so that joining rules (spaces, byte sequences) see their neighbours."""


def texts_and_ends(tokenizer: Any, sequences: list[list[int]]) -> tuple[list[str], np.ndarray]:
    """The text of each sequence, and per token the byte offset (UTF-8) in its text at which it ends, flat [S].

    A token inside an unfinished character ends where the character begins; the last one always ends the text.
    """
    texts: list[str] = []
    ends: list[int] = []
    for sequence in sequences:
        text, own = _text_and_ends(tokenizer, sequence)
        texts.append(text)
        ends += own
    return texts, np.array(ends, np.uint32)


def _text_and_ends(tokenizer: Any, ids: list[int]) -> tuple[str, list[int]]:
    def decode(span: list[int]) -> str:
        return tokenizer.decode(span, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    pieces: list[str] = []
    ends: list[int] = []
    size, done = 0, 0  # bytes so far; ids[:done] are complete characters
    for i in range(len(ids)):
        context = ids[max(0, done - _WINDOW) : done]
        piece = decode(ids[max(0, done - _WINDOW) : i + 1])[len(decode(context)) :]
        complete = not piece.endswith("\ufffd") or i == len(ids) - 1
        if complete:
            pieces.append(piece)
            size += len(piece.encode())
            done = i + 1
        ends.append(size)
    return "".join(pieces), ends
