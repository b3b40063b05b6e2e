"""A file at work in a process of its own: `python -m workers.export.running.process RUNTIME PATH THREADS CONTEXT`.

Its memory is then the file's alone, and a runtime that crashes costs one measurement. Requests and answers are a line
of JSON each, an array's bytes behind it where it says its shape.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

Runtime = Literal["llama.cpp", "transformers"]


class Loaded(Protocol):
    """What a runtime does with a file."""

    vocabulary: int

    def forget(self) -> None: ...
    def feed(self, ids_T: np.ndarray[Any, Any], *, last: bool = False) -> np.ndarray[Any, Any]: ...
    def tokens(self, text: str) -> list[int]: ...


def send(pipe: IO[bytes], message: dict[str, Any], array: np.ndarray[Any, Any] | None = None) -> None:
    """A message, and the array that belongs to it."""
    about = {} if array is None else {"shape": array.shape, "dtype": str(array.dtype)}
    pipe.write(json.dumps({**message, **about}).encode() + b"\n")
    if array is not None:
        pipe.write(np.ascontiguousarray(array).data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], np.ndarray[Any, Any]] | None:
    """The next message with its array, an empty one where it has none; None at the end."""
    line = pipe.readline()
    if not line:
        return None
    message = json.loads(line)
    if "shape" not in message:
        return message, np.zeros(0)
    array = np.empty(message["shape"], message["dtype"])
    view, read = array.reshape(-1).view(np.uint8).data, 0
    while read < len(view):
        count = pipe.readinto(view[read:])  # type: ignore[attr-defined]
        if not count:
            return None
        read += count
    return message, array


def speed(loaded: Loaded, prompt_T: np.ndarray[Any, Any], new: int, repeats: int) -> dict[str, float]:
    """Milliseconds from a prompt to its first token, and tokens a second of the `new` ones behind it, greedily chosen:
    the medians of some repeats, after one that is not counted."""
    first, rates = [], []
    for repeat in range(repeats + 1):
        loaded.forget()
        start = time.perf_counter()
        token = loaded.feed(prompt_T, last=True)[-1].argmax()
        began = time.perf_counter()
        for _ in range(new):
            token = loaded.feed(np.array([token], np.int32), last=True)[-1].argmax()
        if repeat:
            first.append(1000 * (began - start))
            rates.append(new / (time.perf_counter() - began))
    return {"first_token_ms": float(np.median(first)), "tokens_per_s": float(np.median(rates))}


def _load(runtime: str, path: Path, threads: int, context: int) -> Loaded:
    if runtime == "llama.cpp":
        from workers.export.running.llama_cpp import LlamaCpp

        return LlamaCpp(path, threads, context)
    from workers.export.running.transformers_folder import TransformersFolder

    return TransformersFolder(path, threads, context)


def _answer(loaded: Loaded, asked: dict[str, Any], array: np.ndarray[Any, Any], out: IO[bytes]) -> None:
    match asked["do"]:
        case "logits":
            if asked["first"]:
                loaded.forget()
            send(out, {}, loaded.feed(array))
        case "tokens":
            send(out, {"ids": [loaded.tokens(text) for text in asked["texts"]]})
        case "speed":
            send(out, speed(loaded, array, asked["new"], asked["repeats"]))
        case "peak":
            send(out, {"peak_mb": peak_mb()})


def peak_mb() -> float:
    """The most memory since the program began. `ru_maxrss` is of the process, and has what its parent held when it
    forked."""
    status = Path("/proc/self/status")
    said = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(said[1]) / 1024 if said else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str]) -> None:
    """Load, say so, and answer until nobody asks."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a runtime prints is not an answer
    runtime, path, threads, context = arguments
    try:
        loaded = _load(runtime, Path(path), int(threads), int(context))
    except ValueError as error:
        send(out, {"error": str(error)})
        return
    send(out, {"vocabulary": loaded.vocabulary})
    while (asked := receive(sys.stdin.buffer)) is not None:
        _answer(loaded, *asked, out)


if __name__ == "__main__":
    main(sys.argv[1:])
