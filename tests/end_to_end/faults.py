"""Faults at random moments of a run: a process of some kind is killed, a signal is sent, a node or the storage is lost.

Each fault waits until the part of the run that it hit makes progress again, so that its outage is known and the next
one does not come into it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from end_to_end.small_job import CHECKOUT, Job

from cluster.storage import open_storage
from workers.manifest import read_plan
from workers.targets.store import TargetStore

TITLES = {
    "supervisor": "ray::Supervisor",
    "pool": "ray::TeacherPool",
    "leader": "MapWorker(MapBatches(Replica",
    "rank": "ray::RankActor",
    "trainer worker": "RayTrainWorker",
    "board": "ray::Board",
}
"""Kinds of processes that are killed, by their titles."""

TEACHER = ("pool", "leader", "rank")
"""Kinds whose loss stops a capture; the others stop students."""

STUDENTS = ("medical", "medical.hard_labels", "legal", "legal.hard_labels")
"""Of the small job."""

_LONGEST_S = 240
"""Seconds in which a run must make progress after a fault, on the slowest machine that tests run on."""


@dataclass(frozen=True)
class Fault:
    """What was done to a run, and how long until it made progress again."""

    kind: str
    outage_s: float


@dataclass
class Faults:
    """Runs a job to its end, and hits it meanwhile: by each kind in their order, then by any of them."""

    job: Job
    kinds: list[str]
    seed: int
    others: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Faults of further kinds, by name."""
    where: str = ""
    """URI of the run, where it is not in the job's folder."""
    pause_s: tuple[float, float] = (1.0, 4.0)
    """Seconds between two faults."""
    done: list[Fault] = field(default_factory=list)

    def run(self, most: int) -> None:
        """Type the command, again where a fault ended it, until it is done; `most` faults, one of each kind first."""
        chance = random.Random(self.seed)
        driver = self._start()
        try:
            while True:
                pause = time.monotonic() + chance.uniform(*self.pause_s)
                while time.monotonic() < pause and driver.poll() is None:
                    time.sleep(0.1)
                if driver.poll() is not None:
                    self._note_end(driver)
                    if driver.returncode == 0:
                        return
                    driver = self._start()
                    continue
                if len(self.done) < most and self._began():
                    driver = self._hit(chance, driver)
        finally:
            if driver.poll() is None:
                driver.kill()

    def _start(self) -> subprocess.Popen[str]:
        with (self.job.folder / "faults.log").open("ab") as log:
            return subprocess.Popen(
                self.job.command("run"), cwd=CHECKOUT, env=os.environ, stdout=log, stderr=log, text=True
            )

    def _note_end(self, driver: subprocess.Popen[str]) -> None:
        # Before it has begun anything, or while Ray starts, which has a handler of its own.
        killed = (-signal.SIGKILL, -signal.SIGTERM, signal.SIGTERM)
        assert driver.returncode in (0, 130, 143, *killed), f"{driver.returncode}\n{self.output()[-4000:]}"

    def output(self) -> str:
        """All that the command said."""
        return (self.job.folder / "faults.log").read_text(errors="replace")

    def _hit(self, chance: random.Random, driver: subprocess.Popen[str]) -> subprocess.Popen[str]:
        had = {fault.kind for fault in self.done}
        kind = next((kind for kind in self.kinds if kind not in had), None) or chance.choice(self.kinds)
        before = self._marker(kind)
        if kind in TITLES and not self._kill(kind, chance):
            return driver
        if kind in self.others:
            self.others[kind]()
        began, wanted = time.monotonic(), {"driver": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
        if kind in wanted:
            family = psutil.Process(driver.pid).children(recursive=True)
            driver.send_signal(wanted[kind])
            driver.wait(120)
            self._note_end(driver)
            for process in psutil.wait_procs(family, timeout=20)[1]:
                process.kill()
            driver = self._start()
        while self._marker(kind) == before and driver.poll() is None:
            assert time.monotonic() - began < _LONGEST_S, f"{kind}: no progress\n{self.output()[-4000:]}"
            time.sleep(0.1)
        self.done.append(Fault(kind, time.monotonic() - began))
        return driver

    def _kill(self, kind: str, chance: random.Random) -> bool:
        """Whether there was a process of this kind."""
        there = []
        for process in psutil.Process().children(recursive=True):
            try:
                if TITLES[kind] in " ".join(process.cmdline()):
                    there.append(process)
            except psutil.NoSuchProcess:
                continue
        if there:
            chance.choice(sorted(there, key=lambda p: p.pid)).kill()
        return bool(there)

    def _began(self) -> bool:
        return bool(self._units())

    def _marker(self, kind: str) -> Any:
        """What grows as the part of a run goes on that a fault of this kind stops."""
        if kind in TEACHER:
            return self._units() if not self._trained() else self._everything()
        return self._everything()

    def _everything(self) -> Any:
        return self._units(), self._trained()

    def _units(self) -> list[str]:
        return [file.key for file in self._listing("targets") if "/log/" in file.key]

    def _trained(self) -> list[str]:
        return [file.key for file in self._listing("students") if file.key.endswith(".json")]

    def _listing(self, folder: str) -> list[Any]:
        storage = open_storage(self.where or str(self.job.folder / "runs" / "job"))
        while True:
            try:
                return sorted(storage.listing(folder), key=lambda file: file.key)
            except OSError:  # what is not seen is no progress
                time.sleep(0.2)


def assert_same(storage: str, undisturbed: Job, folder: Path) -> None:
    """Every planned unit once, with the same contents, and the same weights."""
    hit, plain = open_storage(storage), open_storage(str(undisturbed.folder / "runs" / "job"))
    for split in ("train", "heldout"):
        found = {e.unit: e.content_hash for e in TargetStore(hit, split).log.every_revision()}
        entries = TargetStore(hit, split).log.entries()
        assert [e.unit for e in entries] == [u.index for u in read_plan(hit, split).units], "lost, or doubled"
        assert found == {e.unit: e.content_hash for e in TargetStore(plain, split).log.entries()}
    for student in STUDENTS:
        files = []
        for name, there in (("hit", hit), ("plain", plain)):
            there.download_folder(f"students/{student}/final", folder / name / student)
            files.append((folder / name / student / "model.safetensors").read_bytes())
        assert files[0] == files[1], student
