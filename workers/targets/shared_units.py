"""Decoded units that the processes of one machine share: each is fetched and decoded by one of them, for all.

The ranks of a student on a machine read the same units at about the same time. Whoever comes first to one takes its
lock, decodes it and leaves its arrays as a file in memory (/dev/shm, or the folder for temporary files where that is
small); the others map that file. It is a cache: what cannot be shared is decoded by each, as if it were alone.

A process holds a shared lock on the folder's `users`, which the system takes back when the process dies. Who is the
last to close removes the folder; who opens one removes those that killed processes left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from workers.targets.encoding.arrays import UnitTargets

MOST_BYTES = 512 << 20
"""Of a folder: the newest units stay, about those that are read ahead."""
_LARGEST = 4
"""A unit of more than this part of them is not shared."""
_PATIENCE_S, _LOOK_S = 60.0, 0.005
_PREFIX, _USERS, _LOCK, _UNIT = "stillhouse-units-", "users", ".lock", ".arrow"
_LEFT_OUT = ("texts", "ends", "samples", "marginal", "redraws", "prompt_uids", "temperature")
"""Fields of a unit that no student reads, or that are no arrays."""

Made = tuple[UnitTargets, int]
"""A decoded unit with the draw that is wanted alone, and its revision."""


class SharedUnits:
    """The folder of those who have the same `key`. Close it."""

    def __init__(self, key: str, parent: Path | None = None) -> None:
        """Raises OSError where there is no place for it."""
        parent = parent or _parent()
        name = f"{_PREFIX}{os.getuid()}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        _sweep(parent, name)
        self.folder = parent / name
        self._users = self._enter()

    def get(self, name: str, make: Callable[[], Made | None]) -> Made | None:
        """What was made under a name, by whichever process; None, and nothing is kept, where `make` returns that.

        Raises what `make` raises. The arrays may not be written to.
        """
        path = self.folder / f"{name}{_UNIT}"
        if (found := _read(path)) is not None:
            return found
        try:
            lock = os.open(self.folder / f"{name}{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return make()
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not _lock(lock, fcntl.LOCK_EX) and time.monotonic() < deadline:
                time.sleep(_LOOK_S)
            if (found := _read(path)) is not None:
                return found
            made = make()
            if made is not None:
                with suppress(OSError):  # no room: this unit is not shared
                    self._write(path, *made)
            return made
        finally:
            os.close(lock)

    def close(self) -> None:
        """Leave the folder; the last one removes it."""
        if _lock(self._users, fcntl.LOCK_EX):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._users)

    def _enter(self) -> int:
        while True:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if self.folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{self.folder} is another user's")
            users = os.open(self.folder / _USERS, os.O_RDWR | os.O_CREAT, 0o600)
            if _lock(users, fcntl.LOCK_EX):  # nobody is here: what there is was left by killed processes
                for file in self.folder.iterdir():
                    if file.name != _USERS:
                        file.unlink(missing_ok=True)
            fcntl.flock(users, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if (self.folder / _USERS).stat().st_ino == os.fstat(users).st_ino:
                    return users
            os.close(users)  # removed meanwhile by one who left

    def _write(self, path: Path, unit: UnitTargets, revision: int) -> None:
        arrays = {f.name: getattr(unit, f.name) for f in fields(unit) if f.name not in _LEFT_OUT}
        size = sum(a.nbytes for a in arrays.values())
        if not unit.rows or size > MOST_BYTES // _LARGEST:
            return
        self._make_room(size)
        columns = {name: _one_row(pa.array(a)) for name, a in arrays.items()}
        columns["prompt_uids"] = _one_row(pa.array(unit.prompt_uids, pa.string()))
        batch = pa.record_batch(columns | {"temperature": [unit.temperature], "revision": [revision]})
        handle, temporary = tempfile.mkstemp(dir=self.folder)
        os.close(handle)
        try:
            with pa.OSFile(temporary, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _make_room(self, size: int) -> None:
        """Remove the oldest files, with their locks: who has one mapped keeps it."""
        held = []
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):
                stat = file.stat()
                held.append((stat.st_mtime, stat.st_size, file))
        total = size + sum(s for _, s, _ in held)
        for _, bytes_, file in sorted(held):
            if total <= MOST_BYTES:
                return
            if file.suffix == _UNIT:
                file.unlink(missing_ok=True)
                file.with_suffix(_LOCK).unlink(missing_ok=True)
                total -= bytes_


def _one_row(values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays([0, len(values)], values)


def _read(path: Path) -> Made | None:
    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
            batch = reader.get_batch(0)
    except FileNotFoundError:
        return None
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    temperature, revision = columns.pop("temperature")[0].as_py(), columns.pop("revision")[0].as_py()
    uids = columns.pop("prompt_uids").flatten().to_pylist()
    arrays: dict[str, np.ndarray] = {name: column.flatten().to_numpy() for name, column in columns.items()}
    return UnitTargets(prompt_uids=uids, temperature=temperature, **arrays), revision  # type: ignore[arg-type]


def _lock(handle: int, how: int) -> bool:
    """Try to take a lock."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parent() -> Path:
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * MOST_BYTES
    return memory if roomy else Path(tempfile.gettempdir())


def _sweep(parent: Path, name: str) -> None:
    """Remove the folders of this user that nobody is in."""
    for folder in parent.glob(f"{_PREFIX}{os.getuid()}-*"):
        if folder.name == name:
            continue
        with suppress(OSError):  # removed by another
            users = os.open(folder / _USERS, os.O_RDWR)
            if _lock(users, fcntl.LOCK_EX):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(users)
