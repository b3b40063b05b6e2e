"""Models in a folder of an object store. Their settings are fetched alone for the checks, their weights once a node.

On a node, `<cache>/<name of the folder>-<hash>/<hash of its listing>/` has `settings`, `fetching` (what a fetch has so
far) and `whole`: another state of the folder is another place, and what is called `whole` is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from cluster.faults import pause_point
from cluster.model_cache import model_cache
from cluster.storage import Storage, Stored, open_storage
from workers.fetching.names import is_settings, missing_weights, weights_among
from workers.fetching.node_lock import one_at_a_time, refused, require_room
from workers.fetching.progress import Progress
from workers.model_sizes import weights_fault

PART_BYTES = 16 * 2**20
THREADS = 16
"""A fetch reads so many parts of a file at a time; together they are the memory that it takes."""

_FRESH_S = 30.0
"""A listing counts for so long: the checks of a run ask for the same model many times."""

_MOST_SETTINGS = 256 * 2**20
"""A larger file is no settings, whatever its name."""

_listed: dict[str, tuple[float, RemoteModel]] = {}


@dataclass(frozen=True)
class RemoteModel:
    """What an s3:// folder held when it was listed: the files of a model, sorted by name."""

    uri: str
    files: tuple[Stored, ...]

    @staticmethod
    def of(uri: str, *, fresh: bool = False) -> RemoteModel:
        """List a folder, or take what was listed a moment ago. Raises ValueError where it is no model's."""
        uri = uri.rstrip("/")
        known = _listed.get(uri)
        if fresh or known is None or time.monotonic() - known[0] > _FRESH_S:
            known = _listed[uri] = time.monotonic(), _list(uri)
        return known[1]

    @property
    def weights(self) -> list[Stored]:
        """The files of its weights."""
        names = weights_among([f.key for f in self.files])
        return [f for f in self.files if f.key in names]

    @property
    def settings(self) -> list[Stored]:
        """The files that say what it is."""
        return [f for f in self.files if is_settings(f.key)]

    def fingerprint(self) -> str:
        """Of the names, sizes and ETags of config.json and the weights: who writes other bytes gets another ETag. The
        same bytes may get another one too, written in parts of another size."""
        config = [f for f in self.files if f.key == "config.json"]
        return "s3:" + _digest([*config, *self.weights])

    @property
    def place(self) -> Path:
        """The folder for this state of the model on this node."""
        name = self.uri.rpartition("/")[2] or "model"
        above = f"{name}-{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        return model_cache() / above / _digest(self.files)[:16]


def settings_folder(uri: str) -> Path:
    """A folder on this node with a model's settings and no weights. Raises ValueError for a folder that lacks some."""
    model = RemoteModel.of(uri)
    folder = model.place / "settings"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".settings-", dir=folder.parent) as temporary:
                inside = Path(temporary) / "new"
                inside.mkdir()
                for file, data in zip(model.settings, _read_all(model), strict=True):
                    (inside / file.key).write_bytes(data)
                try:
                    os.rename(inside, folder)
                except OSError:
                    if not folder.is_dir():  # else another process was first, with the same bytes
                        raise
        except OSError as error:
            raise refused(f"{model.uri!r}", folder.parent, error) from None
    names = [f.key for f in model.files]
    if (lack := missing_weights(names, lambda name: (folder / name).read_bytes())) is not None:
        raise ValueError(f"model: {model.uri!r} lacks {lack}; upload it there again")
    return folder


def whole_folder(uri: str) -> Path:
    """A folder on this node with all of a model. Fetched by one process of the node, where it is not there yet.

    Raises ValueError where it cannot be had, with what to do.
    """
    settings_folder(uri)  # that it can be a model at all shows in a moment
    model = RemoteModel.of(uri)
    whole, what = model.place / "whole", f"{model.uri!r}"
    if _is_whole(model, whole):
        return whole
    with one_at_a_time(model.place / "lock", what, done=lambda: _is_whole(model, whole)):
        if not _is_whole(model, whole):
            try:
                _fetch(model, whole)
            except OSError as error:
                if error.errno is None:
                    raise _unreadable(model.uri, error) from None
                raise refused(what, model.place, error) from None
    return whole


def read_tensor(uri: str, name: str, tensors: Sequence[str], rows: int) -> bytes | None:
    """A safetensors file of the first `rows` rows of the first of some tensors that a file of a model has; None where
    it has none of them. Nothing else of it is read. Raises ValueError where it cannot be."""
    model, storage = RemoteModel.of(uri), open_storage(uri)
    if (whole := next((f.bytes for f in model.weights if f.key == name), None)) is None:
        return None
    try:
        if (size := int.from_bytes(storage.read_range(name, 0, 8), "little")) > whole - 8:
            raise ValueError(f"its header would be {size} bytes long")
        header = json.loads(storage.read_range(name, 8, size))
        about = next((header[t] for t in tensors if t in header), None)
        if about is None:
            return None
        start, end = about["data_offsets"]
        shape = [min(rows, about["shape"][0]), *about["shape"][1:]]
        length = (end - start) // max(about["shape"][0], 1) * shape[0]
        data = storage.read_range(name, 8 + size + start, length)
    except OSError as error:
        raise _unreadable(model.uri, error) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model: {name} in {model.uri!r} is no safetensors file ({error}); upload it again") from None
    alone = json.dumps({"tensor": about | {"shape": shape, "data_offsets": [0, length]}}).encode()
    return len(alone).to_bytes(8, "little") + alone + data


