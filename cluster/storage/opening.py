"""One small object store over a local folder or an S3 prefix: the only place that opens a filesystem.

Keys are relative, with forward slashes. `create` is the commit: it makes a key only if it is absent, on both kinds.
A rename is never a commit on S3. The two kinds are in cluster/storage/local.py and cluster/storage/s3.py.
"""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cluster.storage.local import LocalStorage
from cluster.storage.s3 import RemoteStorage
from cluster.storage.stored import Stored


class Storage(Protocol):
    """What the rest of the project asks of a store. Errors are OSError; a missing key is FileNotFoundError."""

    uri: str

    def read(self, key: str) -> bytes: ...
    def read_range(self, key: str, start: int, length: int) -> bytes:
        """So many bytes of a key from a place on; fewer where it ends before."""

    def size(self, key: str) -> int:
        """Bytes of a key."""

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The bytes of many keys, asked for at the same time; None where a key is missing."""

    def write(self, key: str, data: bytes) -> None:
        """Make or replace a key. Readers see the old bytes or the new ones, never a part."""

    def create(self, key: str, data: bytes) -> bool:
        """Make a key if it is absent. True if the key now holds exactly `data`; False if another writer won.

        An OSError means that it failed, or that whether it was made could not be found out: make it again.
        """

    def exists(self, key: str) -> bool: ...
    def keys(self, prefix: str) -> list[str]:
        """Keys of the files directly below a prefix (a folder), sorted."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below a prefix, sorted; what lies in them is not listed."""

    def files(self, prefix: str) -> Iterator[Stored]:
        """The files directly below a prefix (a folder), in no order, as they are listed: of very many none is held."""

    def listing(self, prefix: str) -> list[Stored]:
        """All files below a prefix, at any depth, also those that a killed writer left half done; sorted by key."""

    def delete(self, key: str) -> None: ...
    def upload_folder(self, folder: Path, key: str) -> list[str]:
        """Copy every file below a local folder to keys below `key`; returns their keys."""

    def copy_folder(self, source: str, key: str) -> list[str]:
        """Copy every file below one key to keys below another, without bringing it to this machine; returns the new
        keys. Raises FileNotFoundError if there is none."""

    def download_folder(self, key: str, folder: Path) -> None: ...
    def local_path(self, key: str) -> Path | None:
        """The file or folder on this machine behind a key, or None where the store is remote."""

    def arrow_filesystem(self, key: str) -> tuple[Any, str]:
        """The pyarrow filesystem and the path in it of a key, for a library that writes by itself."""


def open_storage(uri: str) -> Storage:
    """The store at a local path, a `file://` URI or an `s3://bucket/prefix`.

    Credentials come by the usual AWS chain; AWS_ENDPOINT_URL is honoured.
    """
    if uri.startswith("s3://"):
        return RemoteStorage(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise ValueError(f"storage: {uri!r} is neither a local folder nor s3://bucket/prefix")
    return LocalStorage(Path(uri.removeprefix("file://")))


def join(base: str, *parts: str) -> str:
    """A URI or local path with parts appended."""
    return posixpath.join(base, *parts)


def check_writable(storage: Storage) -> None:
    """Write and delete a small key, so that a run does not find out later. Raises ValueError with the reason."""
    key = f".writable-{os.getpid()}"
    try:
        storage.write(key, b"stillhouse")
        storage.delete(key)
    except OSError as error:
        raise ValueError(
            f"storage: cannot write to {storage.uri!r}: {error}. Name a folder or bucket that you can "
            "write to, or fix its permissions"
        ) from error


def free_bytes(uri: str) -> int | None:
    """Free space of the disk below a local path (which may not exist yet), in bytes; None for a remote store."""
    if uri.startswith("s3://"):
        return None
    path = Path(os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))))
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def local_folder(storage: Storage, key: str) -> Iterator[Path]:
    """A folder of a store as one on this machine: itself, or a copy for the length of a block."""
    local = storage.local_path(key)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        storage.download_folder(key, Path(folder))
        yield Path(folder)


_LEAST_BLOCK, _MOST_BLOCK = 64 << 10, 8 << 20
"""Bytes of a request for a file that is read in blocks: the least where it is read here and there, and twice as many as
before, up to the most, while it is read on."""


def open_ranges(storage: Storage, key: str, *, size: int | None = None) -> BinaryIO:
    """A key as a file of which only what is read is fetched, in blocks. `size`: where it is known."""
    local = storage.local_path(key)
    if local is not None:
        return local.open("rb")
    return io.BufferedReader(_Ranges(storage, key, storage.size(key) if size is None else size), _LEAST_BLOCK)


class _Ranges(io.RawIOBase):
    """The bytes of a key, a block of them in memory."""

    def __init__(self, storage: Storage, key: str, size: int) -> None:
        self._storage, self._key, self._size, self._place = storage, key, size, 0
        self._begin, self._block = 0, b""
        self._length = _LEAST_BLOCK // 2

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._place))
        if wanted and not self._begin <= self._place < self._begin + len(self._block):
            self._fetch(wanted)
        at = self._place - self._begin
        data = self._block[at : at + wanted] if wanted else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _fetch(self, wanted: int) -> None:
        """Take the block that begins at the place."""
        goes_on = self._place == self._begin + len(self._block)
        self._length = min(self._length * 2, _MOST_BLOCK) if goes_on else _LEAST_BLOCK
        length = min(max(self._length, wanted), self._size - self._place)
        self._begin, self._block = self._place, self._storage.read_range(self._key, self._place, length)


def read_buffer(storage: Storage, key: str) -> io.BytesIO:
    """A key's bytes as a seekable file.

    Parquet in it is read with `use_threads=False`: a thread of Arrow's pool may let go of these bytes, which are
    Python's, a moment after the read, and if the process ends meanwhile it aborts.
    """
    return io.BytesIO(storage.read(key))
