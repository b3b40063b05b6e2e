"""Slots in use over a run of a pool's worth of units, on an engine that only sleeps: 16 prompts and 32 slots, as it
was, against what is derived for GPUs.

Units are cut, grouped, made and committed by the real code (unit_size.py, UnitRunner) on a local disk. The engine has a
GPU's clock: a step takes equally long for one text and for a hundred, and texts join and leave slots as in
generation/loop.py. Lengths are equally frequent up to the most. `slots_in_use` is texts x steps over slots x steps;
`slots_in_use_of_wall` is texts x steps over slots x the time from a replica's start to its last commit, in which many
replicas share this machine's cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from cluster.lease import Fence
from cluster.storage import LocalStorage
from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.unit_size import texts_of, together_tokens, unit_size, units_together
from workers.channels.board import Reporter
from workers.manifest import write_manifest
from workers.randomness import generator
from workers.splits import TRAIN
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.groups.fault_tolerant_group import Answer
from workers.teacher.units.answers import AnswerRules
from workers.teacher.units.replica import calls_at_once
from workers.teacher.units.unit_runner import UnitRunner
from workers.units import Prompt, UnitPlan, build_units

_VOCABULARY = 100
_FORMER = {"batch": 32, "units_at_once": 1}, {"prompts_per_unit": 16}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `measure`."""
    parser.add_argument("--slot-replicas", type=int, default=64, help="replicas whose units are made")
    parser.add_argument("--slot-texts", type=int, default=4096, help="of each replica")
    parser.add_argument("--slot-tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--slot-step-ms", type=float, default=2.0, help="a step of the engine")
    parser.add_argument("--slot-threads", type=int, default=16, help="replicas at work at once")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """{slots_in_use_before, slots_in_use_after}, and how many texts a step had."""
    figures: dict[str, float] = {}
    for name, (teacher, targets) in {"before": _FORMER, "after": ({}, {})}.items():
        engines = _run(arguments, teacher, targets)
        lived = sum(e.lived for e in engines)
        capacity = sum((e.ended - e.began) / e.step_s * e.slots for e in engines)
        figures[f"slots_in_use_{name}"] = round(lived / sum(e.steps * e.slots for e in engines), 4)
        figures[f"slots_in_use_of_wall_{name}"] = round(lived / capacity, 4)
        figures[f"texts_a_step_{name}"] = round(lived / sum(e.steps for e in engines), 1)
    return figures


