"""What each tracker's own library finds of a run, with no network: one group, a child for each student, no point twice.

Each library works in a process of its own, by `stillhouse track`, as it does in a run.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.project import Project
from support.toys.tracked_run import logged_run, told_step, write_log

from cluster.storage import LocalStorage
from orchestrator.config.trackers import TrackersConfig
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.trackers.replaying import Replayed, replay

MEDICAL = list(range(1, 9))
LEGAL = list(range(1, 6))


@pytest.fixture
def run(project: Project) -> RunFolder:
    """A run with the log of two attempts."""
    file = project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    logged_run(Path(run.uri))
    return run


def track(run: RunFolder, tracker: str, *sets: str, expect: int = 0, **environment: str) -> Any:
    """Type `stillhouse track` in the folder above runs/."""
    words = [word for setting in ("every_s=0", *sets) for word in ("--set", f"trackers.{tracker}.{setting}")]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "track", run.uri, "--to", tracker, "--json", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == expect, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) if not expect else done.stderr


def replayed(run: RunFolder, tracker: str, *sets: str) -> Replayed:
    """The same in this process, which is quicker."""
    return replay(run, tracker, [f"trackers.{tracker}.{setting}" for setting in ("every_s=0", *sets)])


def test_tensorboard_has_a_folder_for_each_student(run: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = track(run, "tensorboard")
    assert done["sent"] == 20 and done["before"] == 0
    folder = Path(run.uri, "tensorboard")
    found = {}
    for student in ("medical", "legal", "."):
        found[student] = EventAccumulator(str(folder / student))
        found[student].Reload()
    losses = found["medical"].Scalars("train/loss")
    assert [(e.step, e.value) for e in losses] == [(step, 2.0) for step in MEDICAL]
    assert losses[0].wall_time == 202.0
    assert [e.step for e in found["legal"].Scalars("train/loss")] == LEGAL
    assert [e.value for e in found["medical"].Scalars("heldout/kl")] == [0.25]
    assert found["medical"].Tensors("verdict")[0].tensor_proto.string_val == [b"medical is near."]
    assert [e.value for e in found["."].Scalars("teacher/units")] == [1, 2, 3]
    again = replayed(run, "tensorboard")
    assert again.sent == 0 and again.before == 20


def test_tensorboard_writes_where_it_is_told(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    replayed(run, "tensorboard", f"folder={tmp_path / 'boards'}")
    assert list((tmp_path / "boards" / "trial" / "legal").iterdir())


def test_tensorboard_shows_once_what_was_written_twice(run: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    replayed(run, "tensorboard")
    next(Path(run.uri, "trackers").iterdir()).unlink()  # as if it had been killed before it noted what it sent
    replayed(run, "tensorboard")
    found = EventAccumulator(str(Path(run.uri, "tensorboard", "medical")))
    found.Reload()
    assert [e.step for e in found.Scalars("train/loss")] == MEDICAL


def test_mlflow_has_a_parent_and_children_which_later_attempts_find_again(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder rather than a server: the client is the same."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path / 'mlruns'}"
    assert replayed(run, "mlflow", f"uri={uri}").sent == 20
    write_log(LocalStorage(Path(run.uri)), 3, [told_step("medical", step, 1000.0 + step) for step in (8, 9)])
    assert replayed(run, "mlflow", f"uri={uri}").sent == 1
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("stillhouse")
    assert experiment is not None
    found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert found.keys() == {"trial", "medical", "legal"} and {r.info.status for r in found.values()} == {"FINISHED"}

    def history(name: str, key: str) -> list[tuple[int, float, int]]:
        metrics = client.get_metric_history(found[name].info.run_id, key)
        return [(metric.step, metric.value, metric.timestamp) for metric in metrics]

    assert [step for step, _, _ in history("medical", "train/loss")] == [*MEDICAL, 9]
    assert history("medical", "train/loss")[0] == (1, 2.0, 202000)
    assert [value for _, value, _ in history("trial", "teacher/units")] == [1, 2, 3]
    assert history("legal", "heldout/kl") == [(5, 0.5, 900000)]
    assert found["legal"].data.tags["verdict"] == "legal is near."
    for name in ("medical", "legal"):
        assert found[name].data.tags["mlflow.parentRunId"] == found["trial"].info.run_id
        assert found[name].data.tags["stillhouse.specialist"] == name


def records(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: a header of 7 bytes, then blocks of 32 KiB with records or parts of them, as in a
    LevelDB log."""
    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or a last part
            yield part
            part = b""


