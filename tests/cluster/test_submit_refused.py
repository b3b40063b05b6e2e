"""Submissions that no Ray head takes: wrong addresses, wrong servers, wrong arguments."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from support.servers.ray_head import free_ports
from support.submissions import Submission

from cluster.jobs import client
from cluster.jobs.listing import list_jobs

pytestmark = pytest.mark.usefixtures("no_ray_settings")


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

    assert max(client.HTTP_TIMEOUT_S) <= 10
    monkeypatch.setattr(client, "HTTP_TIMEOUT_S", (1.0, 1.0))
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


# Listing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(401, b"Unauthorized", "wants a token"), (200, b"<html>", "no Ray dashboard"), (503, b"", "no Ray dashboard")],
)
def test_jobs_are_listed_of_a_dashboard_alone(status: int, body: bytes, words: str) -> None:
    with stub(status, body) as address, pytest.raises(ValueError, match=words):
        list_jobs(address)
    with pytest.raises(ValueError, match="such as http://head:8265"):
        list_jobs("head:6379")


def test_a_dashboard_that_dies_while_it_is_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which version it is, and then nothing more that makes sense."""
    version = {"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__}
    with stub(200, json.dumps(version).encode()) as address, pytest.raises(ValueError, match="no Ray dashboard"):
        list_jobs(address)
