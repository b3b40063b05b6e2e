"""Who holds something in a store: a process of a machine, and whether it still runs."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_START_TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Holder:
    """A process, as others can tell it from any that comes after."""

    host: str
    machine: str
    """Which running system the process id belongs to: another boot, or another container, is another machine."""
    pid: int
    process_started: float
    """Seconds after the machine's start, which no change of its clock moves: a later process may have the same id."""
    since: float
    """When it took hold, in seconds since 1970 by its own clock."""
    id: str

    @staticmethod
    def this_process() -> Holder:
        """The process that asks, from now on."""
        pid = os.getpid()
        return Holder(socket.gethostname(), _machine(), pid, _started(pid), time.time(), uuid.uuid4().hex)

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, so that its process can be looked at."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    @property
    def runs(self) -> bool:
        """Whether its process is there; it may be stopped. Only for a holder of this machine."""
        try:
            started, status = _started(self.pid), psutil.Process(self.pid).status()
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # of another user, and there
            return True
        return status != psutil.STATUS_ZOMBIE and abs(started - self.process_started) < _START_TOLERANCE_S

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, since {local_time(self.since)}"

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Holder:
        """The inverse of `to_bytes`. Raises ValueError for what another version of this program wrote."""
        try:
            return Holder(**json.loads(data))
        except TypeError as error:
            raise ValueError(f"lease: made by another version of stillhouse ({error}); use another run name") from None


def local_time(seconds: float) -> str:
    """A time since 1970 as this machine's clocks show it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _started(pid: int) -> float:
    return psutil.Process(pid).create_time() - psutil.boot_time()


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{psutil.boot_time():.0f}"
