"""Jobs against a real Ray head."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.servers.ray_head import ray_head, wait_for
from support.submissions import IDENTITY, Submission

from cluster.jobs import job_log
from cluster.jobs import submit as module
from cluster.jobs.client import connect
from cluster.jobs.listing import list_jobs
from cluster.jobs.submit import SubmitResult

CHECKOUT = Path(module.__file__).parents[2]

pytestmark = pytest.mark.usefixtures("no_ray_settings")


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the dashboard of a head that lives as long as this module's tests."""
    with ray_head(cpus=2) as started:
        yield started.jobs


@pytest.fixture
def job(head: str, tmp_path: Path, request: pytest.FixtureRequest) -> Submission:
    return Submission(head, tmp_path, request.node.name.removeprefix("test_"))


# With the head ----------------------------------------------------------------------------------------------


def test_ships_follows_and_counts_attempts(job: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.folder / "shipped.txt").write_text("shipped")
    (job.folder / "large.bin").write_text("not shipped")
    (job.folder / ".env").write_text("not shipped")
    job.script(
        "import os, pathlib\n"
        "print('files', sorted(p.name for p in pathlib.Path('.').iterdir()))\n"
        "print('flavour', os.environ['FLAVOUR'], 'token', os.environ['HF_TOKEN'])\n"
        "print('no end of line', end='')\n"
    )
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # the address given wins
    variables = {"FLAVOUR": "vanilla-pod", "HF_TOKEN": "hf_do_not_print"}
    result = job(runtime_env={"env_vars": variables}, excludes=["*.bin"])

    name = "stillhouse-ships_follows_and_counts_attempts-01234567"
    assert result == SubmitResult(name, "SUCCEEDED", 0)
    assert "files ['job.py', 'shipped.txt']" in job.lines
    assert "flavour vanilla-pod token ***" in job.lines
    assert any(line.startswith("no end of line") for line in job.lines)  # Ray may write a line of its own behind it
    assert not any("hf_do_not_print" in line for line in job.lines)
    assert job.lines[-1] == f"job {name} SUCCEEDED: Job finished successfully."
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"

    again = job(runtime_env={"env_vars": variables}, follow=False)
    assert (again.submission_id, again.exit_code) == (f"{name}-2", 0)
    assert again.status in ("PENDING", "RUNNING")
    assert f"ray job logs --follow --address {job.address} {name}-2" in job.lines[-1]

    connect(job.address).submit_job(entrypoint="true", submission_id="stillhouse-of-others-01234567")
    listed = [found for found in list_jobs(job.address) if found.run == job.run_name]
    assert [found.id for found in listed] == [f"{name}-2", name], "newest first"
    assert (listed[1].status, listed[1].command) == ("SUCCEEDED", "python -u job.py")
    assert listed[1].identity == IDENTITY and (listed[1].seconds(time.time()) or 0) > 0
    assert not [found for found in list_jobs(job.address) if "others" in found.id]
    assert "hf_do_not_print" not in str(listed)


def test_failed_job(job: Submission) -> None:
    job.script("print('before'); raise SystemExit(3)")
    result = job()
    assert (result.status, result.exit_code) == ("FAILED", 1)
    assert "before" in job.lines
    assert job.lines[-1].startswith(f"job {result.submission_id} FAILED: ") and "code 3" in job.lines[-1]


def test_refused_runtime_env(job: Submission) -> None:
    job.script("")
    with pytest.raises(ValueError, match=r"was refused: .*must be of type dict"):
        job(runtime_env={"config": 7})


@pytest.mark.long
def test_a_stopped_job_has_as_long_as_its_environment_says(job: Submission) -> None:
    """Ray's default is 3 s. That the variable counts in a job's own environment is nowhere promised."""
    left = job.folder.parent / "left-in-order"
    job.script(
        "import signal, sys, time, pathlib\n"
        "def leave(*_):\n"
        f"    time.sleep(6); pathlib.Path({str(left)!r}).touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('ready', flush=True)\n"
        "time.sleep(300)\n"
    )
    submitted = job(follow=False, runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    client = connect(job.address)
    wait_for(lambda: "ready" in client.get_job_logs(submitted.submission_id), 60, "the job")
    client.stop_job(submitted.submission_id)
    wait_for(lambda: client.get_job_status(submitted.submission_id).is_terminal(), 60, "its end")
    assert left.exists()


COUNTING = (
    "import time, pathlib\n"
    "for n in range(40):\n"
    "    print('line', n); time.sleep(.15)\n"
    "    if pathlib.Path({flag!r}).exists(): break\n"
    "print('end')\n"
)


def numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("line ")]


def test_attaches_while_running_and_ctrl_c_leaves_the_job(job: Submission) -> None:
    flag = job.folder.parent / "stop"
    job.script(COUNTING.format(flag=str(flag)).replace("range(40)", "range(900)"))
    first = job(follow=False)

    # Ctrl-C is for a process of its own: here it would end the tests.
    code = (
        # A test run in the background ignores the signal, and what it starts would too.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, pathlib; from cluster.jobs.submit import submit\n"
        f"result = submit(address={job.address!r}, run_name={job.run_name!r}, identity={IDENTITY!r}, "
        f"working_dir=pathlib.Path({str(job.folder)!r}), entrypoint='python -u job.py', runtime_env={{}}, "
        "excludes=[], echo=lambda line: print(line, flush=True))\n"
        "sys.exit(result.exit_code)\n"
    )
    follower = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert follower.stdout is not None
    lines = iter(follower.stdout.readline, "")
    assert next(lines) == f"attached to the running job {first.submission_id} at {job.address}\n"
    assert "line 0\n" in lines  # after what Ray says while it sets up the environment
    follower.send_signal(signal.SIGINT)
    rest, _ = follower.communicate(timeout=30)
    assert follower.returncode == module.INTERRUPTED, rest
    assert "stopped following; the job goes on" in rest and "Traceback" not in rest

    flag.write_text("")
    result = job()
    assert result == SubmitResult(first.submission_id, "SUCCEEDED", 0)
    assert not any(line.startswith("shipping") for line in job.lines[2:]), job.lines
    assert numbers(job.lines) == list(range(len(numbers(job.lines)))) and "end" in job.lines


def test_a_dropped_connection_repeats_and_loses_nothing(job: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "RETRY_S", 0.5)
    job.script(COUNTING.format(flag="/nowhere/at/all").replace("range(40)", "range(20)"))
    with proxy(job.address) as (address, cut):

        def echo(line: str) -> None:
            job.lines.append(line)
            if line == "line 5":
                cut()

        result = job(address=address, echo=echo)
    assert (result.status, result.exit_code) == ("SUCCEEDED", 0)
    assert numbers(job.lines) == list(range(20)) and job.lines.count("end") == 1
    assert sum(line.startswith(f"connection to {address} lost") for line in job.lines) == 1
    assert f"connected to {address} again" in job.lines


@contextmanager
def proxy(target: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A TCP relay to `target`, and a function that cuts its connections and lets nobody in for a second."""
    host, port = target.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []
    closed_until = 0.0

    def relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end_of_it in (source, sink):
            try:
                end_of_it.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            if time.monotonic() < closed_until:
                near.close()
                continue
            far = socket.create_connection((host, int(port)))
            open_sockets.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=relay, args=pair, daemon=True).start()

    def cut() -> None:
        nonlocal closed_until
        closed_until = time.monotonic() + 1
        for each in open_sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", cut
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in open_sockets:
            each.close()
