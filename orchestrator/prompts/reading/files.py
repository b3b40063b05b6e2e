"""Which files a source is: one, several of a pattern or a folder, a dataset saved on disk; here or on S3, compressed or
not. Each comes as its rows, in the order of the files' names."""

from __future__ import annotations

import glob
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from cluster.storage import Storage, open_ranges, open_storage
from orchestrator.prompts.reading import tables
from orchestrator.prompts.reading.formats import TABLE
from orchestrator.prompts.reading.sample import SKIPPED, EvenSample

Reader = Callable[[BinaryIO, EvenSample, tables.Part], Iterator[Any]]

READERS: dict[str, Reader] = {
    ".jsonl": tables.json_rows,
    ".json": tables.json_rows,
    ".csv": tables.csv_rows,
    ".parquet": tables.parquet_rows,
}
COMPRESSED = (".gz", ".zst")
_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON beside data, not data."""

_SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")} | {
    "test": ("test", "testing", "eval", "evaluation")
}
"""Words in the names of a folder's files that say which split they are, as the Hub reads them."""


@dataclass(frozen=True)
class Row:
    """One row as it was read: usually an object; a ValueError in place of one that is broken."""

    value: Any
    file: str
    """Its file's name, where the source is several; else ""."""
    number: int
    """From 0, in its file."""


SKIPPED_ROW = Row(SKIPPED, "", -1)
"""One that is counted and not read."""


@dataclass(frozen=True)
class DataFile:
    """A file of a source that can be opened."""

    name: str
    raw: Callable[[], BinaryIO]
    """Opens its bytes as they are kept."""
    rows: Reader
    unpack: Callable[[BinaryIO], BinaryIO] | None = None
    """Makes of them those of the file that was compressed; such a file is read from its beginning."""

    def open(self) -> BinaryIO:
        file = self.raw()
        return self.unpack(file) if self.unpack is not None else file

    @property
    def parts_by(self) -> Literal["lines", "groups"] | None:
        """By what parts of it can be read apart; None where they cannot. Opens the file."""
        if self.unpack is not None:
            return None
        if self.rows is tables.parquet_rows:
            return "groups"
        if self.rows is not tables.json_rows:
            return None
        with self.open() as file:
            return "lines" if tables.holds_lines(file) else None

    def size(self) -> int:
        """Its bytes, as they are kept."""
        with self.raw() as file:
            return file.seek(0, io.SEEK_END)


