"""A Ray of this test process, and leaders of worker groups in it, without Ray Data."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.groups.fault_tolerant_group import FaultTolerantGroup

VOCABULARY = 300
SPEC = CaptureSpec("systematic", 21, "answer", "float32", VOCABULARY, 11)
ROOM = 240
"""Tokens for which the ranks of `fault_ray` find memory at once."""


@contextmanager
def fault_ray(**environment: str) -> Iterator[None]:
    """A Ray whose processes fail on the prompts `poison` ... `poison3`, and on more than ROOM tokens at once."""
    poison = ",".join(["poison", "poison1", "poison2", "poison3"])
    changes = {"STILLHOUSE_FAIL_AT": poison, "STILLHOUSE_ROOM_FOR": str(ROOM), **environment}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Lead:
    """A leader with a place of its own, and what it said."""

    def __init__(self, model: Path, **settings: Any) -> None:
        self.config = TeacherConfig(model=str(model), cpus_per_rank=0.5, **settings)
        self.group = placement_group([{"CPU": 0.5}] * self.config.ep_size)
        self.said: list[str] = []
        self.leader = FaultTolerantGroup(self.config, "teacher t", place=lambda: self.group, say=self.said.append)

    def start(self) -> None:
        """Start the worker group."""
        self.leader.start()

    def close(self) -> None:
        self.leader.close()
        remove_placement_group(self.group)


@contextmanager
def leading(model: Path, **settings: Any) -> Iterator[Lead]:
    """A leader whose worker group ends with the block."""
    lead = Lead(model, **settings)
    try:
        yield lead
    finally:
        lead.close()


def ranks() -> list[int]:
    """Process ids of the living ranks of this process's Ray."""
    family = psutil.Process().children(recursive=True)
    return sorted(p.pid for p in family if "RankActor" in "".join(p.cmdline()) and p.status() != psutil.STATUS_ZOMBIE)


def texts(targets: UnitTargets) -> dict[tuple[str, int], list[int]]:
    """Token ids by prompt and sample."""
    ids = np.split(targets.tokens, np.cumsum(targets.lengths)[:-1])
    keys = zip(targets.prompt_uids, targets.samples.tolist(), strict=True)
    return {key: text.tolist() for key, text in zip(keys, ids, strict=True)}


def asked(*names: str, new_tokens: int = 8, samples: int = 1) -> list[TextRequest]:
    """Prompts to be answered; what a prompt says depends on its name only."""
    return [
        TextRequest(name, sample, _ids(name, 2 + len(name) % 5), None, max_new_tokens=new_tokens)
        for name in names
        for sample in range(samples)
    ]


def given(*names: str, length: int = 12) -> list[TextRequest]:
    """Texts to be scored."""
    return [TextRequest(name, 0, _ids(name, 3), _ids(name[::-1], length)) for name in names]


def _ids(name: str, count: int) -> list[int]:
    return [3 + (sum(name.encode()) * 7 + i * i * 13) % (VOCABULARY - 3) for i in range(count)]


@contextmanager
def meanwhile(seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Do something a while after the block has begun."""

    def later() -> None:
        time.sleep(seconds)
        work()

    thread = threading.Thread(target=later)
    thread.start()
    try:
        yield
    finally:
        thread.join()
