"""Trackers: programs of others in which a run can be watched, each with its few settings."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_serializer, model_validator

from cluster.settings import Settings


class TrackerConfig(Settings):
    """What all trackers have that are told of a run by a process of their own."""

    every_s: float = Field(default=1.0, ge=0)
    """Seconds between two points of a student at least. A step is told up to five times a second; 0 sends them all."""

    finish_s: float = Field(default=30.0, ge=0)
    """Seconds that the tracker has, when the run ends, to send what is left. What it does not send by then is counted
    and named; the next attempt sends it, or `stillhouse track`."""

    stalled_s: float = Field(default=120.0, gt=0)
    """Seconds of silence after which a tracker counts as hung: its process is ended, and begun anew."""


class TensorboardConfig(TrackerConfig):
    """Event files for TensorBoard, a folder for each student."""

    folder: str | None = None
    """Local folder (relative to where the command is typed), in which the run gets one of its name. Null:
    `tensorboard` in the run's own folder, which must be a local one then."""


class MlflowConfig(TrackerConfig):
    """Runs of an MLflow tracking server: one for the run, and below it one for each student."""

    uri: str | None = None
    """Address of the server, http://HOST:PORT. Null: what MLFLOW_TRACKING_URI says."""

    experiment: str = Field(default="stillhouse", min_length=1)
    """Experiment that the runs are in; it is made where there is none."""


class WandbConfig(TrackerConfig):
    """Runs of Weights & Biases: a group, and in it a run for each student and one for the teachers."""

    project: str = Field(default="stillhouse", min_length=1)
    """Project that the runs are in."""

    entity: str | None = None
    """User or team that owns the project. Null: the account's default."""

    offline: bool = False
    """Whether runs are only written to local files, for `wandb sync`."""

    folder: str | None = None
    """Local folder for its files. Null: what WANDB_DIR says, else where the command is typed."""


class TrackioConfig(TrackerConfig):
    """Runs of a local Trackio project, a group for the run."""

    project: str = Field(default="stillhouse", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Project that the runs are in."""

    folder: str | None = None
    """Folder of its database, on a local disk: SQLite is not for network filesystems. Null: what TRACKIO_DIR says, else
    Trackio's default."""


class PrometheusConfig(Settings):
    """Gauges that Ray exports for Prometheus on the driver's node, with labels run, teacher and specialist."""

    every_s: float = Field(default=1.0, ge=0)
    """Seconds between two values of a student at least."""


class TrackersConfig(Settings):
    """The trackers of a run, by name: `{wandb: {project: x}, tensorboard: }`. A list of names takes their defaults;
    `false` switches one off. None of them takes the place of the run's own event log."""

    tensorboard: TensorboardConfig | None = None
    """TensorBoard (package extra `tensorboard`). Null where it is named: its defaults; where it is not: none."""

    mlflow: MlflowConfig | None = None
    """MLflow (extra `mlflow`). Null as of tensorboard."""

    wandb: WandbConfig | None = None
    """Weights & Biases (extra `wandb`). Null as of tensorboard."""

    trackio: TrackioConfig | None = None
    """Trackio (extra `trackio`). Null as of tensorboard."""

    prometheus: PrometheusConfig | None = None
    """Prometheus, by way of Ray's agents. Null as of tensorboard."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = {name: {} for name in value}
        if isinstance(value, dict):
            return {k: {} if v is None or v is True else v for k, v in value.items() if v is not False}
        return value

    @model_serializer(mode="plain")
    def _named_only(self) -> dict[str, Any]:
        return {name: config.model_dump() for name, config in self.named()}

    def named(self) -> Iterator[tuple[str, TrackerConfig | PrometheusConfig]]:
        """Those that are on, with their names."""
        for name in type(self).model_fields:
            if (config := getattr(self, name)) is not None:
                yield name, config


PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}
"""Packages that trackers need, as they are imported. The extras are called like the trackers."""


def check_trackers(trackers: TrackersConfig, storage: str) -> None:
    """Raise ValueError for a tracker whose package is not installed here, or that knows no place to send to."""
    for name, config in trackers.named():
        package = PACKAGES.get(name)
        found = importlib.util.find_spec(package) if package is not None else None
        if package is not None and (found is None or found.origin is None):  # a folder of that name is no package
            raise ValueError(
                f"trackers.{name}: the package {package} is not installed; pip install 'stillhouse[{name}]', or take "
                "it out"
            )
        if isinstance(config, TensorboardConfig) and config.folder is None and "://" in storage:
            raise ValueError(
                f"trackers.tensorboard.folder: is needed, as storage {storage!r} is no local folder and event files "
                "grow; name a local folder"
            )
        if isinstance(config, MlflowConfig) and not (config.uri or os.environ.get("MLFLOW_TRACKING_URI")):
            raise ValueError(
                "trackers.mlflow.uri: is needed, http://HOST:PORT of an MLflow tracking server, or set "
                "MLFLOW_TRACKING_URI"
            )
