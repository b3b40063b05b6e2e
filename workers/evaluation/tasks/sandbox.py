"""Running Python that nobody has read, in a process of its own with limits.

This is a seat belt and not a jail. It stops what goes wrong by accident: an endless loop, a list that grows for ever, a
file that fills the disk, a program that starts others, a test that ends the process before it failed. It stops nobody
who means harm: the program runs as the same user and may read what that user may, and reach the network. Where models
are not trusted, run evaluations in a container that has neither.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 10
"""That a program may take, of processor time and by the clock."""

MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 20

_LIMITED = """
import os, resource, runpy, sys
def limit(name, value):
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
limit("RLIMIT_CPU", {seconds})
limit("RLIMIT_AS", {memory})
limit("RLIMIT_FSIZE", {file})
limit("RLIMIT_CORE", 0)
limit("RLIMIT_NPROC", 0)
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
{call}
os.write(out, b"ran to its end")
"""
"""What the process runs first. Only a program that reaches its end lets the last line be written: one that leaves with
exit code 0 before its tests does not. Processes: none more than there are, which binds everybody but root."""

_ENDED = b"ran to its end"


def runs_to_its_end(program: str, *, seconds: int = SECONDS, memory: int = MEMORY_BYTES) -> bool:
    """Whether a program runs to its last line without an error: in a folder of its own, without environment variables,
    without what it would read or print, within limits of time, memory (bytes) and size of files, and starting no other
    process."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        Path(folder, "program.py").write_text(program, encoding="utf-8", errors="replace")
        call = "runpy.run_path('program.py', run_name='__main__')"
        code = _LIMITED.format(seconds=seconds, memory=memory, file=FILE_BYTES, call=call)
        return _said(code, folder, b"", seconds).endswith(_ENDED)


_MATCH = """
import json, re, signal, sys
def give_up(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, give_up)
found = []
for pattern, text in json.load(sys.stdin):
    signal.setitimer(signal.ITIMER_REAL, {seconds})
    try:
        found.append(re.fullmatch(pattern, text) is not None)
    except (TimeoutError, re.error, RecursionError, MemoryError):
        found.append(False)
    signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps(found))
"""


def full_matches(pairs: list[tuple[str, str]], *, seconds: float = 1.0) -> list[bool]:
    """Whether each regular expression matches all of its text; one that has not ended after so many seconds does not.

    A pattern such as (a+)+b takes for ever on some texts, and within this process nothing would stop it.
    """
    if not pairs:
        return []
    allowed = 5 + seconds * len(pairs)
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        said = _said(_MATCH.format(seconds=seconds), folder, json.dumps(pairs).encode(), allowed)
    found: list[bool] = json.loads(said) if said else [False] * len(pairs)
    return found


_VALIDATE = """
import json, signal, sys
from jsonschema import ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
def give_up(*_):
    raise TimeoutError
def no_constant(name):
    raise ValueError(name)
signal.signal(signal.SIGALRM, give_up)
schema, texts = json.load(sys.stdin)
validator = validator_for(schema)(schema, registry=Registry())
found = []
for text in texts:
    signal.setitimer(signal.ITIMER_REAL, {seconds})
    try:
        validator.validate(json.loads(text, parse_constant=no_constant))
        found.append(True)
    except (ValidationError, ValueError, TimeoutError, RecursionError, MemoryError):
        found.append(False)
    signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps(found))
"""
"""NaN and infinity, which Python reads, are no JSON. The registry is empty: nothing is fetched."""


def valid_json(texts: list[str], schema: dict[str, Any], *, seconds: float = 1.0) -> list[bool]:
    """Whether each text is JSON that follows a schema; one that has not ended after so many seconds does not, as with a
    `pattern` that takes for ever."""
    if not texts:
        return []
    allowed = 10 + seconds * len(texts)
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        said = _said(_VALIDATE.format(seconds=seconds), folder, json.dumps([schema, texts]).encode(), allowed)
    if not said:
        raise RuntimeError("the process that validates JSON ended without an answer")
    found: list[bool] = json.loads(said)
    return found


def _said(code: str, folder: str, given: bytes, seconds: float) -> bytes:
    """What Python code prints, in a folder, alone (`-I`) and without environment; nothing where it takes too long."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        cwd=folder,
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(given, timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            return b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, and what it started
