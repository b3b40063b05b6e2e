"""Texts of token sequences, and where in their bytes each token ends. Loads neither torch nor transformers.

A token takes 9 us with `tokenizers` alone and 25 with transformers around it, so it is the process that leads a
replica's ranks that makes texts, beside their work, wherever their tokenizer can be had without transformers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_WINDOW = 8
"""Tokens decoded again before a new one, so that joining rules (spaces, byte sequences) see their neighbours."""


def portable(tokenizer: Any) -> str | None:
    """What a Detokenizer is made of, from a tokenizer of transformers; None if it decodes in Python of its own."""
    from transformers import PreTrainedTokenizerFast

    own = type(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not own.__module__.startswith("transformers."):
        return None  # code that comes with a model may decode as it likes
    if own._decode is not PreTrainedTokenizerFast._decode:
        return None
    return tokenizer.backend_tokenizer.to_str()


class Detokenizer:
    """Makes texts with a tokenizer that crossed from a rank (`portable`)."""

    def __init__(self, tokenizer: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(tokenizer)

    def __call__(self, sequences: list[list[int]]) -> tuple[list[str], np.ndarray]:
        """As `texts_and_ends`."""
        return texts_and_ends(self, sequences)

    def decode(self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """As a tokenizer of transformers; nothing is ever cleaned up."""
        assert not clean_up_tokenization_spaces
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def split(tokens: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    """The sequences in a flat array [S] of their tokens."""
    ends = np.cumsum(lengths)
    return [tokens[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


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
