"""Strings in people's text that look like special tokens, such as <|im_end|>, as the characters that they are.

They are marked in the messages before a chat template writes them, so that its own special tokens are told from them
afterwards. Text between the template's tokens then goes through the tokenizer with its special tokens off, as one
piece: the ids are those that the tokenizer gives to such a text by itself (`split_special_tokens` in transformers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_OPEN, _SHUT = "\U000f51e0", "\U000f51e1"
"""Private-use characters around a marked string."""

_REASONING_TAGS = ("<think>", "</think>")
"""Of reasoning, which templates look for in answers: tokens wherever a tokenizer has them as special ones."""


class SpecialTokens:
    """The special tokens of a `tokenizers.Tokenizer`, and its encoding of texts in which some are marked."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._known = {token.content: (number, token) for number, token in added.items() if token.special}
        self.ids = {number for number, _ in self._known.values()}
        words = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words)) or "(?!)")
        risky = [word for word in words if word not in _REASONING_TAGS]
        self._risky = re.compile("|".join(map(re.escape, risky)) or "(?!)")
        self._beginnings = tuple({word[:2] for word in risky})
        self._marked = re.compile(f"{_OPEN}(.*?){_SHUT}")

    def mark(self, value: Any) -> Any:
        """A text, or messages and tools, with every string in it marked that looks like a special token; what has none
        is returned as it is."""
        if isinstance(value, str):
            if not any(beginning in value for beginning in self._beginnings):
                return value
            return self._risky.sub(lambda found: f"{_OPEN}{found[0]}{_SHUT}", value)
        if isinstance(value, dict):
            return {k: v if k == "role" else self.mark(v) for k, v in value.items()}
        return [self.mark(v) for v in value] if isinstance(value, list | tuple) else value

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int] | ValueError]:
        """Ids of texts, marked strings in them as plain characters; a ValueError, the reason, in place of those of a
        text that the tokenizer cannot read so."""
        plain = [text for text in texts if _OPEN not in text]
        batch = iter(self._tokenizer.encode_batch_fast(plain, add_special_tokens=add_special_tokens))
        return [self._marked_ids(text, add_special_tokens) if _OPEN in text else next(batch).ids for text in texts]

    @staticmethod
    def is_marked(text: str) -> bool:
        """Whether a string in a text is marked."""
        return _OPEN in text

    @staticmethod
    def unmarked(text: str) -> str:
        """A text as it was before strings in it were marked."""
        return text.replace(_OPEN, "").replace(_SHUT, "")

    def _marked_ids(self, text: str, add_special_tokens: bool) -> list[int] | ValueError:
        found = self._marked.search(text)
        without = self._marked.sub("", text)
        usual = self._tokenizer.encode(without, add_special_tokens=add_special_tokens).ids
        ids, foreign = self._in_pieces(text, add_special_tokens)
        # Tokenizers that treat the beginning of a text otherwise would give other ids to its pieces.
        if foreign or self._in_pieces(without, add_special_tokens)[0] != usual:
            shown = found[1] if found else ""
            return ValueError(
                f"holds {shown!r}, which this tokenizer cannot read as text; take it out, or set special_tokens: tokens"
            )
        return ids

    def _in_pieces(self, text: str, add_special_tokens: bool) -> tuple[list[int], bool]:
        """Ids, piece by piece between the special tokens that are not marked; and whether special ones came of text."""
        ids: list[int] = []
        foreign = False
        pieces = self._pieces(text)
        alone = len(pieces) == 1
        with self._special_off():
            for piece in pieces:
                if isinstance(piece, int):
                    ids.append(piece)
                    continue
                own = self._tokenizer.encode(piece, add_special_tokens=False).ids
                foreign |= bool(self.ids.intersection(own))
                if alone and add_special_tokens:
                    own = self._tokenizer.encode(piece, add_special_tokens=True).ids
                ids += own
        return ids, foreign

    def _pieces(self, text: str) -> list[str | int]:
        """Texts, and ids of the special tokens between them."""
        pieces: list[str | int] = []
        start, piece = 0, ""
        either = re.compile(f"{self._marked.pattern}|{self._pattern.pattern}")
        for found in either.finditer(text):
            piece += text[start : found.start()]
            start = found.end()
            if found[1] is not None:
                piece += found[1]
                continue
            number, token = self._known[found[0]]
            pieces += [piece.rstrip() if token.lstrip else piece, number]
            piece = ""
            if token.rstrip:
                start += len(text[start:]) - len(text[start:].lstrip())
        pieces.append(piece + text[start:])
        return [piece for piece in pieces if piece != ""]

    @contextmanager
    def _special_off(self) -> Iterator[None]:
        before = self._tokenizer.encode_special_tokens
        self._tokenizer.encode_special_tokens = True
        try:
            yield
        finally:
            self._tokenizer.encode_special_tokens = before