def test_wandb_has_a_group_with_a_run_for_each_student(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "boards"
    folder.mkdir()
    done = track(run, "wandb", "offline=true", f"folder={folder}", WANDB_MODE="offline")
    assert done["sent"] == 20 and done["group"].startswith("trial-")
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {}
    for file in folder.rglob("run-*.wandb"):
        steps, summary, name = [], dict[str, Any](), ""
        for record in map(Record.FromString, records(file)):
            if record.HasField("run"):
                name = record.run.run_id
                assert record.run.run_group == "trial" and record.run.project == "stillhouse"
            if record.HasField("history"):
                row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
                steps.append((row["_step"], row.get("train/loss"), row["_timestamp"]))
            if record.HasField("summary"):
                summary |= {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.summary.update}
        found[name] = steps, summary
    assert set(found) == {done["group"], f"{done['group']}-medical", f"{done['group']}-legal"}
    steps, summary = found[f"{done['group']}-medical"]
    assert steps == [(0, None, 200.0), *((step, 2.0, t) for step, t in zip(MEDICAL, TIMES, strict=True))]
    assert summary["heldout/kl"] == 0.25 and summary["verdict"] == "medical is near."


TIMES = [202.0, 204.0, 206.0, 208.0, 210.0, 212.0, 314.0, 316.0]


def test_trackio_has_a_group_in_a_local_database(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    folder = tmp_path / "boards"
    track(run, "trackio", f"folder={folder}")
    cursor = next(Path(run.uri, "trackers").iterdir())
    cursor.unlink()  # as if it had been killed before it noted what it sent
    track(run, "trackio", f"folder={folder}")
    look = """
import json
from trackio.sqlite_storage import SQLiteStorage as storage
runs = {r["name"]: r["id"] for r in storage.get_run_records("stillhouse")}
logs = {name: storage.get_logs("stillhouse", name, run_id=id) for name, id in runs.items()}
groups = {name: storage.get_run_config("stillhouse", name, run_id=id)["_Group"] for name, id in runs.items()}
print(json.dumps([logs, groups]))
"""
    done = subprocess.run(
        [sys.executable, "-c", look],
        env=os.environ | {"TRACKIO_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    logs, groups = json.loads(done.stdout.splitlines()[-1])
    assert groups == {"trial": "trial", "medical": "trial", "legal": "trial"}
    assert [row["step"] for row in logs["medical"] if "train/loss" in row] == MEDICAL
    assert [row["teacher/units"] for row in logs["trial"] if "teacher/units" in row] == [1, 2, 3]
    assert logs["legal"][-1]["heldout/kl"] == 0.5


def test_a_server_that_is_gone_fails_in_a_line(run: RunFolder) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(RunFailed, match=r"mlflow: MlflowException: .*127\.0\.0\.1.*; 0 points were sent before that"):
        replayed(run, "mlflow", "uri=http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("tracker", "words"),
    [("mlflw", "--to mlflw"), ("prometheus", "the numbers of now"), ("mlflow", "trackers.mlflow.uri: is needed")],
)
def test_what_cannot_be_sent_to_is_refused_by_name(
    tracker: str, words: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=words):
        replay(run, tracker, [])
    monkeypatch.setattr("orchestrator.trackers.replaying.living_holder", lambda storage: "pid 1")
    file = run.config()
    monkeypatch.setattr(run, "config", lambda: file.model_copy(update={"trackers": TrackersConfig(wandb={})}))
    with pytest.raises(ValueError, match=r"the run is at work \(pid 1\) and tells wandb itself"):
        replay(run, "wandb", [])
