"""One driver at a time: a lease with a number, kept alive by beats, and a fence against holders that are late.

Below a folder of a store (`attempts/`): `0003.json` says who holds lease 3, and is made by create-if-absent, so that
a number (an epoch) has one holder. `0003.beat.json` is its sign of life, `0003.end.json` its end; by `0003.stop.json`
others ask the holder to leave (cluster/stopping.py). The highest number holds; whoever has a lower one must not write
what others rely on, and finds that out at the fence.

Clocks of two machines are never trusted to agree: a holder elsewhere is known to live by the counter of its beats
moving, and known to be gone by its standing still.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

from cluster.holder import Holder, local_time
from cluster.storage import Storage

FOLDER = "attempts"


@dataclass(frozen=True)
class Timing:
    """The times of a lease, in seconds."""

    beat_s: float = 5.0
    """Between two beats."""
    stale_s: float = 60.0
    """Silence after which a holder counts as gone."""
    watch_s: float = 12.0
    """How long the counter is watched at least before a lease is taken from a silent holder: more than two beats."""


class LeaseHeld(ValueError):
    """Another one holds the lease and lives."""


class LeaseLost(RuntimeError):
    """Another one took the lease over: this holder must not write any more."""


@dataclass(frozen=True)
class Beat:
    """A sign of life."""

    counter: int
    time: float


@dataclass(frozen=True)
class StopRequest:
    """Somebody asks the holder to leave."""

    host: str
    pid: int
    time: float
    """In seconds since 1970, by the clock of who asks."""
    now: bool = False
    """At once, in place of in order."""

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, at {local_time(self.time)}"

    @property
    def how(self) -> str:
        """How it is to leave, in words."""
        return "at once" if self.now else "in order: workers write their checkpoints first"

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> StopRequest:
        """The inverse of `to_bytes`. Raises ValueError for what is none."""
        try:
            return StopRequest(**json.loads(data))
        except TypeError as error:
            raise ValueError(f"stop request: made by another version of stillhouse ({error})") from None


class Fence:
    """What a holder's workers ask before they write something that counts. Cheap: one look at one key.

    Between the look and the write lies a moment in which another may take over. What is written then must be harmless:
    a unit's entry is whole, of the same plan, and made only if absent, so that the new holder finds it committed.
    """

    def __init__(self, storage: Storage, epoch: int) -> None:
        self._storage, self.epoch = storage, epoch

    def check(self) -> None:
        """Raise LeaseLost, saying who took over and when, if a later lease exists."""
        if not self._storage.exists(lease_key(self.epoch + 1)):
            return
        newest = newest_epoch(self._storage)
        raise LeaseLost(
            f"attempt {self.epoch} was taken over by attempt {newest} ({_holder(self._storage, newest)}); "
            "what this one committed stays, and it writes nothing more"
        )


class Lease:
    """A lease that was taken. A context manager: it ends with the block, also by an error."""

    def __init__(self, storage: Storage, epoch: int, holder: Holder, timing: Timing) -> None:
        self.epoch, self.holder = epoch, holder
        self.fence = Fence(storage, epoch)
        self._storage, self._timing = storage, timing
        self._lost: LeaseLost | None = None
        self._tell: Callable[[StopRequest], None] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"lease-{epoch}", daemon=True)
        self._thread.start()

    @staticmethod
    def take(
        storage: Storage, what: str, say: Callable[[str], None] = lambda text: None, timing: Timing = Timing()
    ) -> Lease:
        """Take the next lease. `what` names the thing that is held, in messages; `say` is told what is waited for.

        Raises LeaseHeld while the last holder lives. One whose process on this machine is gone, or that has ended, is
        followed at once; for one that is silent this waits until it can be known to be gone.
        """
        last = newest_epoch(storage)
        if last and (sign := _sign_of_life(storage, last, what, say, timing)) is not None:
            raise LeaseHeld(_refusal(what, last, _holder(storage, last), sign, timing, storage.uri))
        epoch, holder = last + 1, Holder.this_process()
        if not storage.create(lease_key(epoch), holder.to_bytes()) or newest_epoch(storage) != epoch:
            winner = newest_epoch(storage)
            sign = "it was quicker by a moment"
            raise LeaseHeld(_refusal(what, winner, _holder(storage, winner), sign, timing, storage.uri))
        return Lease(storage, epoch, holder, timing)

    def check(self) -> None:
        """Raise LeaseLost if a beat has found that another took over. Looks at no store; `fence.check()` does."""
        if self._lost is not None:
            raise self._lost

    def when_asked_to_stop(self, tell: Callable[[StopRequest], None]) -> None:
        """Have `tell` called, by the thread of the beats, when somebody asks the holder to leave, or has asked before;
        once more when one asks that it be at once."""
        self._tell = tell

    def release(self) -> None:
        """End the lease, so that the next holder need not wait. No mark is left on one that is lost."""
        self._ended.set()
        self._thread.join(self._timing.beat_s)
        if self._lost is None:
            self._storage.write(lease_key(self.epoch, "end"), json.dumps({"time": time.time()}).encode())

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # without its mark a lease ends by itself: with the process, or by silence
            self.release()

    def _beat_on(self) -> None:
        counter = 0
        heard: StopRequest | None = None
        while True:
            try:
                heard = self._look(heard)
                beat = {"counter": counter, "time": time.time()}
                self._storage.write(lease_key(self.epoch, "beat"), json.dumps(beat).encode())
            except LeaseLost as lost:
                self._lost = lost
                return
            except OSError:
                pass  # a store out of reach: the next beat makes up for it, or others may take over
            counter += 1
            if self._ended.wait(self._timing.beat_s):
                return

    def _look(self, heard: StopRequest | None) -> StopRequest | None:
        """Look for a later lease and for who asks to leave, in one go; returns the last request that was told of, after
        `heard`. Raises LeaseLost."""
        taken, asked = self._storage.read_many([lease_key(self.epoch + 1), lease_key(self.epoch, "stop")])
        if taken is not None:
            self.fence.check()
        if self._tell is None or self._ended.is_set() or (request := _request(asked)) is None:
            return heard
        if heard is None or (request.now and not heard.now):
            self._tell(request)
            return request
        return heard


@dataclass(frozen=True)
class Attempt:
    """One lease of those that were taken, as whoever looks at the store from anywhere sees it."""

    number: int
    holder: Holder
    beat: Beat
    ended: float | None
    """When it was released, by its holder's clock; None of one that lives, or that died."""
    asked: StopRequest | None = None
    """Who asked it to leave."""

    def sign(self, now: float, timing: Timing = Timing()) -> Sign:
        """How it stands at a time of this machine's clock: `gone` is a process of this machine that is there no more,
        `silent` one whose last beat is old."""
        if self.ended is not None:
            return "ended"
        if self.holder.is_here and not self.holder.runs:
            return "gone"
        return "silent" if now - self.beat.time >= timing.stale_s else "alive"