@dataclass
class SleepingEngine:
    """A TextMaker that takes a GPU's time and makes next to nothing."""

    slots: int
    step_s: float
    seed: int
    steps: int = 0
    lived: int = 0
    """Texts in slots, summed over steps."""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    _waiting: deque[list[int]] = field(default_factory=deque)
    """Texts, each with the call that it is of and the tokens that it lacks; `_live` are those in slots."""
    _live: list[list[int]] = field(default_factory=list)
    _ahead: list[TextRequest] = field(default_factory=list)
    _calls: int = 0

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        raise AssertionError("the store has its vocabulary order")

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer:
        began, steps = time.monotonic(), self.steps
        if requests != self._ahead:
            assert not self._live and not self._waiting, "what was begun is what comes"
            self._calls += 1
            self._add(requests)
        call, self._ahead = self._calls, list(then)
        if then:
            self._calls += 1
            self._add(then)
        self._step(call)
        time.sleep(max(0.0, began + (self.steps - steps) * self.step_s - time.monotonic()))
        n = len(requests)
        made = UnitTargets(
            prompt_uids=[r.prompt_uid for r in requests],
            samples=np.array([r.sample for r in requests], np.uint16),
            lengths=np.full(n, 2),
            starts=np.ones(n, np.int64),
            tokens=np.full(2 * n, 5, np.uint32),
            entropy=np.zeros(n, np.float32),
            token_logprob=np.zeros(n, np.float32),
            num_kept=np.ones(n, np.uint16),
            ids=np.full(n, 5, np.uint32),
            counts=np.full(n, 21, np.uint16),
        )
        return Answer(made)

    def detokenize(self, targets: UnitTargets) -> None:
        targets.texts = ["ab"] * targets.rows
        targets.ends = np.tile(np.array([1, 2], np.uint32), targets.rows)

    def _length(self, request: TextRequest) -> int:
        return int(generator(self.seed, "length", request.prompt_uid).integers(1, request.max_new_tokens + 1))

    def _add(self, requests: Sequence[TextRequest]) -> None:
        self._waiting.extend([self._calls, self._length(r)] for r in requests)

    def _step(self, call: int) -> None:
        """Step until the last text of a call has ended."""
        waiting, live = self._waiting, self._live
        while (waiting and waiting[0][0] == call) or any(text[0] == call for text in live):
            if waiting and self.slots - len(live) >= max(1, self.slots // 8):
                live += [waiting.popleft() for _ in range(min(self.slots - len(live), len(waiting)))]
            self.steps += 1
            self.lived += len(live)
            for text in live:
                text[1] -= 1
            live[:] = [text for text in live if text[1]]


def _run(options: argparse.Namespace, teacher: dict[str, int], targets: dict[str, int]) -> list[SleepingEngine]:
    """Every replica's share of the units, as if there were no others, in a store of its own."""
    config = _config(options, teacher, targets)
    with ThreadPoolExecutor(options.slot_threads) as pool:
        return list(pool.map(lambda replica: _replica(config, options, replica), range(options.slot_replicas)))


def _replica(config: RunConfig, options: argparse.Namespace, replica: int) -> SleepingEngine:
    teacher = config.teachers["teacher"]
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        plan = _freeze(storage, config, options, replica)
        store = TargetStore(storage, TRAIN)
        store.create(StoreHeader("systematic", 21, "answer", "float32", _VOCABULARY, "tokenizer", "template", 7))
        store.vocab_order_files.create(np.arange(_VOCABULARY, dtype=float))
        most = together_tokens(config.targets, _VOCABULARY)
        groups = units_together(teacher, plan.units, partial(texts_of, config, split=TRAIN), most)
        engine = SleepingEngine(teacher.replica_slots, options.slot_step_ms / 1000, config.seed)
        runner = UnitRunner(
            storage,
            engine,
            Fence(storage, 1),
            Reporter(""),
            teacher="teacher",
            fingerprint="f",
            rules=AnswerRules(),
            begins_next=teacher.begins_next,
        )
        with ThreadPoolExecutor(calls_at_once(teacher)) as calls:
            for won in calls.map(runner.capture, [[(TRAIN, unit.index, 0) for unit in group] for group in groups]):
                assert all(won)
        engine.ended = time.monotonic()
        assert store.log.committed() == {unit.index for unit in plan.units}
    return engine


def _config(options: argparse.Namespace, teacher: dict[str, int], targets: dict[str, int]) -> RunConfig:
    sampling = {"max_new_tokens": options.slot_tokens}
    return validate(
        {
            "name": "slots",
            "teacher": {
                "model": "none",
                "gpus_per_rank": 1,
                "sampling": sampling,
                **teacher,
            },
            "prompts": {"a": "a.jsonl"},
            "targets": targets,
            "specialists": {"a": {"model": "none"}},
        }
    )


def _freeze(storage: LocalStorage, config: RunConfig, options: argparse.Namespace, replica: int) -> UnitPlan:
    count, most = options.slot_texts, options.slot_tokens
    prompts = (Prompt(f"{replica}.{i:06d}", ("a",), "teacher", 1, 1.0, 1.0, most, [5], None) for i in range(count))
    size = unit_size(config, "teacher", TRAIN, count)
    plan, blocks = build_units(prompts, config.demand(), {"teacher": size}, config.seed, TRAIN)
    write_manifest(storage, plan, blocks)
    return plan


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    print(measure(parser.parse_args()))
