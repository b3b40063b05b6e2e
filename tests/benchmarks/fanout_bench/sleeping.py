"""Captures a run with an engine that sleeps, beside readers of its store.

python tests/benchmarks/fanout_bench/sleeping.py CONFIG READERS
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray

from cluster.storage import open_storage
from orchestrator.config.loading import load_config
from orchestrator.driver import captures as driver_captures
from orchestrator.driver.loop import watch
from orchestrator.driver.pipeline import begin_captures, freeze_prompts
from orchestrator.driver.session import open_session
from orchestrator.preflight.place import Needs
from orchestrator.stages.preparing.preparation import Preparation
from orchestrator.stages.teacher_pool import TeacherPool
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.reader import TargetStream
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.groups.fault_tolerant_group import Answer
from workers.teacher.units import replica

_SLEEP_S, _ANSWER = 0.5, 16


class SleepingGroup:
    """Makes random texts, as a worker group would, after a while."""

    def __init__(self, config: Any, name: str, *, place: Any, **settings: Any) -> None:
        self._place, self._rng = place, np.random.default_rng(os.getpid())

    def start(self) -> list[dict[str, int]]:
        """Take a place."""
        self._place()
        return [{"weights_held": 0}]

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        """Texts at once."""
        return self._made(requests, spec)

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer:
        """Texts after a while."""
        time.sleep(_SLEEP_S)
        return Answer(self._made(requests, spec), [], 1.0)

    def detokenize(self, targets: UnitTargets) -> None:
        """They have their texts."""

    def _made(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        asked = [len(request.prompt_token_ids) for request in requests]
        lengths = np.array(asked, np.int64) + _ANSWER
        targets = len(requests) * _ANSWER
        made = UnitTargets(
            prompt_uids=[request.prompt_uid for request in requests],
            samples=np.array([request.sample for request in requests], np.uint16),
            texts=["w" * int(n) for n in lengths],
            lengths=lengths,
            starts=np.array(asked, np.int64),
            tokens=self._rng.integers(3, spec.vocabulary, int(lengths.sum())).astype(np.uint32),
            ends=np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.uint32),
            entropy=np.zeros(targets, np.float32),
            token_logprob=np.zeros(targets, np.float32),
            num_kept=np.ones(targets, np.uint16),
            ids=self._rng.integers(0, spec.vocabulary, targets).astype(np.uint32),
            counts=np.full(targets, spec.draws, np.uint16),
        )
        if spec.marginal:
            made.marginal = np.ones(spec.vocabulary, np.float32)
        return made


class SleepingReplica(replica.Replica):
    """A replica of an engine that sleeps; it notes how long its commits take."""

    def __init__(self, job: replica.ReplicaJob, pool: Any) -> None:
        replica.FaultTolerantGroup = SleepingGroup  # type: ignore[assignment,misc]
        super().__init__(job, pool)
        commit, took = self._runner._commit, list[float]()
        file = Path(job.run_uri, f"commits-{os.getpid()}.json")

        def timed(made: Any) -> bool:
            began = time.perf_counter()
            won = commit(made)
            took.append(time.perf_counter() - began)
            if len(took) % 5 == 0:
                file.write_text(json.dumps(took))
            return won

        self._runner._commit = timed  # type: ignore[method-assign]


Pool: Any = TeacherPool.__ray_metadata__.modified_class  # type: ignore[attr-defined]


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"admission": 1})
class SleepingPool(Pool):
    """A pool of them."""

    def capture(self, *arguments: Any) -> int:
        """As TeacherPool's. Ray brings that here by value, wrapped, and with globals that are not its module's."""
        inspect.unwrap(Pool.capture).__globals__["Replica"] = SleepingReplica
        return super().capture(*arguments)


@ray.remote(num_cpus=0)
def read(uri: str, seed: int, over: str) -> int:
    """Read targets as they come, as a student would, until all were read or the capture is over, which a file tells;
    how many texts there were."""
    storage = open_storage(uri)
    plan = read_plan(storage, TRAIN)
    domains = dict.fromkeys(plan.domains, 1.0)
    stream = TargetStream(TargetStore(storage, TRAIN), plan, domains, seed, None)
    texts = 0
    while texts < len(plan.units) and not Path(over).exists():
        texts += len(stream.next_batch(_ANSWER * 8))
    stream.close()
    return texts


def main() -> None:
    """Prints a JSON object."""
    driver_captures.TeacherPool = SleepingPool
    file = load_config(Path(sys.argv[1]), [])
    with open_session(file, [], Needs(teachers=True)) as session:
        with Preparation(session.ctx) as preparation:
            preparation.try_out()
            freeze_prompts(session, preparation)
        run, over = session.ctx.run, Path(session.ctx.run.uri, "over")
        readers = [read.remote(run.uri, seed, str(over)) for seed in range(int(sys.argv[2]))]
        watch(session, begin_captures(session), None)
        over.touch()
        texts = ray.get(readers)
        times = sorted(entry.finished for entry in TargetStore(run.storage, TRAIN).log.entries())
    took = [s for f in Path(run.uri).glob("commits-*.json") for s in json.loads(f.read_text())]
    edge = len(times) // 10  # replicas come and go
    figures = {
        "units_per_s": round((len(times) - 2 * edge) / (times[-1 - edge] - times[edge]), 1),
        "commit_ms": round(1000 * median(took), 2),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "units": len(times),
        "read_meanwhile": round(sum(texts) / len(texts) / len(times), 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
