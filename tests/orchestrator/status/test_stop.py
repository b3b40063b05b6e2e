"""`stillhouse stop` as it is typed: whom it asks, what it waits for, and how it exits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.commit_processes import QUICK
from support.project import Outcome
from support.toys.watched_run import beat, begun, driven, story, tell

from cluster import stopping
from cluster.holder import Holder
from cluster.lease import StopRequest
from cluster.storage import Storage
from orchestrator.runs.folder import RunFolder
from workers.layout import EventsLayout

Stillhouse = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose students may take no time to leave, below the working directory; silence is known in seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "wait_until_over", partial(stopping.wait_until_over, timing=QUICK))
    return begun("runs", cluster={"leave_s": 0})


def mark(storage: Storage, attempt: int = 1) -> StopRequest | None:
    [data] = storage.read_many([f"attempts/{attempt:04d}.stop.json"])
    return None if data is None else StopRequest.from_bytes(data)


@contextmanager
def leaving(storage: Storage) -> Iterator[None]:
    """The driver elsewhere, that ends when it is asked to."""
    over = threading.Event()

    def go_on() -> None:
        counter = 7
        while not over.wait(QUICK.beat_s):
            beat(storage, 1, counter := counter + 1, time.time())
            if mark(storage) is not None:
                driven(storage, ended=True)
                return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_run_at_work_is_asked_and_waited_for(stillhouse: Stillhouse, run: RunFolder) -> None:
    driven(run.storage)
    tell(run.storage, 1, story())
    with leaving(run.storage):
        done = stillhouse("stop", "clinic")
    assert done.code == 0 and not done.err
    assert "host far-away, pid 4711" in done.out and "the same command resumes" in done.out
    again = stillhouse("stop", "clinic")
    assert again.code == 0 and again.out.startswith("nothing runs: attempt 1")


def test_one_that_was_about_to_be_done_is_told_so(stillhouse: Stillhouse, run: RunFolder) -> None:
    driven(run.storage)
    run.storage.write(EventsLayout(1).wall, json.dumps({"outcome": "done"}).encode())
    with leaving(run.storage):
        done = stillhouse("stop", "runs/clinic")
    assert done.code == 0 and "all is done" in done.out and "resumes" not in done.out


def test_without_waiting_it_only_asks(stillhouse: Stillhouse, run: RunFolder) -> None:
    driven(run.storage)
    done = stillhouse("stop", run.uri, "--no-wait")
    first = mark(run.storage)
    assert done.code == 0 and first is not None and not first.now and f"stillhouse status {run.uri}" in done.out
    assert stillhouse("stop", run.uri, "--no-wait").code == 0
    assert mark(run.storage) == first, "who asked first stands"
    assert stillhouse("stop", run.uri, "--no-wait", "--now").code == 0
    last = mark(run.storage)
    assert last is not None and last.now


def test_status_shows_who_asked_and_how(stillhouse: Stillhouse, run: RunFolder) -> None:
    driven(run.storage)
    tell(run.storage, 1, story())
    assert "asked" not in stillhouse("status", run.uri).out
    for flag, how in (([], "asked to stop in order"), (["--now"], "asked to stop at once")):
        assert stillhouse("stop", run.uri, "--no-wait", *flag).code == 0
        assert how in stillhouse("status", run.uri).out
        request = json.loads(stillhouse("status", run.uri, "--json").out)["driver"]["asked_to_stop"]
        assert StopRequest(**request) == mark(run.storage)
    run.storage.write("attempts/0001.stop.json", b"no request")
    assert "asked" not in stillhouse("status", run.uri).out, "what is no request asks for nothing"


@pytest.mark.parametrize("how", ["never begun", "ended", "gone"])
def test_where_nothing_runs_nobody_is_asked(stillhouse: Stillhouse, run: RunFolder, how: str) -> None:
    if how == "ended":
        driven(run.storage, ended=True)
    if how == "gone":
        driven(run.storage, holder=Holder(**vars(Holder.this_process()) | {"process_started": 1e9}))
    done = stillhouse("stop", run.uri)
    assert done.code == 0 and done.out.startswith("nothing runs: ") and len(done.out.splitlines()) == 1
    assert mark(run.storage) is None


def test_one_that_is_silent_is_asked_and_not_said_to_be_stopped(stillhouse: Stillhouse, run: RunFolder) -> None:
    driven(run.storage, silent_s=4000)
    done = stillhouse("stop", run.uri)
    assert done.code == 1 and "silent" in done.err and "`kill 4711` on far-away" in done.err
    assert mark(run.storage) is not None


def test_one_that_does_not_end_is_told_with_what_to_do(
    stillhouse: Stillhouse, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "ENDING_S", 0.2)
    driven(run.storage)
    done = stillhouse("stop", run.uri)
    assert done.code == 1 and "`kill 4711` on far-away" in done.err and "--now" in done.err


def test_one_that_another_driver_took_over_is_over(stillhouse: Stillhouse, run: RunFolder) -> None:
    driven(run.storage)
    taken = threading.Timer(0.3, driven, (run.storage, 2))
    taken.start()
    done = stillhouse("stop", run.uri)
    taken.join()
    assert done.code == 1 and "another driver" in done.err and mark(run.storage, 2) is None


def test_a_folder_that_is_no_run_is_refused(stillhouse: Stillhouse, run: RunFolder) -> None:
    assert "no run at 'runs/nothing'" in stillhouse("stop", "nothing").error


def test_a_holder_of_another_version_is_named_as_such(stillhouse: Stillhouse, run: RunFolder) -> None:
    run.storage.write("attempts/0001.json", json.dumps({"of": "another version"}).encode())
    assert "another version" in stillhouse("stop", run.uri).error
