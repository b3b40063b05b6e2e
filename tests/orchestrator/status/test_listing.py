"""The runs of a storage, from a few small keys of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.s3_servers import reached_at
from support.toys.watched_run import begun, driven, ending, story

from cluster.storage import LocalStorage, RemoteStorage, join, open_storage
from orchestrator.driver.summary import Summary
from orchestrator.runs.folder import RunFolder
from orchestrator.status.listing import list_runs
from workers.channels.events import Event, RunEnded
from workers.layout import REPORT_JSON, EventsLayout, StudentLayout

PRICES = {"cluster": {"prices": {"cpu_hour": 36.0}}}


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "runs")
        return
    with reached_at(request.getfixturevalue("moto_endpoint")) as bucket:
        yield f"{bucket}/{tmp_path.name}"


def left(run: RunFolder, attempt: int, events: list[Event]) -> None:
    """What an attempt leaves of itself, by what it told."""
    summary = Summary()
    for event in events:
        summary.take(event)
    noted = {"started": 0.0, "wall_s": 1.0, **summary.to_dict(run.config())}
    run.storage.write(EventsLayout(attempt).wall, json.dumps(noted).encode())


def test_how_each_stands(storage: str) -> None:
    at_work, done, dead, old, new = (begun(storage, n, **PRICES) for n in ("a", "b", "c", "d", "e"))
    for run, settings in ((at_work, {}), (done, {"ended": True}), (dead, {"silent_s": 7200}), (old, {"ended": True})):
        driven(run.storage, **settings)
    left(at_work, 1, story())
    left(done, 1, [*story()[:-6], *ending()])
    left(dead, 1, story())
    old.storage.write(EventsLayout(1).wall, b'{"started": 0, "wall_s": 4}')
    old.storage.write(REPORT_JSON, b"{}")
    old.storage.write(StudentLayout("medical").done, b"{}")
    found = {run.name: run for run in list_runs(storage)}
    assert [(r.name, r.state, r.done, r.specialists) for r in found.values()] == [
        ("a", "running", 0, 2),
        ("b", "done", 1, 2),
        ("c", "silent", 0, 2),
        ("d", "done", 1, 2),
        ("e", "begun", 0, 2),
    ]
    assert found["a"].failures == {"legal": "ValueError: loss is NaN\nat step 7"} and found["b"].failures == {}
    assert found["a"].stage == "capture and train" and found["b"].stage == "export" and found["d"].stage == ""
    cost = found["a"].cost
    assert cost is not None and cost.dollars == pytest.approx(cost.cpu_s / 100) and found["d"].cost is None
    last = found["c"].last_sign
    assert last is not None and 7190 < time.time() - last < 7300
    assert new.uri.endswith("/e")


def test_costs_add_up_over_attempts_and_failures_are_the_last_ones(storage: str) -> None:
    run = begun(storage, **PRICES)
    driven(run.storage, 1, silent_s=900)
    left(run, 1, story())
    [before] = list_runs(storage)
    driven(run.storage, 2, ended=True)
    left(run, 2, [RunEnded(outcome="failed", cause="the teacher stopped: no place")])
    [now] = list_runs(storage)
    assert (now.state, now.attempt, now.failures) == ("failed", 2, {"run": "the teacher stopped: no place"})
    assert before.cost is not None and now.cost is not None and now.cost.cpu_s == before.cost.cpu_s > 0


def test_folders_that_are_no_runs_are_passed_over_and_generations_stay_in_their_run(storage: str) -> None:
    begun(storage, "one")
    begun(join(storage, "one", "generations"), "1")
    store = open_storage(storage)
    store.write("notes/readme.txt", b"no run")
    store.write("torn/config.resolved.yaml", b"{")
    store.write("other/config.resolved.yaml", b"- a list")
    store.write("file.txt", b"")
    assert [run.name for run in list_runs(storage)] == ["one"]
    assert [run.name for run in list_runs(join(storage, "one", "generations"))] == ["1"]
    assert list_runs(join(storage, "nothing", "here")) == []


def test_a_run_that_went_on_is_listed_as_its_last_generation(storage: str) -> None:
    begun(storage, "a", **PRICES)
    later = begun(join(storage, "a", "generations"), "2", **PRICES)
    driven(later.storage)
    left(later, 1, story())
    assert [(run.name, run.state) for run in list_runs(storage)] == [("a@2", "running")]


def test_no_listing_goes_into_what_a_run_made(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many objects a run has, its own folders are not listed, and few keys of it are asked for."""
    run = begun(storage)
    driven(run.storage, ended=True)
    left(run, 1, ending())
    for i in range(50):
        run.storage.write(f"targets/train/parts/g0000/{i}.parquet", b"x" * 100)
        run.storage.write(f"events/0001/{i:06d}.jsonl", b"")
    asked: list[str] = []

    def counting(kind: Any, name: str) -> None:
        inner = getattr(kind, name)

        def count(self: Any, what: Any) -> Any:
            asked.extend([what] if isinstance(what, str) else what)
            return inner(self, what)

        monkeypatch.setattr(kind, name, count)

    for kind in (LocalStorage, RemoteStorage):
        monkeypatch.setattr(kind, "listing", lambda *_: pytest.fail("the whole store was listed"))
        for name in ("read", "read_many", "exists", "files"):
            counting(kind, name)
    assert [r.state for r in list_runs(storage)] == ["done"]
    assert len(asked) < 10 and not [key for key in asked if key.startswith("targets")]
