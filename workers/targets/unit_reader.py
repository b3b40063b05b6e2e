"""Whole units for a stream: kept in memory, read ahead in the background, waited for, and waited for again if damaged.

The background asks once for a unit and never waits. A unit that is not committed yet, or is damaged, is the business of
the thread that needs it: errors are raised there.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from workers.targets.commits.damage import MOST_REVISIONS, DamagedShard, DamagedStore, given_up
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.pace import Pace
from workers.targets.shared_units import Made, SharedUnits
from workers.targets.store import TargetStore

Row = TypeVar("Row")
UnitRequest = tuple[int, int]
"""A unit's index, and which of its draws is wanted."""

_POLL_S, _LONGEST_POLL_S = 0.2, 2.0
_PATIENCE = 0.15
"""Part of the time already waited that passes until a unit is asked for again."""
_CACHE_BYTES = 256 << 20
"""Decoded units kept in memory, so that later epochs of a small store do not read it again; half of it at most is for
units read ahead."""
_THREADS, _REMOTE_THREADS = 2, 16
"""That read ahead, where units lie in a local folder, and where each is two requests that mostly wait."""
_MOST_FALSE_ALARMS = 3
"""Times that a unit may be damaged for this reader and fine for the repairer."""


@dataclass(frozen=True)
class LoadedUnit(Generic[Row]):
    """A decoded unit: its rows, which revision they are, and the bytes of its arrays."""

    rows: list[Row]
    revision: int
    bytes: int


