"""Each of Ray Train's private names that this program uses, against what it is used for: fails when Ray changes it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import (
    ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.stages.training.train_internals import (
    ControllerHereTrainer,
    ElasticScalingPolicy,
    FixedPolicy,
    FixedScalingPolicy,
    FreeSlotsPolicy,
    ask_again_after,
    resources_per_worker,
)


@pytest.fixture
def trainer(tmp_path: Path) -> ControllerHereTrainer:
    return ControllerHereTrainer(lambda: None, run_config=RunConfig(name="r", storage_path=str(tmp_path)))


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_callbacks_left_out_are_all_that_start_processes(trainer: ControllerHereTrainer) -> None:
    theirs = DataParallelTrainer._create_default_callbacks(trainer)
    names = {type(c).__name__ for c in theirs}
    assert {"DatasetsCallback", "PlacementGroupCleanerCallback"} <= names
    ours = {type(c).__name__ for c in trainer._create_default_callbacks()}
    assert names - ours == {DatasetsCallback.__name__, PlacementGroupCleanerCallback.__name__}
    assert "BackendSetupCallback" in ours and "AcceleratorSetupCallback" in ours


def test_fit_hands_the_controller_what_it_takes(
    trainer: ControllerHereTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: dict[str, Any] = {}

    class Ended:
        error = None

    def take(self: Any, **settings: Any) -> Ended:
        handed.update(settings)
        return Ended()

    monkeypatch.setattr("ray.train.v2.api.data_parallel_trainer.ObjectRefWrapper", lambda function: function)
    monkeypatch.setattr(ControllerHereTrainer, "_initialize_and_run_controller", take)
    trainer.fit()
    assert "scaling_policy" in handed and handed.keys() <= set(parameters(TrainController.__init__))


def test_the_controller_is_run_to_its_end_and_asked_for_the_result() -> None:
    assert inspect.iscoroutinefunction(TrainController.run) and parameters(TrainController.run) == ["self"]
    assert not inspect.iscoroutinefunction(TrainController.get_result)
    assert parameters(TrainController.get_result) == ["self"]


def test_the_controllers_logging_has_a_switch() -> None:
    source = inspect.getsource(TrainController.__init__)
    assert "ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR" in source and "configure_controller_logger" in source
    assert ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR.startswith("RAY_TRAIN_")


def test_a_workers_resources_are_those_asked_for() -> None:
    scaling = ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 0.3})
    assert resources_per_worker(scaling) == {"CPU": 0.3}
    assert scaling.elasticity_enabled and scaling.max_workers == 4
    assert not ScalingConfig(num_workers=2).elasticity_enabled


def test_free_slots_are_counted_where_the_policy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = FreeSlotsPolicy(ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 0.5}))
    monkeypatch.setattr("orchestrator.stages.training.train_internals.cluster_nodes", lambda: [])
    monkeypatch.setattr(ElasticScalingPolicy, "_maybe_send_resource_request", lambda self: None)
    monkeypatch.setattr(ElasticScalingPolicy, "_get_reserved_resources", lambda self: {})
    assert type(policy.make_decision_for_non_running_worker_group()).__name__ == "NoopDecision"
    monkeypatch.setattr("orchestrator.stages.training.train_internals.free_slots", lambda *_: 3)
    decision = policy.make_decision_for_non_running_worker_group()
    assert decision.num_workers == 3 and decision.resources_per_worker == {"CPU": 0.5}  # type: ignore[attr-defined]


def test_who_starts_workers_loads_no_torch() -> None:
    modules = (
        "orchestrator.stages.training.supervisor",
        "orchestrator.stages.training.train_internals",
        "workers.student.training.process_group",
    )
    names = ("torch", "transformers", "deepspeed", "accelerate")
    look = f"import sys, {', '.join(modules)}; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workers_without_a_place_look_at_their_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Passed:
        def check(self) -> None:
            raise TimeoutError("no place")

    monkeypatch.setattr(ElasticScalingPolicy, "_maybe_send_resource_request", lambda self: None)
    monkeypatch.setattr(FixedScalingPolicy, "_maybe_send_resource_request", lambda self: None)
    deadline: Any = Passed()
    for policy in (
        FixedPolicy(ScalingConfig(num_workers=1), deadline),
        FreeSlotsPolicy(ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 1}), deadline),
    ):
        with pytest.raises(TimeoutError):
            policy.make_decision_for_non_running_worker_group()
    decision = FixedPolicy(ScalingConfig(num_workers=3)).make_decision_for_non_running_worker_group()
    assert decision.num_workers == 3  # type: ignore[attr-defined]


def test_how_long_workers_wait_before_they_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, "120")
    ask_again_after(1800)
    assert os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] == "120.0"
    ask_again_after(5)
    assert os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] == "5"
    assert "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR" in inspect.getsource(worker_group)
