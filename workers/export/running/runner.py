"""Asking a file that works in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from workers.export.running.process import Runtime, receive, send

_AT_ONCE = 256
"""Positions of which logits come at once: of a vocabulary of 151,936 they are 156 MB."""


class Runner:
    """A file in its runtime, for the length of a block.

    Raises ValueError if the runtime is not installed or cannot load the file, RuntimeError if its process ends.
    """

    def __init__(self, runtime: Runtime, path: Path, *, threads: int = 2, context: int = 4096) -> None:
        self._what = f"{path.name} in {runtime}"
        program = [sys.executable, "-P", "-m", "workers.export.running.process", runtime]
        self._process = subprocess.Popen(
            [*program, str(path), str(threads), str(context)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TQDM_DISABLE": "1"},  # bars of loading
        )
        try:
            self.vocabulary = int(self._answer()[0]["vocabulary"])
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def logits(self, ids_T: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[T, V] logits behind each token of a text."""
        return np.concatenate([logits_nV for _, logits_nV in self.pieces(ids_T)])

    def pieces(self, ids_T: np.ndarray[Any, Any]) -> Iterator[tuple[slice, np.ndarray[Any, Any]]]:
        """The same, some positions at a time: which, and their logits [n, V]."""
        for start in range(0, len(ids_T), _AT_ONCE):
            place = slice(start, min(start + _AT_ONCE, len(ids_T)))
            yield place, self._ask({"do": "logits", "first": start == 0}, ids_T[place].astype(np.int32))[1]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, by the file's own tokenizer."""
        return list(self._ask({"do": "tokens", "texts": list(texts)})[0]["ids"])

    def speed(self, prompt_T: np.ndarray[Any, Any], new: int = 32, repeats: int = 3) -> dict[str, float]:
        """`first_token_ms` and `tokens_per_s`; see `workers.export.running.process.speed`."""
        return self._ask({"do": "speed", "new": new, "repeats": repeats}, prompt_T.astype(np.int32))[0]

    def peak_mb(self) -> float:
        """The most memory that the process has held, in MiB; with that of Python and the runtime."""
        return float(self._ask({"do": "peak"})[0]["peak_mb"])

    def _ask(
        self, message: dict[str, Any], array: np.ndarray[Any, Any] | None = None
    ) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        assert self._process.stdin is not None
        try:
            send(self._process.stdin, message, array)
        except BrokenPipeError:
            raise RuntimeError(f"export: the process of {self._what} ended ({self._process.wait()})") from None
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        assert self._process.stdout is not None
        answer = receive(self._process.stdout)
        if answer is None:
            raise RuntimeError(f"export: the process of {self._what} ended ({self._process.wait()})")
        if "error" in answer[0]:
            raise ValueError(answer[0]["error"])
        return answer
