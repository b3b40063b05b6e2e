"""Tokens as a person reads them. No torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer


class Pieces:
    """The text of single tokens: spaces, line ends and the like visible, bytes of unfinished characters too."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.text = lru_cache(maxsize=None)(self._text)
        self.after = lru_cache(maxsize=1 << 16)(self._after)
        """The text of a token that stands behind another one: with the space that only then is written."""

    def _after(self, before: int, token: int) -> str:
        head, both = (self._tokenizer.decode(ids, skip_special_tokens=False) for ids in ([before], [before, token]))
        own = both.removeprefix(head)
        return visible(own) if both.startswith(head) and own and "\ufffd" not in both else self.text(token)

    def _text(self, token: int) -> str:
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        raw = self._tokenizer.id_to_token(token) or f"<{token}>"
        if not text or "\ufffd" in text:
            return visible(raw)
        # Such tokenizers drop the space of a text's first token.
        return visible(f" {text}" if raw.startswith("▁") and not text.startswith(" ") else text)


def visible(text: str) -> str:
    """The text with `␣` for a space, and escapes for what does not print."""
    return "".join("␣" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in text)
