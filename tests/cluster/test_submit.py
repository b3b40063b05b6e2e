"""Jobs against a real Ray head, started here as a child process with its own ports and folder.

The head is ended by the process ids that it was started with, never by name: other Rays may run here too.
"""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import job_log
from cluster import submit as module
from cluster.submit import SubmitResult, submit

CHECKOUT = Path(module.__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
HEAD_START_S = 90
PORT_OPTIONS = [  # all that `ray start --head` listens on
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
    *("runtime-env-agent-port", "metrics-export-port", "ray-client-server-port"),
    *("object-manager-port", "node-manager-port"),
]
IDENTITY = "0123456789abcdef"


# A head of our own ------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports that were free together a moment ago (held at once, so that none is given twice)."""
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def family(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The head, its descendants, and what belongs to its session."""
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == head.pid:
                found[process.pid] = process
        except (ProcessLookupError, PermissionError):
            continue
    for process in list(found.values()):
        try:
            # A job's command runs in a session of its own: only its parents tell that it is ours.
            found |= {child.pid: child for child in process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def end(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """End the head and all that it started; returns what did not go."""
    processes = family(head)
    head.terminate()  # `ray start --block` passes it on
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    head.wait(timeout=10)
    return psutil.wait_procs(alive, timeout=10)[1] + family(head)


def mentioning(text: str) -> list[str]:
    """Command lines that contain `text`: all of a Ray session name its folder. For looking only."""
    lines = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if text in line]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the dashboard of a head that lives as long as this module's tests."""
    folder = tempfile.mkdtemp(prefix="sh-", dir="/tmp")  # Ray's socket paths have to stay under 108 characters
    ports = free_ports(len(PORT_OPTIONS) + 16)
    options = [f"--{name}={port}" for name, port in zip(PORT_OPTIONS, ports, strict=False)]
    options += ["--worker-port-list=" + ",".join(map(str, ports[len(PORT_OPTIONS) :]))]
    options += [
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        "--num-cpus=2",
        f"--temp-dir={folder}",
    ]
    options += ["--object-store-memory=80000000", "--include-log-monitor=false", "--disable-usage-stats"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    address = f"http://127.0.0.1:{ports[PORT_OPTIONS.index('dashboard-port')]}"
    with open(Path(folder, "head.log"), "wb") as log:
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options],
            # No memory monitor: it would end our jobs when a neighbour on the machine takes the memory.
            env={
                **clean,
                "RAY_AUTH_MODE": "disabled",
                "RAY_TMPDIR": folder,
                "RAY_memory_monitor_refresh_ms": "0",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: process.poll() is not None or answers(address), HEAD_START_S, "the head's dashboard")
        assert process.poll() is None, Path(folder, "head.log").read_text()
        yield address
    finally:
        left = end(process)
        named = mentioning(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left and not named, (left, named)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def answers(address: str) -> bool:
    host, port = address.removeprefix("http://").split(":")
    with closing(socket.socket()) as probe:
        return probe.connect_ex((host, int(port))) == 0


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)


class Submission:
    """A working directory with one script, and the lines that submitting it printed."""

    def __init__(self, address: str, folder: Path, run_name: str) -> None:
        self.address, self.folder, self.run_name = address, folder, run_name
        self.lines: list[str] = []

    def script(self, text: str) -> None:
        (self.folder / "job.py").write_text(text)

    def __call__(self, **options: Any) -> SubmitResult:
        arguments: dict[str, Any] = {
            "address": self.address,
            "run_name": self.run_name,
            "working_dir": self.folder,
            "entrypoint": "python -u job.py",
            "identity": IDENTITY,
            "runtime_env": {},
            "excludes": [],
            "echo": self.lines.append,
        }
        return submit(**(arguments | options))


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
    assert "no end of line" in job.lines
    assert not any("hf_do_not_print" in line for line in job.lines)
    assert job.lines[-1] == f"job {name} SUCCEEDED: Job finished successfully."
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"

    again = job(runtime_env={"env_vars": variables}, follow=False)
    assert (again.submission_id, again.exit_code) == (f"{name}-2", 0)
    assert again.status in ("PENDING", "RUNNING")
    assert f"ray job logs --follow --address {job.address} {name}-2" in job.lines[-1]


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
        "import sys, pathlib; from cluster.submit import submit\n"
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
    job.script(COUNTING.format(flag="/nowhere/at/all"))
    with proxy(job.address) as (address, cut):

        def echo(line: str) -> None:
            job.lines.append(line)
            if line == "line 5":
                cut()

        result = job(address=address, echo=echo)
    assert (result.status, result.exit_code) == ("SUCCEEDED", 0)
    assert numbers(job.lines) == list(range(40)) and job.lines.count("end") == 1
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


# Without it -------------------------------------------------------------------------------------------------


@contextmanager
def stub(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that gives one answer to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def refusal(folder: Path, address: str = "http://127.0.0.1:1", **options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        Submission(address, folder, "clinic")(**options)
    return str(caught.value)


def test_unreachable_addresses_are_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.job_submission  # noqa: F401  (its loading is not what is timed)

    assert max(module.HTTP_TIMEOUT_S) <= 10
    monkeypatch.setattr(module, "HTTP_TIMEOUT_S", (1.0, 1.0))
    [port] = free_ports(1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes the connection and never answers
        for number in (port, silent.getsockname()[1]):
            address = f"http://127.0.0.1:{number}"
            started = time.monotonic()
            message = refusal(tmp_path, address)
            assert message.startswith(f"no Ray dashboard answers at {address}") and "\n" not in message
            assert time.monotonic() - started < 6  # a second, on a busy machine


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://head:10001", "auto", "head", "http://"])
def test_only_a_dashboard_takes_jobs(tmp_path: Path, address: str) -> None:
    assert "such as http://head:8265" in refusal(tmp_path, address)


@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_or_wrong_token_is_named(tmp_path: Path, status: int) -> None:
    with stub(status, b"Unauthorized") as address:
        message = refusal(tmp_path, address)
    assert f"{address} wants a token" in message and "RAY_AUTH_TOKEN" in message and "\n" not in message


@pytest.mark.parametrize("status, body", [(200, b"<html>"), (200, b"{}"), (404, b""), (503, b"")])
def test_other_servers_are_no_dashboards(tmp_path: Path, status: int, body: bytes) -> None:
    with stub(status, body) as address:
        assert f"no Ray dashboard answers at {address}" in refusal(tmp_path, address)


def test_wrong_arguments(tmp_path: Path) -> None:
    assert "cannot name a Ray job" in refusal(tmp_path, run_name="two words")
    assert "at least 8" in refusal(tmp_path, identity="abc")
    assert "is not a folder" in refusal(tmp_path, working_dir=tmp_path / "nowhere")
    assert "has to be a URI" in refusal(tmp_path, runtime_env={"working_dir": "code"})
    message = refusal(tmp_path, runtime_env={"env_vars": {"API_KEY": 12345678}})
    assert "API_KEY has to be a string" in message and "12345678" not in message