def kind_of(name: str) -> str | None:
    """The suffix that says how a file is read, without that of its compression; None for any other file."""
    path = PurePosixPath(name)
    suffix = PurePosixPath(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return suffix if suffix in READERS else None


def has_pattern(name: str) -> bool:
    """Whether a name stands for every file that matches it."""
    return any(character in name for character in "*?[")


def data_files(path: str, split: str) -> list[DataFile] | None:
    """The files of a source; None for a name that is of no file or folder here, perhaps a dataset's on the Hub.

    `split` chooses among those of a folder. Raises ValueError for files that are not there or are not read.
    """
    if path.startswith("s3://"):
        return _remote_files(path, split)
    if "://" in path:
        raise ValueError(f"{path!r} is neither a file here nor s3://bucket/key")
    if Path(path).is_file():
        return [_file(path, "", partial(_open_local, path))]
    if Path(path).is_dir():
        return _folder(LocalFolder(Path(path)), path, split)
    if has_pattern(path):
        found = sorted(p for p in glob.glob(path, recursive=True) if Path(p).is_file())
        if not found:
            raise ValueError(f"no file matches {path!r}")
        return [_file(p, p, partial(_open_local, p)) for p in found]
    if kind_of(path) is not None or path.startswith(("/", ".", "~")):
        raise ValueError(f"no such file {path!r}")
    return None


def rows_of(
    files: list[DataFile], sample: EvenSample | None = None, part: tables.Part = tables.WHOLE, *, named: bool = False
) -> Iterator[Row]:
    """The rows of files, or of a part of each, one file after another; SKIPPED_ROW for those that a sample leaves out.
    Rows say of which file they are where there are several, or if `named`. Raises ValueError for a file that is
    damaged, naming it."""
    sample = sample or EvenSample()
    for item in files:
        name, number = item.name if named or len(files) > 1 else "", -1
        try:
            with item.open() as file:
                for number, value in enumerate(item.rows(file, sample, part)):
                    yield SKIPPED_ROW if value is SKIPPED else Row(value, name, number)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{item.name!r} is damaged after row {number + 1} ({error}); fetch it again") from None
        except OSError as error:
            why = error.strerror or str(error)
            raise ValueError(f"cannot read {item.name!r} after row {number + 1}: {why}") from None
        except ValueError as error:
            raise ValueError(f"{item.name!r}: {error}") from None


def rows_by_footers(files: list[DataFile]) -> int:
    """Rows of files that all say it in a footer (Parquet); 0 where one does not, or cannot be read."""
    if any(item.rows is not tables.parquet_rows for item in files):
        return 0
    try:
        lengths = []
        for item in files:
            with item.open() as file:
                lengths.append(sum(tables.parquet_groups(file)))
    except OSError:
        return 0
    return sum(lengths) if all(lengths) else 0


class LocalFolder:
    """A folder on this machine, as far as a source needs one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(p.relative_to(self._folder).as_posix() for p in self._folder.rglob("*") if p.is_file())

    def open(self, name: str) -> BinaryIO:
        return (self._folder / name).open("rb")


class RemoteFolder:
    """The same on S3. A file is read in blocks, as far as it is asked for."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._sizes: dict[str, int] = {}
        """Of files that were listed: no other request is made for theirs."""

    def names(self) -> list[str]:
        self._sizes = {stored.key: stored.bytes for stored in self._storage.listing("")}
        return sorted(self._sizes)

    def open(self, name: str) -> BinaryIO:
        return open_ranges(self._storage, name, size=self._sizes.get(name))


def _remote_files(path: str, split: str) -> list[DataFile]:
    pattern = has_pattern(path)
    if kind_of(path) is not None and not pattern:
        base, _, name = path.rpartition("/")
        return [_file(path, "", partial(RemoteFolder(open_storage(base)).open, name))]
    base = path[: re.search(r"[*?\[]", path).start()].rpartition("/")[0] if pattern else path.rstrip("/")  # type: ignore[union-attr]
    folder = RemoteFolder(open_storage(base))
    if not pattern:
        return _folder(folder, path, split)
    wanted = re.compile(_as_regex(path[len(base) + 1 :]))
    found = [name for name in folder.names() if wanted.fullmatch(name)]
    if not found:
        raise ValueError(f"no file matches {path!r}")
    return [_file(name, f"{base}/{name}", partial(folder.open, name)) for name in found]


def _folder(folder: LocalFolder | RemoteFolder, path: str, split: str) -> list[DataFile]:
    """The files of a folder: those of a dataset saved there, else all that are read, of the split that is asked for."""
    names = folder.names()
    if saved := tables.saved_dataset(names, folder.open, split):
        return [DataFile(name, partial(folder.open, name), tables.arrow_rows) for name in saved]
    shown = [n for n in names if not any(part.startswith((".", "_")) for part in n.split("/"))]
    data = [n for n in shown if kind_of(n) is not None and PurePosixPath(n).name not in _METADATA]
    if not data:
        raise ValueError(f"the folder {path!r} holds no file that is read ({', '.join(READERS)}); see {TABLE}")
    by_split: dict[str, list[str]] = {}
    for name in data:
        by_split.setdefault(_split_of(name), []).append(name)
    if set(by_split) == {""}:
        by_split["train"] = data
    if split not in by_split:
        there = ", ".join(sorted(filter(None, by_split)))
        raise ValueError(f"the folder {path!r} has no split {split!r}, but {there}; set dataset_split")
    return [_file(name, name, partial(folder.open, name)) for name in by_split[split]]


def _split_of(name: str) -> str:
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, own in _SPLITS.items() if any(word in words for word in own)), "")


def _file(path: str, name: str, opened: Callable[[], BinaryIO]) -> DataFile:
    kind = kind_of(path)
    if kind is None:
        raise ValueError(
            f"{path!r} is not a kind of file that is read; use {', '.join(READERS)}, each also .gz or .zst; see {TABLE}"
        )
    suffix = PurePosixPath(path).suffix
    unpack = partial(_unpacked, suffix, kind == ".parquet") if suffix in COMPRESSED else None
    return DataFile(name or path, opened, READERS[kind], unpack)


def _open_local(path: str) -> BinaryIO:
    return Path(path).open("rb")


def _unpacked(suffix: str, seekable: bool, file: Any) -> BinaryIO:
    if suffix == ".gz":
        plain: Any = gzip.GzipFile(fileobj=file)
    else:
        import pyarrow as pa

        plain = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), "zstd"))
    return io.BytesIO(plain.read()) if seekable else plain


def _as_regex(pattern: str) -> str:
    """A shell pattern as a regular expression: `*` stays within a folder, `**/` is any folders."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
