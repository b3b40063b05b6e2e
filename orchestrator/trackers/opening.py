"""Which tracker a name stands for."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.config.trackers import MlflowConfig, TensorboardConfig, TrackerConfig, TrackioConfig, WandbConfig
from orchestrator.trackers.group import Group, Tracker

Opener = Callable[[str, TrackerConfig, Group], Tracker]


def open_tracker(name: str, config: TrackerConfig, group: Group) -> Tracker:
    """The tracker of a name, connected to what it sends to. Imports its library."""
    match config:
        case TensorboardConfig():
            from orchestrator.trackers.libraries.tensorboard_files import TensorboardFiles

            return TensorboardFiles(config, group)
        case MlflowConfig():
            from orchestrator.trackers.libraries.mlflow_runs import MlflowRuns

            return MlflowRuns(config, group)
        case WandbConfig():
            from orchestrator.trackers.libraries.wandb_runs import WandbRuns

            return WandbRuns(config, group)
        case TrackioConfig():
            from orchestrator.trackers.libraries.trackio_runs import TrackioRuns

            return TrackioRuns(config, group)
    raise ValueError(f"{name} is told by no process of its own")
