"""One fetch of a model at a time on a node. The kernel frees the lock of a process that dies, so that another one goes
on with what it left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workers.fetching.progress import SAY_S, say, size_text

_POLL_S = 0.2


@contextmanager
def one_at_a_time(path: Path, what: str, *, done: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock file at `path` for the length of a block. Who waits says what for. Returns early, with the lock
    held or not, once `done`. Raises ValueError where no lock can be made there."""
    lock = FileLock(path)
    holder = path.with_suffix(".holder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                lock.acquire(timeout=SAY_S, poll_interval=_POLL_S)
                break
            except Timeout:
                if done():
                    break
                say(f"waits for {what}, which {_read(holder)} fetches")
        if lock.is_locked:
            holder.write_text(f"process {os.getpid()}")
    except (OSError, NotImplementedError) as error:
        raise refused(what, path.parent, error) from None
    try:
        yield
    finally:
        lock.release()


def require_room(what: str, folder: Path, needed: int) -> None:
    """Raise ValueError if a disk has not so many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise refused(
            what, folder, OSError(errno.ENOSPC, f"{size_text(needed)} more are needed, {size_text(free)} free")
        )


def refused(what: str, folder: Path, error: BaseException) -> ValueError:
    """What an error of this machine's disk means for a fetch, and what to do."""
    number, said = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
    where = f"model: {what} cannot be put into {str(folder)!r}"
    move = "name a folder of a larger disk in cluster.model_cache (HF_HOME for models of the Hugging Face Hub)"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ValueError(f"{where}: the disk is full ({said}); free some of it, or {move}")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ValueError(f"{where}: {said}; make it writable for this user, or {move}")
    return ValueError(f"{where}: {said}; if it lies on a network disk, take one of the node's own: {move}")


def _read(holder: Path) -> str:
    try:
        return holder.read_text() or "another process"
    except OSError:
        return "another process"