Sign = Literal["alive", "silent", "gone", "ended"]


def last_attempt(storage: Storage) -> Attempt | None:
    """The last lease that was taken. One listing, and four small keys. Raises ValueError if another version of this
    program wrote its holder."""
    found = attempts(storage, last=1)
    if not found and (newest := newest_epoch(storage)):
        _holder(storage, newest)
    return found[0] if found else None


def attempts(storage: Storage, *, last: int | None = None) -> list[Attempt]:
    """The leases that were taken, in order; or only so many, the last ones. One listing, and four small keys of each.

    One whose holder another version of this program wrote is left out.
    """
    epochs = range(1, newest_epoch(storage) + 1)[-last if last else None :]
    kinds = ("", "beat", "end", "stop")
    data = storage.read_many([lease_key(epoch, kind) for epoch in epochs for kind in kinds])
    found = []
    for i, epoch in enumerate(epochs):
        held, beat, end, stop = data[len(kinds) * i : len(kinds) * (i + 1)]
        with suppress(ValueError):
            holder = Holder.from_bytes(held or b"{}")
            sign = Beat(**json.loads(beat)) if beat else Beat(-1, holder.since)
            found.append(Attempt(epoch, holder, sign, json.loads(end)["time"] if end else None, _request(stop)))
    return found