def _fetch(model: RemoteModel, whole: Path) -> None:
    """Make `whole`, out of what an earlier fetch left and the files that it had not whole."""
    fetching = model.place / "fetching"
    if whole.is_dir():  # with files missing, which somebody deleted
        whole.rename(fetching) if not fetching.is_dir() else shutil.rmtree(whole)
    fetching.mkdir(parents=True, exist_ok=True)
    missing = [f for f in _loaded(model) if not _has(fetching, f)]
    total = sum(f.bytes for f in missing)
    require_room(f"{model.uri!r}", fetching, total)
    progress = Progress(f"{model.uri} into {model.place}", total)
    _fetch_files(open_storage(model.uri), missing, fetching, progress)
    if RemoteModel.of(model.uri, fresh=True) != model:
        raise ValueError(f"model: {model.uri!r} was written to while it was fetched; start again when that is over")
    if (fault := weights_fault(fetching, whole=True)) is not None:  # as it lies in the store, too
        raise ValueError(f"model: {fault.replace(str(fetching), model.uri).replace('fetch', 'upload')}")
    pause_point("model-fetched")
    fetching.rename(whole)
    progress.end()


def _fetch_files(storage: Storage, files: Sequence[Stored], folder: Path, progress: Progress) -> None:
    """Files of a store into a folder, many parts at a time. Each has its name once all of it is there."""
    for left in folder.glob(".part-*"):
        left.unlink()
    pool = ThreadPoolExecutor(THREADS)
    try:
        running: set[Future[None]] = set()
        for file in files:
            parts = _Parts(storage, file, folder)
            for start in range(0, max(file.bytes, 1), PART_BYTES):
                running.add(pool.submit(parts.fetch, start, progress))
                while len(running) >= 2 * THREADS:  # so that few files are open at a time
                    running = _done(running, progress)
        while running:
            running = _done(running, progress)
    finally:
        pool.shutdown(cancel_futures=True)


def _done(running: set[Future[None]], progress: Progress) -> set[Future[None]]:
    """Those that still run after a moment. Raises what one of them did."""
    done, left = wait(running, timeout=0.2, return_when=FIRST_EXCEPTION)
    for call in done:
        call.result()
    progress.look()
    return left


class _Parts:
    """One file that is fetched part by part, in any order."""

    def __init__(self, storage: Storage, file: Stored, folder: Path) -> None:
        self._storage, self._file, self._lock = storage, file, Lock()
        self._path, self._temporary = folder / file.key, folder / f".part-{file.key}"
        self._missing = max(1, -(-file.bytes // PART_BYTES))
        self._temporary.touch()

    def fetch(self, start: int, progress: Progress) -> None:
        length = min(PART_BYTES, self._file.bytes - start)
        data = self._storage.read_range(self._file.key, start, length) if length > 0 else b""
        if len(data) != length:
            raise OSError(f"{self._storage.uri}/{self._file.key}: {len(data)} bytes at {start} where {length} were")
        with self._temporary.open("r+b") as file:
            file.seek(start)
            file.write(data)
        progress.add(length)
        with self._lock:
            self._missing -= 1
            last = not self._missing
        if last:
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.rename(self._path)
            pause_point("model-file-fetched")


def _loaded(model: RemoteModel) -> list[Stored]:
    """The files that are loaded, the settings first."""
    return [*model.settings, *model.weights]


def _has(folder: Path, file: Stored) -> bool:
    path = folder / file.key
    return path.is_file() and path.stat().st_size == file.bytes


def _is_whole(model: RemoteModel, folder: Path) -> bool:
    return folder.is_dir() and all(_has(folder, file) for file in _loaded(model))


def _list(uri: str) -> RemoteModel:
    if not uri.removeprefix("s3:").strip("/"):
        raise ValueError(f"model: {uri!r} names no bucket; write s3://bucket/folder")
    try:
        files = sorted(open_storage(uri).files(""), key=lambda f: f.key)
    except OSError as error:
        raise _unreadable(uri, error) from None
    if not files:
        raise ValueError(f"model: there is nothing at {uri!r}; check the name, and that it is a folder")
    if not any(f.key == "config.json" for f in files):
        raise ValueError(f"model: {uri!r} has no config.json; name the folder that it lies right in")
    settings = [f for f in files if is_settings(f.key) and f.bytes <= _MOST_SETTINGS]
    names = set(weights_among([f.key for f in files]))
    return RemoteModel(uri, tuple(f for f in files if f in settings or f.key in names))


def _read_all(model: RemoteModel) -> list[bytes]:
    try:
        found = open_storage(model.uri).read_many([f.key for f in model.settings])
    except OSError as error:
        raise _unreadable(model.uri, error) from None
    if None in found:
        raise ValueError(f"model: {model.uri!r} was written to while it was read; start again when that is over")
    return [data for data in found if data is not None]


def _unreadable(uri: str, error: OSError) -> ValueError:
    """What an error of the store means, and what to do."""
    if isinstance(error, PermissionError):
        remedy = "give this node's credentials (the usual AWS chain) the right to list and read it"
    else:
        remedy = "check the name, AWS_ENDPOINT_URL and the network"
    return ValueError(f"model: {uri!r} cannot be read on this node ({error}); {remedy}")


def _digest(files: Sequence[Stored]) -> str:
    listing = "".join(f"{f.key}\0{f.bytes}\0{f.version}\n" for f in sorted(files, key=lambda f: f.key))
    return hashlib.sha256(listing.encode()).hexdigest()
