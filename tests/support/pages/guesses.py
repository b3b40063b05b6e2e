"""What a page's script is given of each token, as words."""

from __future__ import annotations

import json
import re
from typing import Any


def guesses_of(page: str) -> list[dict[str, Any]]:
    """By text: `tokens`; `says`, what the colour of each stands for; by column, pairs of a token and a probability."""
    [embedded] = re.findall(r'id="guesses">(.*?)</script>', page)
    found = json.loads(embedded)
    words = found["words"]

    def pairs(flat: list[int]) -> list[list[Any]]:
        return [[words[flat[i]], flat[i + 1] / 1000] for i in range(0, len(flat), 2)]

    return [
        {
            "tokens": [words[i] for i in text["tokens"]],
            "says": [text["saying"].replace("{}", "%s") % tuple(values) for values in text["values"]],
            "columns": {name: list(map(pairs, column)) for name, column in text["columns"].items()},
        }
        for text in found["texts"]
    ]