def living_holder(storage: Storage, timing: Timing = Timing()) -> Holder | None:
    """The holder of the last lease, unless it has ended or been silent for `stale_s` by this machine's clock."""
    epoch = newest_epoch(storage)
    if not epoch or _is_over(storage, epoch, holder := _holder(storage, epoch)):
        return None
    silent = time.time() - _last_beat(storage, epoch, holder).time >= timing.stale_s
    return None if silent else holder


def newest_epoch(storage: Storage) -> int:
    """The highest number of a lease that was ever taken; 0 if there is none."""
    names = (key.rsplit("/", 1)[-1] for key in storage.keys(FOLDER))
    return max((int(m[1]) for name in names if (m := re.fullmatch(r"(\d+)\.json", name))), default=0)


def lease_key(epoch: int, kind: str = "") -> str:
    """The key that says who holds a lease, or one beside it."""
    return f"{FOLDER}/{epoch:04d}.{kind}.json" if kind else f"{FOLDER}/{epoch:04d}.json"


def _holder(storage: Storage, epoch: int) -> Holder:
    return Holder.from_bytes(storage.read(lease_key(epoch)))


def _request(data: bytes | None) -> StopRequest | None:
    """What a holder is asked, if anything: what is no request asks for nothing."""
    with suppress(ValueError):
        return StopRequest.from_bytes(data) if data is not None else None
    return None


def _last_beat(storage: Storage, epoch: int, holder: Holder) -> Beat:
    try:
        return Beat(**json.loads(storage.read(lease_key(epoch, "beat"))))
    except FileNotFoundError:
        return Beat(-1, holder.since)


def _sign_of_life(storage: Storage, epoch: int, what: str, say: Callable[[str], None], timing: Timing) -> str | None:
    """How the last holder is known to live; None if its lease is free.

    A process of this machine that is there is believed as long as its last beat is young. It may be stopped, or hung;
    and of another machine's nothing is known but its beats. Both are watched until they have been silent for
    `stale_s`, and for `watch_s` at least: an old time in a beat may be that of a wrong clock.
    """
    holder = _holder(storage, epoch)
    beat = _last_beat(storage, epoch, holder)
    silence = time.time() - beat.time
    if _is_over(storage, epoch, holder):
        return None
    if holder.is_here and silence < timing.stale_s:
        return f"its last sign of life is {max(silence, 0):.0f} s old"
    patience = max(timing.watch_s, min(timing.stale_s - silence, timing.stale_s))
    say(
        f"{what} was last driven by attempt {epoch} ({holder}), whose last sign of life was at "
        f"{local_time(beat.time)} by its clock; watching for another one, {patience:.0f} s at most"
    )
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(min(1.0, timing.beat_s / 5))
        if _is_over(storage, epoch, holder):
            return None
        if _last_beat(storage, epoch, holder).counter != beat.counter:
            return "it gave a sign of life just now"
    return None


def _is_over(storage: Storage, epoch: int, holder: Holder) -> bool:
    return storage.exists(lease_key(epoch, "end")) or (holder.is_here and not holder.runs)


def _refusal(what: str, epoch: int, holder: Holder, sign: str, timing: Timing, where: str) -> str:
    return (
        f"{what} is driven by attempt {epoch} already: {holder}; {sign}. Wait until it ends, or end it (`stillhouse "
        f"stop {where}`, or `kill {holder.pid}` on {holder.host}) and type this again: what it committed stays. "
        "`stillhouse run CONFIG --take-over` does both. If that machine is gone, its lease is free "
        f"{timing.stale_s:.0f} s after its last sign of life"
    )
