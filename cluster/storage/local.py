"""A store in a local folder. All bytes are synced before their name appears, and names before a call returns."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.faults import pause_point
from cluster.storage.stored import Stored, files_below

_COPIED_AT_ONCE = 1 << 30


class LocalStorage:
    """Files below a folder; commits by hard link, which fails if the name exists."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(root)))
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with (self.root / key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, key: str) -> int:
        return (self.root / key).stat().st_size

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [path.read_bytes() if (path := self.root / key).exists() else None for key in keys]

    def write(self, key: str, data: bytes) -> None:
        temporary = self._stage("write", key, data)
        os.replace(temporary, self.root / key)
        pause_point("write-replaced")
        _sync_folder((self.root / key).parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self.root / key
        if path.exists():
            return path.read_bytes() == data
        temporary = self._stage("create", key, data)
        try:
            os.link(temporary, path)
            pause_point("create-linked")
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

    def folders(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def files(self, prefix: str) -> Iterator[Stored]:
        folder = self.root / prefix
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    if entry.is_file() and not entry.name.startswith("."):
                        yield _stored(posixpath.join(prefix, entry.name), entry.stat())

    def listing(self, prefix: str) -> list[Stored]:
        found = []
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found.append(_stored(path.relative_to(self.root).as_posix(), path.stat()))
        return sorted(found, key=lambda f: f.key)

    def delete(self, key: str) -> None:
        path = self.root / key
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def upload_folder(self, folder: Path, key: str) -> list[str]:
        keys = []
        for name in files_below(folder):
            target = self.root / key / name
            _make_folder(target.parent)
            temporary = target.parent / f".{target.name}.{os.getpid()}"
            _copy_file(folder / name, temporary)
            _sync_file(temporary)
            os.replace(temporary, target)
            keys.append(posixpath.join(key, name))
            pause_point("file-uploaded")
        for parent in {(self.root / k).parent for k in keys}:
            _sync_folder(parent)
        return keys

    def copy_folder(self, source: str, key: str) -> list[str]:
        # No hard links: who edits a file of the copy in place would edit the source too.
        if not (self.root / source).is_dir():
            raise FileNotFoundError(f"{self.uri}/{source}")
        return self.upload_folder(self.root / source, key)

    def download_folder(self, key: str, folder: Path) -> None:
        shutil.copytree(self.root / key, folder, dirs_exist_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self.root / key

    def arrow_filesystem(self, key: str) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root / key)

    def _stage(self, verb: str, key: str, data: bytes) -> str:
        """The data in a synced temporary file beside its final place (hidden from `keys`)."""
        folder = (self.root / key).parent
        _make_folder(folder)
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=folder)
        os.fchmod(handle, 0o644)  # mkstemp makes it private; a run folder may be shared
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            pause_point(f"{verb}-staged")
            os.fsync(file.fileno())
        pause_point(f"{verb}-synced")
        return temporary


def _stored(key: str, stat: os.stat_result) -> Stored:
    return Stored(key, stat.st_size, stat.st_mtime, f"{stat.st_size}-{stat.st_mtime_ns}")


def _copy_file(source: Path, target: Path) -> None:
    """By the kernel where it can: a clone that takes no room (XFS, Btrfs), or a copy made by the server (NFS 4.2)."""
    if hasattr(os, "copy_file_range"):  # Linux
        try:
            with source.open("rb") as read, target.open("wb") as written:
                while os.copy_file_range(read.fileno(), written.fileno(), _COPIED_AT_ONCE):
                    pass
                if written.tell() == os.fstat(read.fileno()).st_size:  # some file systems copy nothing and say so late
                    return
        except OSError:  # not between these two file systems, or not on this one
            pass
    shutil.copyfile(source, target)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it. A new one's name is synced, or a power cut could take all that lies in it."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _sync_folder(new.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
