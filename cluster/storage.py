"""The only place that opens a filesystem: one small object store over a local folder or an S3 prefix.

Keys are relative, with forward slashes. `create` is the commit: it makes a key only if it is absent, on both kinds.
A rename is never a commit on S3. pyarrow ignores If-None-Match, so S3 goes through s3fs.
"""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec


@dataclass(frozen=True)
class Stored:
    """A file of a store: its key, its size in bytes, and when it was written (seconds since 1970)."""

    key: str
    bytes: int
    modified: float


class Storage(Protocol):
    """What the rest of the project asks of a store. Errors are OSError; a missing key is FileNotFoundError."""

    uri: str

    def read(self, key: str) -> bytes: ...
    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The bytes of many keys, asked for at the same time; None where a key is missing."""

    def write(self, key: str, data: bytes) -> None:
        """Make or replace a key. Readers see the old bytes or the new ones, never a part."""

    def create(self, key: str, data: bytes) -> bool:
        """Make a key if it is absent. True if the key now holds exactly `data`; False if another writer won."""

    def exists(self, key: str) -> bool: ...
    def keys(self, prefix: str) -> list[str]:
        """Keys of the files directly below a prefix (a folder), sorted."""

    def listing(self, prefix: str) -> list[Stored]:
        """All files below a prefix, at any depth, also those that a killed writer left half done; sorted by key."""

    def delete(self, key: str) -> None: ...
    def upload_folder(self, folder: Path, key: str) -> list[str]:
        """Copy every file below a local folder to keys below `key`; returns their keys."""

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


class LocalStorage:
    """Files below a folder; commits by hard link, which fails if the name exists."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(root)))
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [path.read_bytes() if (path := self.root / key).exists() else None for key in keys]

    def write(self, key: str, data: bytes) -> None:
        temporary = self._stage(key, data)
        os.replace(temporary, self.root / key)
        _sync_folder((self.root / key).parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self.root / key
        if path.exists():
            return path.read_bytes() == data
        temporary = self._stage(key, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return path.read_bytes() == data
        finally:
            os.unlink(temporary)
        _sync_folder(path.parent)
        return True

    def exists(self, key: str) -> bool:
        return (self.root / key).exists()

    def keys(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        if not folder.is_dir():
            return []
        names = (entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
        return sorted(posixpath.join(prefix, name) for name in names)

    def listing(self, prefix: str) -> list[Stored]:
        found = []
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # deleted meanwhile
                    stat = path.stat()
                    found.append(Stored(path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda f: f.key)

    def delete(self, key: str) -> None:
        path = self.root / key
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def upload_folder(self, folder: Path, key: str) -> list[str]:
        keys = []
        for name in _files_below(folder):
            target = self.root / key / name
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f".{target.name}.{os.getpid()}"
            shutil.copyfile(folder / name, temporary)
            _sync_file(temporary)
            os.replace(temporary, target)
            keys.append(posixpath.join(key, name))
        return keys

    def download_folder(self, key: str, folder: Path) -> None:
        shutil.copytree(self.root / key, folder, dirs_exist_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self.root / key

    def arrow_filesystem(self, key: str) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root / key)

    def _stage(self, key: str, data: bytes) -> str:
        """The data in a synced temporary file beside its final place (hidden from `keys`)."""
        folder = (self.root / key).parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=folder)
        os.fchmod(handle, 0o644)  # mkstemp makes it private; a run folder may be shared
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary


@contextmanager
def _client_errors() -> Iterator[None]:
    """What the S3 client raises beside OSError (no credentials, an endpoint that does not answer) becomes OSError."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except BotoCoreError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class RemoteStorage:
    """Objects below an S3 prefix through s3fs; commits by a conditional PUT (If-None-Match)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._base = self.uri.removeprefix("s3://")
        # A listing cache would hide what other processes commit.
        self._fs: Any = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=False)

    def _path(self, key: str) -> str:
        return posixpath.join(self._base, key)

    @_client_errors()
    def read(self, key: str) -> bytes:
        return self._fs.cat_file(self._path(key))

    @_client_errors()
    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        found = self._fs.cat([self._path(key) for key in keys], on_error="return")
        results: list[bytes | None] = []
        for key in keys:
            data = found[self._path(key)]
            if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                raise data
            results.append(None if isinstance(data, FileNotFoundError) else data)
        return results

    @_client_errors()
    def write(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        try:
            with _client_errors():
                self._fs.pipe_file(self._path(key), data, mode="create")
        except OSError:
            # The loser's error differs by server, and a retried request can lose against its own first try:
            # what the key holds now is the only truth. A key that is still absent means that the call failed.
            try:
                return self.read(key) == data
            except FileNotFoundError:
                pass
            raise
        return True

    @_client_errors()
    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(self._path(key)))

    @_client_errors()
    def keys(self, prefix: str) -> list[str]:
        try:
            entries = self._fs.ls(self._path(prefix), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(posixpath.join(prefix, posixpath.basename(e["name"])) for e in entries if e["type"] == "file")

    @_client_errors()
    def listing(self, prefix: str) -> list[Stored]:
        found = self._fs.find(self._path(prefix), detail=True).values()
        base = len(self._base) + 1
        return sorted(
            (Stored(f["name"][base:], f["size"], f["LastModified"].timestamp()) for f in found), key=lambda f: f.key
        )

    @_client_errors()
    def delete(self, key: str) -> None:
        if self.exists(key):
            self._fs.rm(self._path(key), recursive=True)

    @_client_errors()
    def upload_folder(self, folder: Path, key: str) -> list[str]:
        names = list(_files_below(folder))
        for name in names:
            self._fs.put_file(str(folder / name), self._path(posixpath.join(key, name)))
        return [posixpath.join(key, name) for name in names]

    @_client_errors()
    def download_folder(self, key: str, folder: Path) -> None:
        base = self._path(key).rstrip("/")
        paths = self._fs.find(base)
        if not paths:
            raise FileNotFoundError(f"{self.uri}/{key}")
        for path in paths:
            target = folder / path[len(base) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(path, str(target))

    def local_path(self, key: str) -> Path | None:
        return None

    def arrow_filesystem(self, key: str) -> tuple[Any, str]:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._fs)), self._path(key)


def check_writable(storage: Storage) -> None:
    """Write and delete a small key, so that a run does not find out later. Raises ValueError with the reason."""
    key = f".writable-{os.getpid()}"
    try:
        storage.write(key, b"stillhouse")
        storage.delete(key)
    except OSError as error:
        raise ValueError(
            f"storage: cannot write to {storage.uri!r}: {error}. Name a folder or bucket that you can "
            "write to, or mend its permissions"
        ) from error


def free_bytes(uri: str) -> int | None:
    """Free space of the disk below a local path (which may not exist yet), in bytes; None for a remote store."""
    if uri.startswith("s3://"):
        return None
    path = Path(os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))))
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def read_buffer(storage: Storage, key: str) -> io.BytesIO:
    """A key's bytes as a seekable file."""
    return io.BytesIO(storage.read(key))


def _files_below(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
