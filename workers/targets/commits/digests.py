"""Digests of a log: the entries of many units in one file, so that who opens the log need not ask for each.

    log/g0000/digests/00000000-00009999-10000-7f3a....parquet    entries of units 0 ... 9999, 10000 of them

A digest is a cache and no truth. A unit is committed if its entry is listed, and what a digest says of an entry counts
only where the listing still shows the entry that the digest was made of (`Stored.version`): an entry that was deleted
is gone, and one that was made anew is read. So digests may be deleted at any time, and lag behind the log.

They are made by a run's driver alone, never changed, and named by what they hold. Those that are not full are merged
into the next one, so that there are few, however often a run was resumed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage, Stored, read_buffer
from workers.layout import LogLayout
from workers.targets.commits.damage import MOST_REVISIONS

ROWS = 10_000
"""Entries of a full digest: 2 to 3 MB."""
LEAST = 1_000
"""Entries that are in no digest before one is made of them: so many are read one by one in a second or two."""
_AT_ONCE = 1_000
"""Entries that are looked up, or asked of the storage, together."""
_REVISIONS = 16
assert MOST_REVISIONS < _REVISIONS

Read = Callable[[list[str]], list[bytes | None]]
"""Contents of keys, None where one is missing."""


@dataclass(frozen=True)
class Listed:
    """Entries as the storage lists them, in order of units: what is committed. A million take 16 MB."""

    codes: np.ndarray
    """[N] ascending: unit and revision of each, as one number."""
    versions: np.ndarray
    """[N] which making of the entry it is (64 bits of a hash of `Stored.version`)."""

    @staticmethod
    def of(files: Iterable[Stored]) -> Listed:
        codes, versions = array("q"), array("q")
        for file in files:
            unit, revision = LogLayout.unit_of(file.key)
            codes.append(unit * _REVISIONS + revision)
            versions.append(_version(file))
        return Listed(np.array(codes, np.int64), np.array(versions, np.int64)).in_order()

    def in_order(self) -> Listed:
        return self.where(np.argsort(self.codes, kind="stable"))

    @property
    def units(self) -> np.ndarray:
        return self.codes // _REVISIONS

    @property
    def revisions(self) -> np.ndarray:
        return self.codes % _REVISIONS

    def where(self, chosen: np.ndarray | slice) -> Listed:
        """Some of them, by a mask or by their places."""
        return Listed(self.codes[chosen], self.versions[chosen])

    def pieces(self, size: int) -> Iterator[Listed]:
        """All of them, so many at a time."""
        for start in range(0, len(self.codes), size):
            yield self.where(slice(start, start + size))

    def and_also(self, others: Listed) -> Listed:
        """These and others, which are none of these."""
        codes = np.concatenate([self.codes, others.codes])
        return Listed(codes, np.concatenate([self.versions, others.versions])).in_order()

    def places_of(self, wanted: Listed) -> np.ndarray:
        """[wanted] the place of each here; -1 where it is not, or is here as it was before it was made anew."""
        if not len(self.codes):
            return np.full(len(wanted.codes), -1)
        at = np.minimum(np.searchsorted(self.codes, wanted.codes), len(self.codes) - 1)
        same = (self.codes[at] == wanted.codes) & (self.versions[at] == wanted.versions)
        return np.where(same, at, -1)

    def holds(self, wanted: Listed) -> np.ndarray:
        """[wanted] whether each is here, as it is now."""
        return self.places_of(wanted) >= 0


_Digest = tuple[Listed, pa.ChunkedArray]
"""A digest that was read: which entries it holds, and their contents."""


@dataclass(frozen=True)
class _Name:
    """What a digest's key says."""

    key: str
    first: int
    last: int
    rows: int
    sha256: str


