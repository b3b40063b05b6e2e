"""What the ranks of a worker group agreed on before a forward pass, for the layers in it that exchange tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_tokens: ContextVar[int | None] = ContextVar("_tokens", default=None)


@contextmanager
def agreed_tokens(tokens: int) -> Iterator[None]:
    """Forward passes within have at most so many tokens on any rank, padding included. All ranks say the same."""
    before = _tokens.set(tokens)
    try:
        yield
    finally:
        _tokens.reset(before)


def most_tokens_of_a_rank() -> int | None:
    """What was agreed on of the pass under way; None: nothing was."""
    return _tokens.get()
