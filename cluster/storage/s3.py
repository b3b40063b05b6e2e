"""A store below an S3 prefix, through s3fs: pyarrow ignores If-None-Match. A commit is a conditional PUT.

Who repeats what: botocore repeats a request that got no answer in time, lost its connection, or was answered with a
5xx or "slow down", with random pauses that grow to 20 s. A body that breaks off while it is read is beyond its reach:
then the whole call is made again here. s3fs's own repetition is off, so that the three do not multiply.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from cluster.storage.stored import Stored, files_below

ATTEMPTS = 8
"""Tries of one request: half a minute of pauses in the mean, about as long as a gateway takes to start anew."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
"""How long a server may say nothing before the request counts as lost."""
CALLS = 3
"""Tries of a whole call whose connection broke, also in the middle of a body."""
PART_BYTES = 16 * 2**20
"""Objects of twice this and more are written in parts of it, each repeated alone. S3 takes 10,000 parts at most."""

_AS_ONE = 1
"""A read is one request. s3fs else asks for the size first, so as to read large objects in pieces at once."""

T = TypeVar("T")


class RemoteStorage:
    """Objects below an S3 prefix through s3fs; commits by a conditional PUT (If-None-Match)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._base = self.uri.removeprefix("s3://")
        self._fs = _filesystem(_session(tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))))

    def __reduce__(self) -> tuple[type[RemoteStorage], tuple[str]]:
        return RemoteStorage, (self.uri,)

    def read(self, key: str) -> bytes:
        return self._call(key, lambda path: self._fs.cat_file(path, max_concurrency=_AS_ONE))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        def ranged(path: str) -> bytes:
            return self._fs.cat_file(path, start=start, end=start + length, max_concurrency=_AS_ONE)

        return self._call(key, ranged) if length else b""

    def size(self, key: str) -> int:
        return self._call(key, lambda path: int(self._fs.info(path, refresh=True)["size"]))

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        found = self._fs.cat([self._path(key) for key in keys], on_error="return", max_concurrency=_AS_ONE)
        return [self._read_again(key, found[self._path(key)]) for key in keys]

    def write(self, key: str, data: bytes) -> None:
        self._call(key, lambda path: self._fs.pipe_file(path, data, chunksize=PART_BYTES))

    def create(self, key: str, data: bytes) -> bool:
        whole = max(len(data), 1)  # in one request: servers have let two writers complete their parts
        for attempt in range(CALLS):
            try:
                self._call(key, lambda path: self._fs.pipe_file(path, data, chunksize=whole, mode="create"))
                return True
            except OSError as error:
                # The loser's error differs by server, and a repeated request can lose against its own first try:
                # what the key holds now is the only truth. A key that is still absent means that the call failed.
                held = self._held(key, error)
                if held is not None:
                    return held == data
                if not _is_conflict(error) or attempt == CALLS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def exists(self, key: str) -> bool:
        def head(path: str) -> bool:
            bucket, name, _ = self._fs.split_path(path)
            self._fs.call_s3("head_object", Bucket=bucket, Key=name)
            return True

        try:
            return self._call(key, head)
        except FileNotFoundError:
            return False

    def keys(self, prefix: str) -> list[str]:
        return sorted(found.key for found in self.files(prefix))

    def folders(self, prefix: str) -> list[str]:
        pages = self._pages(prefix, Delimiter="/")
        return sorted(f["Prefix"].rstrip("/").rsplit("/", 1)[-1] for p in pages for f in p.get("CommonPrefixes", ()))

    def files(self, prefix: str) -> Iterator[Stored]:
        return self._listed(prefix, Delimiter="/")

    def listing(self, prefix: str) -> list[Stored]:
        return sorted(self._listed(prefix), key=lambda found: found.key)

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):  # gone, by another's hand or by a try whose answer was lost
            self._call(key, lambda path: self._fs.rm(path, recursive=True))

    def upload_folder(self, folder: Path, key: str) -> list[str]:
        keys = []
        for name in files_below(folder):
            keys.append(posixpath.join(key, name))
            self._call(keys[-1], lambda path, name=name: self._fs.put_file(str(folder / name), path))  # type: ignore[misc]
        return keys

    def copy_folder(self, source: str, key: str) -> list[str]:
        keys = []
        for found in self._some(source):
            keys.append(posixpath.join(key, found.key[len(source.rstrip("/")) + 1 :]))
            # By the server. s3fs copies what is large in parts, so that no request takes long and none is above 5 GB.
            self._call(found.key, lambda path, to=self._path(keys[-1]): self._fs.cp_file(path, to))  # type: ignore[misc]
        return keys

    def download_folder(self, key: str, folder: Path) -> None:
        for found in self._some(key):
            target = folder / found.key[len(key.rstrip("/")) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            self._call(found.key, lambda path, target=target: self._fs.get_file(path, str(target)))  # type: ignore[misc]

    def local_path(self, key: str) -> Path | None:
        return None

    def arrow_filesystem(self, key: str) -> tuple[Any, str]:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        # It may be sent to other processes, and a session would take this one's environment along.
        return PyFileSystem(FSSpecHandler(_filesystem(None))), self._path(key)

    def _path(self, key: str) -> str:
        return posixpath.join(self._base, key)

    def _some(self, folder: str) -> list[Stored]:
        """All files below a folder. Raises FileNotFoundError if there is none."""
        found = self.listing(folder)
        if not found:
            raise FileNotFoundError(f"{self.uri}/{folder}")
        return found

    def _listed(self, prefix: str, **how: str) -> Iterator[Stored]:
        """The objects below a folder, page by page: s3fs's own listing makes 1 kB of Python objects for each, and holds
        all of them. Some servers and consoles also leave marks for folders, which are passed over."""
        _, name, _ = self._fs.split_path(self._path(prefix).rstrip("/") + "/")
        for page in self._pages(prefix, **how):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    key = posixpath.join(prefix, item["Key"][len(name) :])
                    version = item.get("ETag", "").strip('"') or f"{item['Size']}-{item['LastModified'].timestamp()}"
                    yield Stored(key, item["Size"], item["LastModified"].timestamp(), version)

    def _pages(self, prefix: str, **how: str) -> Iterator[dict[str, Any]]:
        bucket, name, _ = self._fs.split_path(self._path(prefix).rstrip("/") + "/")
        more: dict[str, str] = {}
        while True:
            page = self._call(prefix, lambda _: self._page(Bucket=bucket, Prefix=name, **how, **more))  # noqa: B023
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, **request: str) -> dict[str, Any]:
        try:
            return self._fs.call_s3("list_objects_v2", **request)
        except FileNotFoundError:  # no such bucket
            return {}

    def _call(self, key: str, work: Callable[[str], T]) -> T:
        """What `work` returns for the path of a key. It is called again where its connection broke.

        Whatever the client raises is an OSError here that names the key, and FileNotFoundError means a missing key.
        """
        import aiohttp
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        broken = (HTTPClientError, aiohttp.ClientError, HTTPException, TimeoutError, ConnectionError)
        where = f"{self.uri}/{key}"
        for attempt in range(CALLS):
            try:
                return work(self._path(key))
            except broken as error:
                if attempt == CALLS - 1:
                    raise OSError(f"{where}: {_said(error)}") from error
                time.sleep(0.1 * 2**attempt)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{where}: {_said(error)}") from error
            except PermissionError as error:
                raise PermissionError(f"{where}: {_said(error)}") from error
            except (BotoCoreError, ClientError, OSError) as error:
                raise OSError(f"{where}: {_said(error)}") from error
        raise AssertionError("the last attempt returns or raises")

    def _read_again(self, key: str, found: Any) -> bytes | None:
        """One of many keys: what was found, None where it is missing. What failed on the way is read again alone."""
        if isinstance(found, FileNotFoundError):
            return None
        if not isinstance(found, Exception):
            return bytes(found)
        try:
            return self.read(key)
        except FileNotFoundError:
            return None

    def _held(self, key: str, error: OSError) -> bytes | None:
        """What a key holds after a create that ended in an error; None if it is absent."""
        try:
            return self.read(key)
        except FileNotFoundError:
            return None
        except OSError as unread:
            raise OSError(f"{error}; whether it was created is not known: reading it failed too: {unread}") from error


def _filesystem(session: Any) -> Any:
    # A listing cache would hide what other processes commit.
    filesystem = fsspec.filesystem(
        "s3",
        session=session,
        use_listings_cache=False,
        skip_instance_cache=False,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
        },
    )
    filesystem.retries = 1
    return filesystem


@cache
def _session(environment: tuple[tuple[str, str], ...]) -> Any:
    """A session of the S3 client, one for an environment's credentials, that reads times of listings quickly: botocore
    tries many forms of each, which is four fifths of what listing a log costs on this side."""
    from aiobotocore.session import AioSession

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    return session


def _time(written: Any) -> datetime:
    """A time in an answer: as listings have it, or in any form that botocore knows."""
    from botocore.utils import parse_timestamp

    if isinstance(written, str) and written.endswith("Z"):
        with suppress(ValueError):
            return datetime.fromisoformat(written)
    parsed: datetime = parse_timestamp(written)
    return parsed


def _said(error: BaseException) -> str:
    """What an error says, with its kind where the words alone may not tell (a bare "Not Found")."""
    return f"{type(error).__name__}: {error}"


def _is_conflict(error: OSError) -> bool:
    """Whether S3 asks to try again, as another conditional request for the key was under way (409)."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None) or {}
        if response.get("Error", {}).get("Code") in ("ConditionalRequestConflict", "OperationAborted"):
            return True
        cause = cause.__cause__
    return False
