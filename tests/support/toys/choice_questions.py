"""Questions of two domains in the tiny teacher's words."""

from __future__ import annotations

from typing import Any

WORDS = ["the", "fever", "is", "high", "a", "contract", "binds", "rest", "pay", "rule"]


def choice_rows(count: int) -> list[dict[str, Any]]:
    """Of both domains, with choices of one and of two words."""
    return [
        {
            "id": i,
            "domain": ("medical", "legal")[i % 2],
            "prompt": f"the {WORDS[i % 10]} {WORDS[i // 10 % 10]}",
            "choices": ["fever", "contract binds", "pay", "rest is"],
            "answer": i % 4,
        }
        for i in range(count)
    ]
