"""The base of every configuration class: strict, frozen, documented, and free of heavy imports."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Settings(BaseModel):
    """A configuration record. Unknown keys are errors; the sentence under a field is its description."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


_COUNT = re.compile(r"^\s*([0-9][0-9_]*\.?[0-9]*)\s*([kKMGBT]?)\s*$")
_SCALE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}

_MOST = 10**15


def _parse_count(value: Any) -> Any:
    if isinstance(value, str):
        match = _COUNT.match(value)
        if match is None:
            raise ValueError("expected a whole number, with an optional k, M or B (20M = 20,000,000)")
        value = int(min(float(match[1].replace("_", "")) * _SCALE[match[2]] + 0.5, 2.0 * _MOST))
    if isinstance(value, int) and value > _MOST:
        raise ValueError(f"is more than {_MOST:,}")
    return value


def _parse_share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


def _parse_count_or_share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        value = _parse_share(value)
    elif isinstance(value, str) and "." in value and value.strip()[-1:].isdigit():
        raise ValueError("expected a share with % (10%), or a whole number, with an optional k, M or B (2M)")
    else:
        value = _parse_count(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a share such as 10%, or a whole number such as 2M")
    if not (value >= 1 if isinstance(value, int) else 0 < value <= 1):
        raise ValueError("a share is above 0% and at most 100%, a number is whole and at least 1")
    return value


def _check_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode (half a surrogate pair)") from None
    return value


Text = Annotated[str, AfterValidator(_check_text)]
"""A text that a tokenizer and a file can hold."""


def _parse_range(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


Count = Annotated[int, BeforeValidator(_parse_count)]
"""A whole number that may be written `20M`."""

Share = Annotated[float, BeforeValidator(_parse_share)]
"""A part of one that may be written `5%`."""


CountOrShare = Annotated[int | float, BeforeValidator(_parse_count_or_share)]
"""A whole number from 1 that may be written `2M`, or a part of one, above 0, that may be written `10%`: an `int` is the
one, a `float` the other."""


def _check_range(value: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= value[0] <= value[1]:
        raise ValueError("expected [min, max] with 1 <= min <= max, or one number from 1")
    return value


Range = Annotated[tuple[int, int], BeforeValidator(_parse_range), AfterValidator(_check_range)]
"""`[min, max]`, or one number for both."""
