"""Trackers in a configuration: how they are named, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.project import Project
from support.small_configuration import clinic, refused, small

from orchestrator.config import trackers as module
from orchestrator.config.loading import apply_settings, validate
from orchestrator.config.trackers import TrackersConfig, check_trackers
from orchestrator.preflight.checks import check
from orchestrator.runs.identity import differences


def named(trackers: object) -> list[str]:
    return [name for name, _ in validate(small(trackers=trackers)).trackers.named()]


def test_trackers_are_named_in_a_list_or_with_their_settings() -> None:
    assert named({}) == []
    assert named(["wandb", "prometheus"]) == ["wandb", "prometheus"]
    assert named({"wandb": {"project": "x"}, "tensorboard": None}) == ["tensorboard", "wandb"]
    assert named({"wandb": {}, "mlflow": False}) == ["wandb"]


def test_a_configuration_with_trackers_is_written_and_read_again() -> None:
    config = validate(small(trackers={"wandb": {"project": "x"}, "tensorboard": None}))
    assert validate(config.model_dump(mode="json")) == config
    data = config.model_dump(mode="json")
    apply_settings(data, ["trackers.wandb=false", "trackers.mlflow.uri=http://h:1"])
    changed = validate(data)
    assert [name for name, _ in changed.trackers.named()] == ["tensorboard", "mlflow"]
    assert changed.trackers.mlflow is not None and changed.trackers.mlflow.uri == "http://h:1"


@pytest.mark.parametrize(
    ("trackers", "words"),
    [
        (["wandbb"], "trackers.wandbb: unknown key; did you mean 'wandb'?"),
        ({"wandb": {"projekt": "x"}}, "trackers.wandb.projekt: unknown key; did you mean 'project'?"),
        ({"mlflow": {"every_s": -1}}, "trackers.mlflow.every_s"),
        ("wandb", "trackers: "),
    ],
)
def test_what_is_wrong_is_named(trackers: object, words: str) -> None:
    assert words in refused(small(trackers=trackers))


def test_a_run_may_get_other_trackers_later() -> None:
    assert differences(clinic(), clinic(trackers=["tensorboard", "wandb"])) == []


@pytest.mark.parametrize("name", module.PACKAGES)
def test_a_package_that_is_missing_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=rf"trackers.{name}: .* not installed; pip install 'stillhouse\[{name}\]'"):
        check_trackers(TrackersConfig.model_validate([name]), "runs")


def test_a_folder_of_wandb_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B leaves a folder of its name where a command was typed."""
    (tmp_path / "some_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(module.PACKAGES, "wandb", "some_tracker")
    with pytest.raises(ValueError, match="not installed"):
        check_trackers(TrackersConfig.model_validate(["wandb"]), "runs")


@pytest.mark.parametrize(
    ("trackers", "storage", "words"),
    [
        (["tensorboard"], "s3://bucket/runs", "trackers.tensorboard.folder: is needed"),
        (["mlflow"], "runs", "trackers.mlflow.uri: is needed"),
    ],
)
def test_a_tracker_without_a_place_is_refused(
    trackers: list[str], storage: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(module, "PACKAGES", {})
    with pytest.raises(ValueError, match=words):
        check_trackers(TrackersConfig.model_validate(trackers), storage)


def test_a_run_is_refused_before_anything_is_loaded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"wandb": "no_such_package"})
    project.set("trackers", ["wandb"])
    with pytest.raises(ValueError, match=r"trackers\.wandb: the package no_such_package"):
        check(project.load())
    check(project.load(), elsewhere=True)
