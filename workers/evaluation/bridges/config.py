"""How many tokens of a teacher's answers are changed, to see which of them the answer hangs on."""

from __future__ import annotations

from pydantic import Field

from cluster.settings import Settings, Share

BRIDGE_QUESTIONS = 4
"""Items that a teacher is asked at most for each right answer that is wanted."""


class BridgesConfig(Settings):
    """Which tokens of the teacher's answers are changed one by one. A token that it is sure of, and without which its
    answer is wrong, is a bridge; the report has the KL of specialists there and elsewhere."""

    texts: int = Field(default=32, ge=1)
    """Items of each domain that the teacher answers rightly, of those marked by what is written (exact, regex, tests).
    It is asked up to four times as many to find them."""

    positions: int = Field(default=8, ge=1)
    """Tokens of each of its answers that are changed, at most: the teacher writes the rest of its answer again behind
    each of them."""

    sure: Share = Field(default=0.9, gt=0, lt=1)
    """Tokens to which the teacher gives more than this probability are changed, to the runner-up."""
