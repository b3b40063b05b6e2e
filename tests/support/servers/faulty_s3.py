"""A proxy before an S3 server that answers badly, or not at all, as it is told. Faults are seeded and counted."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
_HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive", "server", "date", "content-length")


class FaultyS3:
    """What the proxy does to requests.

    `busy`: share of the requests that are answered 503 and go no further.
    `once(method, fault)`: the next request of that method meets a fault:
    silent (does not reach the server, no answer), late (reaches it, no answer), lost (reaches it, the connection is
    closed), broken (the connection is closed in the middle of the answer), conflict (409, does not reach it).
    """

    def __init__(self, endpoint: str, seed: int) -> None:
        self.upstream = urlsplit(endpoint).netloc
        self.busy = 0.0
        self.requests: Counter[str] = Counter()
        self.fetched: Counter[str] = Counter()
        """GETs of each object, by its path."""
        self.faults: Counter[str] = Counter()
        self.over = threading.Event()
        self._planned: list[tuple[str, str]] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def once(self, method: str, fault: str) -> None:
        """The next request of this method meets this fault."""
        self._planned.append((method, fault))

    def fault_of(self, method: str) -> str | None:
        """The fault that a request of this method meets now."""
        with self._lock:
            self.requests[method] += 1
            planned = next((p for p in self._planned if p[0] == method), None)
            if planned is not None:
                self._planned.remove(planned)
            fault = planned[1] if planned else "busy" if self._random.random() < self.busy else None
            if fault:
                self.faults[fault] += 1
            return fault


@contextmanager
def faulty(endpoint: str, seed: int = 0) -> Iterator[tuple[str, FaultyS3]]:
    """The endpoint of a proxy before a server, and its faults."""
    faults = FaultyS3(endpoint, seed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(faults))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        faults.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(faults: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.fault_of(self.command)
            faults.fetched[urlsplit(self.path).path] += self.command == "GET"
            if fault == "busy":
                self.refuse(503, "SlowDown", "Please reduce your request rate.")
            elif fault == "conflict":
                self.refuse(409, "ConditionalRequestConflict", "Another one was under way.")
            elif fault == "silent":
                self.leave(after=3600)
            else:
                self.answer(fault, *self.forward(body))

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = http.client.HTTPConnection(faults.upstream, timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            response = upstream.getresponse()
            found = response.status, response.getheaders(), response.read()
            upstream.close()
            return found

        def answer(self, fault: str | None, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            if fault in ("late", "lost"):
                return self.leave(after=3600 if fault == "late" else 0)
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[: len(body) // 2] if fault == "broken" else body)
            if fault == "broken":
                self.leave()

        def refuse(self, status: int, code: str, message: str) -> None:
            body = b"" if self.command == "HEAD" else _ERROR.format(code=code, message=message).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def leave(self, after: float = 0) -> None:
            faults.over.wait(after)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve

    return Handler
