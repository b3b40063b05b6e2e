"""A worker group: rank actors in one placement group that form one process group and act as one model.

It runs texts, finds ranks that die, hang or raise, and says which of several errors was the first. It knows nothing of
Ray Data, units or stores, and decides nothing about faults (fault_tolerant_group.py); the on-policy service to come
leads worker groups too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from workers.failures import death
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.choosing import rank_environment
from workers.teacher.groups.dealing import deal
from workers.teacher.groups.hang_detector import HangDetector
from workers.teacher.groups.rank import RankActor
from workers.teacher.groups.rank_error import RankError
from workers.teacher.groups.recovery import GroupFault

_LOOK_S = 5.0
"""Seconds between two looks at ranks that run, at most."""

_OTHERS_S = 5.0
"""Seconds in which the other ranks' errors come in after the first; what came first is not always what was first."""


class WorkerGroup:
    """`ep_size` ranks as one model, in a placement group that is ready. After a fault it is closed and made anew.
    `at_work` is told now and then, while texts are run, how many of them are in slots."""

    def __init__(
        self, config: TeacherConfig, group: Any, board: str = "", at_work: Callable[[int], None] = lambda texts: None
    ) -> None:
        self.config, self.ranks, self._board, self._at_work = config, config.ep_size, board, at_work
        self._looked = time.monotonic()
        self._facts: list[dict[str, Any]] = []
        device = "cuda" if config.gpus_per_rank else "cpu"
        self._ranks = [
            RankActor.options(  # type: ignore[attr-defined]
                num_cpus=config.cpus_per_rank,
                num_gpus=config.gpus_per_rank,
                runtime_env=rank_environment(config),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            ).remote(i, device)
            for i in range(self.ranks)
        ]

    def start(self) -> list[dict[str, Any]]:
        """Load the model on all ranks; returns what each rank's engine says of itself. Raises GroupFault."""
        # That processes are there has one; their first answer says so.
        deadline = time.monotonic() + self.config.start_deadline_s
        self._gather([r.address.remote() for r in self._ranks], deadline=deadline)
        # A fetch takes as long as it takes, shows how far it is, and fails by itself: it has no deadline.
        self._gather([r.fetch.remote(self.config, self._board) for r in self._ranks], deadline=math.inf)
        deadline = time.monotonic() + self.config.start_deadline_s
        (where,) = self._gather([self._ranks[0].address.remote()], deadline=deadline)
        self._facts = self._gather(
            [r.start.remote(self.config, self.ranks, *where) for r in self._ranks], deadline=deadline
        )
        return self._facts

    def tokenizer(self) -> str | None:
        """What a Detokenizer is made of; None where the ranks must make the texts. Raises GroupFault."""
        deadline = time.monotonic() + self.config.start_deadline_s
        return self._gather([self._ranks[0].tokenizer.remote()], deadline=deadline)[0]

    def run(
        self,
        requests: list[TextRequest],
        spec: CaptureSpec,
        batch_scale: float = 1.0,
        *,
        texts: bool = True,
        then: Sequence[TextRequest] = (),
    ) -> UnitTargets:
        """Make or score texts on all ranks; rows in the order of the requests. Raises GroupFault.

        `texts` and `then`: see TeacherEngine.run.
        """
        if self._shares_texts:
            return self._gather([r.run.remote(requests, spec, batch_scale, texts, then) for r in self._ranks])[0]
        shares, ahead = deal(requests, self.ranks), deal(list(then), self.ranks)
        calls = [
            r.run.remote([requests[i] for i in s], spec, batch_scale, texts, [then[i] for i in a])
            for r, s, a in zip(self._ranks, shares, ahead, strict=True)
        ]
        place = np.array([i for share in shares for i in share])
        return UnitTargets.join(self._gather(calls)).select(np.argsort(place))

    @property
    def _shares_texts(self) -> bool:
        """Whether all ranks run the same texts."""
        return self.config.dispatch == "all_reduce" or self.ranks == 1

    def close(self) -> None:
        """End the ranks, stopped ones too. Their place is kept."""
        for rank in self._ranks:
            ray.kill(rank)

    def _gather(self, calls: list[Any], *, deadline: float | None = None) -> list[Any]:
        """The results of one call on each rank. Raises GroupFault with the cause behind what goes wrong.

        A call with no `deadline` must show steps.
        """
        rank_of = {call: rank for rank, call in enumerate(calls)}
        detector = HangDetector(len(calls), self.config.hang_deadline_s, time.monotonic())
        results: dict[int, Any] = {}
        faults: dict[int, GroupFault | RankError] = {}
        look_s = min(_LOOK_S, self.config.hang_deadline_s / 4)
        while running := [c for c in calls if rank_of[c] not in results and rank_of[c] not in faults]:
            failed = bool(faults)
            now = time.monotonic()
            # Calls may be shorter than what lies between two looks.
            patience = self._looked + look_s - now if deadline is None else min(look_s, deadline - now)
            wanted, wait_s = (len(running), _OTHERS_S) if failed else (1, max(patience, 0))
            done, _ = ray.wait(running, num_returns=wanted, timeout=wait_s)
            for call in done:
                self._take(call, rank_of[call], results, faults)
            left = [rank_of[c] for c in running if c not in done]
            if faults and (failed or not left):
                raise self._first(faults, left)
            if faults:
                continue  # the others' errors may be on their way
            if deadline is None and left and time.monotonic() >= self._looked + look_s:
                self._look(detector, left, look_s)
            elif left and deadline is not None and time.monotonic() >= deadline:
                late = self.config.start_deadline_s
                raise GroupFault("hung", f"{self._names(left)} did not start in {late:g} s (teacher.start_deadline_s)")
        return [results[r] for r in range(len(calls))]

    def _take(self, call: Any, rank: int, results: dict[int, Any], faults: dict[int, GroupFault | RankError]) -> None:
        try:
            results[rank] = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, RankError):
                raise
            faults[rank] = error.cause
        except ray.exceptions.RayActorError as error:
            faults[rank] = self._death(rank, str(error))
        except ray.exceptions.ObjectLostError:
            faults[rank] = GroupFault("dead", f"what {self._names([rank])} made was lost with its node")

    def _look(self, detector: HangDetector, running: list[int], timeout_s: float) -> None:
        """Ask the ranks that run for their steps and texts. Raises GroupFault if they count as hung."""
        asked = {self._ranks[r].pulse.remote(): r for r in running}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
        self._looked = now = time.monotonic()
        in_slots = []
        for call in done:
            try:
                steps, texts = ray.get(call)
            except ray.exceptions.RayActorError:
                return  # its call says so too
            detector.heard(asked[call], steps, now)
            in_slots.append(texts)
        if in_slots:
            self._at_work(max(in_slots) if self._shares_texts else sum(in_slots))
        late = f"for {self.config.hang_deadline_s:g} s (teacher.hang_deadline_s)"
        if silent := detector.silent(running, now):
            raise GroupFault("hung", f"{self._names(silent)} did not answer {late}")
        if detector.stalled(now):
            raise GroupFault("hung", f"{self._names(running)} made no forward pass {late}")

    def _first(self, faults: dict[int, GroupFault | RankError], running: list[int]) -> GroupFault:
        """The fault behind the others: what a rank ran into itself, before what it saw of its peers."""
        order = ["memory", "error", "dead", "hung", "peer"]
        rank, fault = min(faults.items(), key=lambda item: (order.index(item[1].kind), item[0]))
        if isinstance(fault, GroupFault):
            return fault
        if fault.kind != "peer":
            # Peers of a rank that raised wait for it in a collective; a single rank is as good as before.
            return GroupFault(fault.kind, f"{fault.text}, in {self._names([rank])}", usable=self.ranks == 1)
        # Ranks that lost a peer, and the peer neither died nor raised.
        if running:
            return GroupFault("hung", f"{self._names(running)} kept the others waiting: {fault.text}")
        return GroupFault("dead", f"{self._names([rank])} lost its peers: {fault.text}")

    def _death(self, rank: int, report: str) -> GroupFault:
        kind, how = death(report)
        return GroupFault(kind, f"{self._names([rank])} {how}")

    def _names(self, ranks: list[int]) -> str:
        """Ranks as a person finds them: by number, process and node."""
        names = []
        for rank in ranks:
            fact = self._facts[rank] if self._facts else {}
            names.append(f"rank {rank}" + (f" (process {fact['pid']} on {fact['node']})" if fact else ""))
        return ", ".join(names)