class UnitReader(Generic[Row]):
    """Units of one store, each with one of its draws.

    `on_wait(unit, seconds)` is called while a unit is not there yet. `on_damage(damage)` is called when a damaged unit
    is marked: it raises, or it returns where somebody recomputes the unit; the reader then waits for that. `shared`:
    where units lie that other processes of this machine have decoded. `cache_share`: the part that it may have of the
    memory for units, where a process has several readers.
    """

    def __init__(
        self,
        store: TargetStore,
        rows_of: Callable[[int, UnitTargets], list[Row]],
        name: str,
        on_wait: Callable[[int, float], None],
        on_damage: Callable[[DamagedShard], None],
        shared: SharedUnits | None = None,
        cache_share: float = 1.0,
    ) -> None:
        self._shared, self._cache_share = shared, cache_share
        where = f"{store.storage.uri}/{store.root}"
        self._mine = hashlib.sha256(where.encode()).hexdigest()[:8]
        """In the names of shared units: those of other stores may lie beside them."""
        self._store, self._rows_of, self._name = store, rows_of, name
        self._on_wait, self._on_damage = on_wait, on_damage
        self._cache: OrderedDict[UnitRequest, LoadedUnit[Row]] = OrderedDict()
        self._ahead: dict[UnitRequest, Future[LoadedUnit[Row] | None]] = {}
        self._largest = 0
        self._alarms: Counter[int] = Counter()
        self._pace = Pace()
        threads = _THREADS if store.storage.local_path(store.root) is not None else _REMOTE_THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")

    def get(self, wanted: UnitRequest) -> LoadedUnit[Row]:
        """A unit; waits until it is committed. Raises what `on_damage` raises, and DamagedStore where repairs are of
        no use."""
        if wanted in self._cache:
            self._cache.move_to_end(wanted)
            return self._cache[wanted]
        waiting = _Waiting(wanted[0], self._on_wait)
        self._pace.ask()
        while True:
            try:
                loaded = self._read_ahead(wanted) or self._read(wanted)
            except DamagedShard as damage:
                self._await_repair(damage)
                continue
            if loaded is not None:
                self._pace.serve()
                return self._keep(wanted, loaded)
            waiting.sleep()

    @property
    def _cache_bytes(self) -> int:
        return int(_CACHE_BYTES * self._cache_share)

    @property
    def ahead(self) -> int:
        """Units that are worth reading ahead, of all domains together: by how soon they are used up."""
        return self._pace.ahead

    def look_ahead(self, coming: Iterable[UnitRequest]) -> None:
        """Begin to read the units that will be asked for next, in that order, as far as there is room for them."""
        for wanted in coming:
            future = self._ahead.get(wanted)
            asked_too_early = future is not None and future.done() and not future.exception() and not future.result()
            if wanted in self._cache or (future is not None and not asked_too_early):
                continue
            if not self._largest or (len(self._ahead) + 1) * self._largest > self._cache_bytes // 2:
                return
            self._ahead[wanted] = self._pool.submit(self._read, wanted)
            if asked_too_early:
                return  # the teacher was not there yet: nor will it be at those after

    def close(self) -> None:
        """End the background's threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self, wanted: UnitRequest) -> LoadedUnit[Row] | None:
        """What the background read of a unit; None if nothing. Raises what it met."""
        future = self._ahead.pop(wanted, None)
        return None if future is None or future.cancel() else future.result()

    def _read(self, wanted: UnitRequest) -> LoadedUnit[Row] | None:
        """Ask once for a unit; None while it is not committed."""
        started = time.monotonic()
        name = "-".join([self._mine, *(f"{number:08d}" for number in wanted)])
        fetch = lambda: self._fetch(wanted)  # noqa: E731
        made = self._shared.get(name, fetch) if self._shared is not None else fetch()
        if made is None:
            return None
        targets, revision = made
        size = sum(a.nbytes for a in vars(targets).values() if isinstance(a, np.ndarray))
        loaded = LoadedUnit(self._rows_of(wanted[0], targets), revision, size)
        self._pace.note_read(time.monotonic() - started)
        return loaded

    def _fetch(self, wanted: UnitRequest) -> Made | None:
        unit, draw = wanted
        entry = self._store.log.entry(unit)
        return None if entry is None else (self._store.read_unit(entry, draw), entry.revision)

    def _keep(self, wanted: UnitRequest, loaded: LoadedUnit[Row]) -> LoadedUnit[Row]:
        self._cache[wanted] = loaded
        self._largest = max(self._largest, loaded.bytes, 1)
        room = self._cache_bytes - len(self._ahead) * self._largest
        while len(self._cache) > 1 and sum(u.bytes for u in self._cache.values()) > room:
            self._cache.popitem(last=False)
        return loaded

    def _await_repair(self, damage: DamagedShard) -> None:
        """Mark the damage, and wait until the unit has its next revision or the mark was taken away."""
        log, unit, revision = self._store.log, damage.unit, damage.revision
        log.look_for_repairs()
        if log.revision(unit) > revision:
            return
        log.mark_damaged(unit, revision, damage.part, damage.reason, self._name)
        if revision >= MOST_REVISIONS:
            raise DamagedStore(given_up(self._store.split, unit, revision, self._store.storage.uri, damage.reason))
        self._alarms[unit] += 1
        if self._alarms[unit] > _MOST_FALSE_ALARMS:
            raise DamagedStore(
                f"unit {unit} is damaged here ({damage.reason}), but the teacher reads it well, for the "
                f"{_MOST_FALSE_ALARMS}rd time: check the memory, the disk and the network of this machine"
            )
        self._on_damage(damage)
        waiting = _Waiting(unit, self._on_wait)
        while log.entry(unit, revision + 1) is None and log.marks.exists(unit, revision):
            waiting.sleep()


class _Waiting:
    """Says how long a unit was waited for, and sleeps, longer each time."""

    def __init__(self, unit: int, tell: Callable[[int, float], None]) -> None:
        self._unit, self._tell = unit, tell
        self._start = time.monotonic()

    def sleep(self) -> None:
        waited = time.monotonic() - self._start
        self._tell(self._unit, waited)
        time.sleep(min(max(_POLL_S, _PATIENCE * waited), _LONGEST_POLL_S))
