"""Asking the holder of a lease to leave, from any machine that reaches the store, and waiting until it has.

The request is a key beside the lease (`attempts/0003.stop.json`), at which the holder looks with each of its beats.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import Literal

from cluster.lease import Attempt, Lease, LeaseHeld, StopRequest, Timing, last_attempt, lease_key
from cluster.storage import Storage

ENDING_S = 60.0
"""Seconds that a holder may take to leave beyond what it allows its workers: until it looks, and to close what it has
open."""

_SAY_S = 10.0
"""Between two words to who waits."""

Left = Literal["ended", "gone", "taken over", "silent", "alive"]
"""`gone`: its process is there no more, and it has not said that it ended. `silent`: nothing was heard of it for
`stale_s`. `alive`: it has given signs of life for as long as was waited."""


def ask_to_stop(storage: Storage, attempt: Attempt, *, now: bool = False) -> StopRequest:
    """Ask an attempt's holder to leave in order, or `now` at once. Returns what it is asked: that of who asked before,
    where it need not be at once."""
    key = lease_key(attempt.number, "stop")
    mine = StopRequest(socket.gethostname(), os.getpid(), time.time(), now)
    if not now:
        if storage.create(key, mine.to_bytes()):
            return mine
        try:
            return StopRequest.from_bytes(storage.read(key))
        except ValueError:  # no request, which nobody heeds
            pass
    storage.write(key, mine.to_bytes())
    return mine


def wait_until_over(
    storage: Storage, attempt: Attempt, patience_s: float, say: Callable[[str], None], timing: Timing = Timing()
) -> Left:
    """Wait until an attempt is over, for `patience_s` at most; returns how it stands then. `say` is told now and then
    what is waited for. While the store is out of reach nothing is concluded."""
    keys = [lease_key(attempt.number, "end"), lease_key(attempt.number + 1), lease_key(attempt.number, "beat")]
    began = said = time.monotonic()
    silence = min(max(time.time() - attempt.beat.time, 0.0), timing.stale_s - timing.watch_s)
    counter, moved = attempt.beat.counter, began - silence
    while True:
        time.sleep(min(1.0, timing.beat_s / 5))
        now = time.monotonic()
        try:
            end, later, beat = storage.read_many(keys)
        except OSError as error:
            end, later, beat, moved = None, None, None, now
            words = f"the storage is not reached, and tried again: {error}"
        else:
            words = f"its last sign of life: {now - moved:.0f} s ago"
        if end is not None:
            return "ended"
        if later is not None:
            return "taken over"
        if attempt.holder.is_here and not attempt.holder.runs:
            return "gone"
        if beat is not None and (new := int(json.loads(beat)["counter"])) != counter:
            counter, moved = new, now
        if now - moved >= timing.stale_s:
            return "silent"
        if now - began >= patience_s:
            return "alive"
        if now - said >= _SAY_S:
            said = now
            waited = f"{now - began:.0f} s, of {patience_s:.0f} at most"
            say(f"waiting for attempt {attempt.number} to end: {waited}; {words}")


def take_over(
    storage: Storage,
    what: str,
    say: Callable[[str], None],
    patience_s: Callable[[], float],
    timing: Timing = Timing(),
) -> Lease:
    """Take the next lease, as `Lease.take`; a holder that lives is asked to leave first, and waited for.

    `patience_s`: for how long at most, asked when it is known that there is one. Raises LeaseHeld if it has not left by
    then, or another one took the lease.
    """
    before = last_attempt(storage)
    try:
        return Lease.take(storage, what, say, timing)
    except LeaseHeld:
        if before is None or (last := last_attempt(storage)) is None or last.number != before.number:
            raise  # who was quicker by a moment was not there when this was asked for
    patience = patience_s()
    request = ask_to_stop(storage, before)
    say(
        f"{what} is driven by attempt {before.number} ({before.holder}); asked it to leave ({request}), and waiting "
        f"until it has, {patience:.0f} s at most: what it committed stays"
    )
    if wait_until_over(storage, before, patience, say, timing) == "alive":
        raise LeaseHeld(
            f"{what}: attempt {before.number} ({before.holder}) was asked to leave and has not after "
            f"{patience:.0f} s. Type this again to wait on, or end it: `kill {before.holder.pid}` on "
            f"{before.holder.host}, twice to end it at once"
        )
    return Lease.take(storage, what, say, timing)
