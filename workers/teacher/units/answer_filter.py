"""A user's own verdict on answers: a function in a file, whose code the driver reads and every replica runs.

The code crosses as text, so that nodes need not have the file, and its hash says which code it was.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_MOST_CHARACTERS = 200
"""Of a reason: they are counted, so they should be few and short."""


@dataclass(frozen=True)
class FilterCode:
    """The code of a filter's file and the name of its function."""

    file: str
    function: str
    source: str

    @staticmethod
    def read(spec: str) -> FilterCode:
        """The code that `file.py:function` names. Raises ValueError if there is no such file."""
        path, _, function = spec.rpartition(":")
        try:
            return FilterCode(Path(path).name, function, Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"answers.filter: cannot read {path!r}: {error}") from None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()


class AnswerFilter:
    """A filter that is loaded. Raises ValueError, with what its code raised, where it cannot be."""

    def __init__(self, code: FilterCode) -> None:
        module = ModuleType("stillhouse_filter")
        module.__file__ = code.file
        sys.modules[module.__name__] = module  # where dataclasses look for their module
        try:
            exec(compile(code.source, code.file, "exec"), module.__dict__)
            self._function = getattr(module, code.function)
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"answers.filter: {code.file}:{code.function} cannot be loaded here: {_said(error)}"
            ) from error

    def reason(self, prompt: str, answer: str, about: dict[str, Any]) -> str | None:
        """Why the function rejects an answer; None if it keeps it. What it raises is a reason too."""
        try:
            verdict = self._function(prompt, answer, about)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one answer, not the run
            return f"the filter failed: {_said(error)}"
        if isinstance(verdict, bool | np.bool_):
            return None if verdict else "the filter refused it"
        if isinstance(verdict, str) and verdict.strip():
            return f"the filter says: {_short(verdict)}"
        return f"the filter failed: it returned {_short(repr(verdict))}, not True, False or a reason"


def _said(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {error}")


def _short(text: str) -> str:
    line = " ".join(text.encode(errors="replace").decode().split())
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…"
