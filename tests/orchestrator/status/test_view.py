"""How a run stands, from the folder that its drivers left."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.toys.watched_run import BEGAN, beat, begun, driven, ending, story, tell

from cluster.holder import Holder
from cluster.lease import Lease, Timing
from cluster.storage import Storage
from orchestrator.runs.folder import RunFolder
from orchestrator.status.view import RunView
from workers.channels.events import RunStarted
from workers.layout import REPORT_JSON

QUICK = Timing(beat_s=0.05, stale_s=60.0, watch_s=0.3)


@pytest.fixture
def run(storage: Storage) -> RunFolder:
    """A run in a store of each kind."""
    return begun(storage.uri)


def seen(run: RunFolder) -> RunView:
    view = RunView(run, QUICK)
    view.refresh()
    return view


def test_a_run_at_work(run: RunFolder) -> None:
    driven(run.storage)
    tell(run.storage, 1, story())
    view = seen(run)
    found = json.loads(json.dumps(view.to_dict(time.time())))
    assert {"stage", "tokens", "rates", "waiting", "failures", "cost", "eta_s"} <= found.keys()
    assert (found["state"], found["stage"], found["attempt"]) == ("running", "capture and train", 1)
    assert found["driver"]["host"] == "far-away" and found["driver"]["state"] == "alive"
    teacher = {"replicas": 1, "units": 4, "planned": 8, "tokens": 400, "tokens_per_s": 10.0}
    assert found["teachers"] == {"teacher": teacher}
    medical = found["students"]["medical"]
    assert (medical["state"], medical["tokens"], medical["budget"], medical["loss"]) == ("working", 500, 1000, 2.0)
    assert found["waiting"]["medical"] == {"s": 4.0, "share": 0.2}, "4 of the 20 s since it trains"
    assert found["tokens"] == {"captured": 400, "trained": {"medical": 500, "legal": 0}}
    assert found["failures"] == {"legal": "ValueError: loss is NaN at step 7"}, "one line"
    assert view.exit_code(time.time()) == 0, "the others go on"


def test_when_it_will_be_done(run: RunFolder) -> None:
    """The teacher has 4 of 8 units to make at one in 10 s; medical has 500 tokens left at 25 a second."""
    driven(run.storage)
    tell(run.storage, 1, story())
    view = seen(run)
    assert view.eta_s(BEGAN + 60) == pytest.approx(40)
    assert view.eta_s(BEGAN + 70) == pytest.approx(30), "what was told is as old as that"


def test_a_driver_that_is_silent_is_told_from_one_that_ended(run: RunFolder) -> None:
    tell(run.storage, 1, story())
    driven(run.storage, silent_s=500_000)
    view = seen(run)
    assert view.state(time.time()) == "silent" and view.exit_code(time.time()) == 1
    assert view.to_dict(time.time())["driver"]["silent_s"] == pytest.approx(500_000, abs=60)
    assert view.to_dict(time.time())["eta_s"] is None and view.to_dict(time.time())["rates"]["teacher"] is None
    driven(run.storage, silent_s=500_000, ended=True)
    assert seen(run).state(time.time()) == "failed", "a specialist failed, and nobody works any more"


def test_how_an_attempt_ended(run: RunFolder) -> None:
    driven(run.storage, ended=True)
    monitor = tell(run.storage, 1, [e for e in story() if getattr(e, "student", "") != "legal"])
    assert seen(run).state(time.time()) == "stopped", "no word of how it ended, and no report"
    for event in ending():
        monitor.take(event)
    monitor.stop()
    view = seen(run)
    assert view.state(time.time()) == "done" and view.exit_code(time.time()) == 0 and view.failures() == {}
    assert view.to_dict(time.time())["evaluation"]["done"] == 2


@pytest.mark.parametrize(("failures", "state"), [({}, "done"), ({"legal": "no place"}, "failed")])
def test_a_run_that_ended_with_failures_failed(tmp_path: Path, failures: dict[str, str], state: str) -> None:
    run = begun(str(tmp_path))
    driven(run.storage, ended=True)
    tell(run.storage, 1, [RunStarted(run="clinic", storage="", attempt=1), *ending("done", **failures)])
    view = seen(run)
    assert view.state(time.time()) == state and view.failures() == failures


def test_an_attempt_that_was_taken_over_and_what_it_was_at(run: RunFolder) -> None:
    driven(run.storage, 1, silent_s=900)
    tell(run.storage, 1, story())
    driven(run.storage, 2)
    tell(run.storage, 2, [RunStarted(run="clinic", storage="", attempt=2, time=BEGAN + 500)])
    found = seen(run).to_dict(time.time())
    assert [a["state"] for a in found["attempts"]] == ["taken over", "alive"] and found["attempt"] == 2
    assert found["students"]["medical"]["state"] == "queued" and found["students"]["medical"]["tokens"] == 500
    assert found["failures"] == {}, "legal is tried again"
    assert found["teachers"]["teacher"]["replicas"] == 0 and found["tokens"]["captured"] == 400


def test_another_machines_clock_that_is_late_makes_nobody_dead(tmp_path: Path) -> None:
    """Its beats move while one looks on."""
    run, counter = begun(str(tmp_path)), 8
    driven(run.storage, silent_s=300)
    view = seen(run)
    assert view.state(time.time()) == "silent"

    def wait(seconds: float) -> None:
        nonlocal counter
        beat(run.storage, 1, counter, time.time() - 300)
        counter += 1

    view.make_sure(wait)
    assert view.state(time.time()) == "running" and view.attempt(-1, time.time())["state"] == "alive"
    dead = seen(run)
    dead.make_sure(lambda seconds: None)
    assert dead.state(time.time()) == "silent"


def test_a_process_of_this_machine_that_is_gone_is_no_driver(tmp_path: Path) -> None:
    run = begun(str(tmp_path))
    gone = replace(Holder.this_process(), process_started=1e9)
    driven(run.storage, holder=gone)
    tell(run.storage, 1, story())
    view = seen(run)
    assert view.state(time.time()) == "silent" and view.attempt(-1, time.time())["state"] == "gone"
    with Lease.take(run.storage, "run", timing=QUICK):
        assert seen(run).state(time.time()) == "running"


def test_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    """No first event, no word of its end, and units that do not say whose they are."""
    run = begun(str(tmp_path))
    driven(run.storage, ended=True)
    left_out = ("run_started", "replica_loading")
    bare = {"teacher": "", "replica": "", "domains": ()}
    old = [e.model_copy(update=bare) if e.kind == "unit_committed" else e for e in story() if e.kind not in left_out]
    tell(run.storage, 1, old)
    run.storage.write(REPORT_JSON, b"{}")
    view = seen(run)
    found = view.to_dict(time.time())
    assert view.progress.run == "clinic" and found["teachers"]["teacher"]["units"] == 4
    assert found["cost"]["capture"]["teacher"]["cpu_s"] == 2 * (60 - 20) and found["cost"]["specialists"] == {}


def test_before_anything_is_told(tmp_path: Path) -> None:
    run = begun(str(tmp_path))
    assert seen(run).state(time.time()) == "begun"
    found = seen(run).to_dict(time.time())
    assert (found["stage"], found["eta_s"], found["driver"], found["students"]) == ("", None, None, {})
    with pytest.raises(ValueError, match=r"no run at .*stillhouse runs"):
        RunView(RunFolder(str(tmp_path / "nothing")))
    with pytest.raises(ValueError, match="no run at"):
        RunView(RunFolder(str(tmp_path)))