class Digests:
    """The digests of one log."""

    def __init__(self, storage: Storage, layout: LogLayout) -> None:
        self._storage, self._layout = storage, layout
        self._known: dict[str, Listed] = {}
        """What digests hold that were read before: they never change."""

    def contents(self, wanted: Listed, read: Read) -> Iterator[tuple[int, int, bytes | None]]:
        """Unit, revision and content of each wanted entry in order, from digests where they hold it, else by `read`.

        The content is None of an entry that was deleted since it was listed. In memory are the digests about here.
        """
        coming = self._names() if len(wanted.codes) else []
        digests: dict[_Name, _Digest] = {}
        for some in wanted.pieces(_AT_ONCE):
            first, last = int(some.units[0]), int(some.units[-1])
            needed = [n for n in [*digests, *coming] if n.last >= first]
            coming = [n for n in needed if n.first > last]
            digests = {n: digests.get(n) or self._open(n) for n in needed if n.first <= last}
            found = self._some(some, digests.values(), read)
            yield from zip(some.units.tolist(), some.revisions.tolist(), found, strict=True)

    def _some(self, wanted: Listed, digests: Iterable[_Digest], read: Read) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(wanted.codes)
        missing = np.ones(len(wanted.codes), bool)
        for listed, entries in digests:
            places = listed.places_of(wanted)
            here = np.flatnonzero((places >= 0) & missing)
            missing[here] = False
            for i, data in zip(here.tolist(), entries.take(pa.array(places[here])).to_pylist(), strict=True):
                found[i] = data
        asked = np.flatnonzero(missing)
        keys = [self._layout.entry(int(wanted.units[i]), int(wanted.revisions[i])) for i in asked]
        for i, data in zip(asked.tolist(), read(keys) if keys else [], strict=True):
            found[i] = data
        return found

    def add(self, listed: Listed, read: Read, least: int = LEAST) -> int:
        """Put listed entries that no digest holds into one, if there are `least` of them; returns how many there were.

        Digests that are not full are merged with them. Raises OSError if the storage fails; nothing is lost by that.
        """
        names = self._names()
        held = np.zeros(len(listed.codes), bool)
        for name in names:
            held |= self._holds(name).holds(listed)
        if (new := int((~held).sum())) < max(least, 1):
            return 0
        small = [n for n in names if n.rows < ROWS]
        for name in small:
            held &= ~self._holds(name).holds(listed)
        written = {self._write(some, read) for some in listed.where(~held).pieces(ROWS)}
        for name in small:  # what of them is still listed lies in the new ones
            if name.key not in written:
                self._storage.delete(name.key)
        return new

    def needless(self, listed: Listed) -> list[str]:
        """Keys of digests that hold nothing listed that a larger one, or one before, does not hold too."""
        keys, held = [], np.zeros(len(listed.codes), bool)
        for name in sorted(self._names(), key=lambda n: (-n.rows, n.key)):
            here = self._holds(name).holds(listed)
            if not (here & ~held).any():
                keys.append(name.key)
            held |= here
        return keys

    def _names(self) -> list[_Name]:
        keys = self._storage.keys(self._layout.digests)
        return [_Name(key, *LogLayout.digest_of(key)) for key in keys]

    def _holds(self, name: _Name) -> Listed:
        if name.key not in self._known:
            self._known[name.key] = self._open(name)[0]
        return self._known[name.key]

    def _open(self, name: _Name) -> _Digest:
        """A digest. One that was merged into another meanwhile, or whose bytes are not those written, holds nothing."""
        try:
            buffer = read_buffer(self._storage, name.key)
        except FileNotFoundError:
            return _NOTHING
        if hashlib.sha256(buffer.getbuffer()).hexdigest()[: len(name.sha256)] != name.sha256:
            return _NOTHING
        table = pq.ParquetFile(buffer).read(use_threads=False)
        return Listed(table["code"].to_numpy(), table["version"].to_numpy()), table["entry"]

    def _write(self, entries: Listed, read: Read) -> str:
        """Make a digest of entries, unless all of them were deleted since; returns its key."""
        found = [data for _, _, data in self.contents(entries, read)]
        entries = entries.where(np.array([data is not None for data in found], bool))
        contents = [data for data in found if data is not None]
        if not contents:
            return ""
        columns = {"code": entries.codes, "version": entries.versions, "entry": pa.array(contents, pa.binary())}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd", use_dictionary=False, write_statistics=False)
        data = sink.getvalue().to_pybytes()
        first, last, digest = int(entries.units[0]), int(entries.units[-1]), hashlib.sha256(data).hexdigest()
        key = self._layout.digest(first, last, len(contents), digest[:16])
        self._storage.write(key, data)
        return key


def _version(file: Stored) -> int:
    digest = hashlib.blake2b(f"{file.bytes} {file.version}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


_NOTHING: _Digest = (Listed.of(()), pa.chunked_array([], pa.binary()))
