"""What drivers do to a store, without a teacher: for processes that race, or that are stopped or killed on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cluster.lease import Fence, Lease, LeaseHeld, LeaseLost, Timing
from cluster.storage import open_storage
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.store import TargetStore
from workers.teacher.units.commit import commit_unit

FACTS: dict[str, Any] = {"teacher": "teacher", "teacher_fingerprint": "f", "epoch": 1, "started": 0.0, "finished": 1.0}
"""What an entry says of who wrote it, and when."""
QUICK = Timing(beat_s=0.1, stale_s=3.0, watch_s=2.0)
"""For tests; a beat may come late on a busy machine."""
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "s3fs", "cluster.lease", "workers.teacher.units.commit"])


def wait_for(what: Callable[[], object]) -> None:
    """Look every hundredth of a second, for a minute at most."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# In a process of its own ------------------------------------------------------------------------------------


def capture(uri: str, contents: list[UnitTargets], epoch: int) -> list[int]:
    """Commit the units that are missing; returns which ones."""
    storage = open_storage(uri)
    store, fence, captured = TargetStore(storage, "train"), Fence(storage, epoch), []
    for unit, targets in enumerate(contents):
        if store.log.entry(unit) is None and commit_unit(store, entry_of(store, unit, targets, epoch), fence):
            captured.append(unit)
    return captured


def drive(uri: str, contents: list[UnitTargets], last_words: Path) -> None:
    """A driver: takes the lease, then captures under it."""
    with Lease.take(open_storage(uri), "run 'trial'", timing=QUICK) as lease:
        try:
            capture(uri, contents, lease.epoch)
        except LeaseLost as lost:
            last_words.write_text(str(lost))


def hold(uri: str, words: Path) -> None:
    """Take the lease and hold it until it is lost; then leave what its beats and its fence say of that."""
    with Lease.take(open_storage(uri), "run 'trial'", timing=QUICK) as lease:
        said = [lost_by(lease.check), lost_by(lease.fence.check)]
        words.with_suffix(".part").write_text(json.dumps(said))
        words.with_suffix(".part").rename(words)


def lost_by(check: Callable[[], None]) -> str:
    """What a check says when it says that the lease is lost."""
    while True:
        try:
            check()
        except LeaseLost as lost:
            return str(lost)
        time.sleep(0.01)


def take(uri: str, folder: Path, until: str) -> None:
    """Try to take the lease, say what came of it, and keep it until a file is there."""
    found: dict[str, Any] = {"pid": os.getpid(), "epoch": None, "refused": ""}
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(Lease.take(open_storage(uri), "run 'trial'", timing=QUICK))
            found["epoch"] = lease.epoch
        except LeaseHeld as held:
            found["refused"] = str(held)
        (folder / "part").write_text(json.dumps(found))
        (folder / "part").rename(folder / "found")
        while not Path(until).exists():
            time.sleep(0.01)


def race(uri: str, mine: dict[int, UnitTargets], lanes: list[list[int]], gates: Sequence[Any], results: Any) -> None:
    """Some of the writers, a thread for each in every lane. In a lane all commit one unit at a time, together."""
    store = TargetStore(open_storage(uri), "train")

    def write(writer: int, lane: int) -> None:
        for unit in lanes[lane]:
            entry = entry_of(store, unit, mine[writer], epoch=writer)
            gates[lane].wait(120)
            results.put((unit, writer, store.log.commit(entry), entry))

    threads = [threading.Thread(target=write, args=(w, lane)) for w in mine for lane in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def entry_of(store: TargetStore, unit: int, targets: UnitTargets, epoch: int = 1, **more: Any) -> Entry:
    """Write a unit's part; its entry, not yet committed."""
    return Entry.of(unit, store.write_part(unit, targets), targets, **FACTS | {"epoch": epoch} | more)


# In the test ------------------------------------------------------------------------------------------------


def start(work: Callable[..., Any], *arguments: Any, **environment: str) -> BaseProcess:
    """A process that runs `work` in this process's environment and what is added to it."""
    process = processes.Process(target=_run, args=(dict(os.environ) | environment, work, arguments))
    process.start()
    return process


def _run(environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


@contextmanager
def standing_at(
    point: str, folder: Path, work: Callable[..., Any], *arguments: Any, seconds: float = 3600
) -> Iterator[BaseProcess]:
    """A process that runs `work` and stands at a pause point (`name` or `name:N`). It is killed after the block."""
    folder.mkdir()
    pause = {"STILLHOUSE_PAUSE_AT": point, "STILLHOUSE_PAUSE_DIR": str(folder), "STILLHOUSE_PAUSE_S": str(seconds)}
    process = start(work, *arguments, **pause)
    try:
        deadline = time.monotonic() + 60
        while not list(folder.iterdir()):
            assert process.is_alive(), f"the process ended ({process.exitcode}) before it came to {point}"
            assert time.monotonic() < deadline, f"the process did not come to {point}"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.join()


def send(process: BaseProcess, number: signal.Signals) -> None:
    """Send a signal to a process."""
    assert process.pid is not None
    os.kill(process.pid, number)


def take_when_silent(uri: str) -> tuple[Lease, str]:
    """Ask for a lease until its holder has been silent for long enough; the lease, and why it was refused at first."""
    refusal = ""
    deadline = time.monotonic() + 60
    while True:
        try:
            return Lease.take(open_storage(uri), "run 'trial'", timing=QUICK), refusal
        except LeaseHeld as held:
            refusal = refusal or str(held)
            assert time.monotonic() < deadline, refusal
            time.sleep(0.1)
