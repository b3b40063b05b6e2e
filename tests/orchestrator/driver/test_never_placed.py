"""Students and the evaluator that ask for more than a cluster has at all: they give up, and say what there is.

On a real Ray of one CPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from support.small_configuration import clinic

from cluster.placement import PlaceDeadline
from cluster.resources import group_request
from orchestrator.driver import pipeline
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.stages import evaluation
from orchestrator.stages.training.supervisor import Supervisor
from workers.evaluation.job import ModelToScore, ScoringTask
from workers.student.config import TrainConfig


@pytest.fixture(scope="module", autouse=True)
def small_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_students_give_up_whether_their_number_is_fixed_or_not(tmp_path: Path) -> None:
    def job(name: str, **train: Any) -> list[dict[str, Any]]:
        settings = TrainConfig(gpus_per_worker=1, max_failures=2, **train).model_dump()
        return [{"name": name, "run_uri": str(tmp_path), "board": "no-board", "train": settings}]

    supervisor = Supervisor.options(max_concurrency=2).remote()  # type: ignore[attr-defined]
    jobs = [job("fixed"), job("ranged", workers=[1, 2])]
    causes = ray.get([supervisor.train.remote(group, 1.0) for group in jobs], timeout=90)
    for cause, name in zip(causes, ("fixed", "ranged"), strict=True):
        assert cause.startswith(f"specialist {name} wants 1 x 1 CPU + 1 GPU (PACK) and found no place in ")
        assert "one process wants 1 GPU, the largest node has 0" in cause and "of 1 CPU free" in cause
        assert "\n" not in cause


def test_the_evaluator_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = clinic(evaluate={"gpus": 1}, cluster={"placement_deadline_s": 0.5})
    run = RunFolder(str(tmp_path))
    monkeypatch.setattr(RunFolder, "student_done", lambda self, name: {"steps": 1})
    work = ScoringTask(ModelToScore("medical", "stored", "", ()), ())
    monkeypatch.setattr(evaluation, "models_to_score", lambda *_: [])
    monkeypatch.setattr(evaluation, "missing_tasks", lambda *_: [work])
    context = SimpleNamespace(
        config=config, run=run, board="no-board", say=lambda text: None, report=lambda event: None
    )
    session: Any = SimpleNamespace(ctx=context, poll=lambda patience_s=0.0: [])
    with pytest.raises(RunFailed, match=r"evaluate: the evaluator wants 1 x 1 CPU \+ 1 GPU .* the largest node has 0"):
        pipeline._measured(session)


def test_what_is_only_in_use_is_waited_for() -> None:
    deadline = PlaceDeadline(group_request(1, 1, 0, "PACK", {}), "a student", 0.0)

    @ray.remote(num_cpus=1)
    class Other:
        def there(self) -> None: ...

    other: Any = Other.remote()
    ray.get(other.there.remote())
    deadline.check()
    ray.kill(other)
    beyond = PlaceDeadline(group_request(1, 2, 0, "PACK", {}), "a student", 0.0)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="a student wants 1 x 2 CPU"):
        beyond.check()
    assert time.monotonic() - started < 5
