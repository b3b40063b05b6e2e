"""The commit of a captured unit: by a driver that still holds the run, and once."""

from __future__ import annotations

from cluster.faults import pause_point
from cluster.lease import Fence
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore


def commit_unit(store: TargetStore, entry: Entry, fence: Fence) -> bool:
    """Make a unit exist whose parts are written. False if it existed already.

    Raises LeaseLost if another driver took the run over. One that is held up between this look and the commit can
    still make the entry: it is then a whole unit of the same plan, which the new driver passes over, so it does no
    harm; and if the new driver was quicker, the late one has lost and leaves garbage.
    """
    pause_point("before-entry")
    fence.check()
    won = store.log.commit(entry)
    pause_point("after-entry")
    return won
