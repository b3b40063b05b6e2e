"""A server on this machine that speaks the part of the Hugging Face Hub's protocol that a download of a model needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """One model, its commits by branch or tag, and what was asked for."""

    model: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by name, by commit."""
    refs: dict[str, str] = field(default_factory=dict)
    token: str = ""
    """Without this one, access is denied; empty: everybody may read."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""
    endpoint: str = ""

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """A new commit of these files, at which these branches and tags stand from now on."""
        sha = commit_of(files)
        self.commits[sha] = files
        self.refs |= dict.fromkeys(refs, sha)
        return sha

    def fetched(self, name: str) -> int:
        """How often the bytes of a file were asked for."""
        return sum(method == "GET" and "/resolve/" in path and path.endswith(f"/{name}") for method, path in self.asked)


@contextmanager
def hub_server(hub: Hub) -> Iterator[Hub]:
    """Serve it, at its `endpoint`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path))
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._send(403, {"X-Error-Code": "GatedRepo"}, b'{"error": "gated"}', body)
            api, files = f"/api/models/{hub.model}", f"/{hub.model}/resolve/"
            if path.startswith(f"{api}/tree/"):
                return self._json(_tree(hub.commits[path.removeprefix(f"{api}/tree/").strip("/")]), body)
            if path == api or path.startswith(f"{api}/revision/"):
                name = path.removeprefix(api).removeprefix("/revision/") or "main"
                sha = hub.refs.get(name, name)
                if sha in hub.commits:
                    return self._json({"id": hub.model, "sha": sha, "siblings": [], "tags": []}, body)
                return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", body)
            if path.startswith(files):
                sha, _, name = path.removeprefix(files).partition("/")
                return self._file(hub.refs.get(sha, sha), name, body)
            return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}", body)

        def _file(self, sha: str, name: str, body: bool) -> None:
            data = hub.commits[sha].get(name)
            if data is None:
                return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, b"", body)
            headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            return self._send(200, headers, data, body)

        def _json(self, value: object, body: bool) -> None:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode(), body)

        def _send(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()


def commit_of(files: dict[str, bytes]) -> str:
    """What a commit of these files is called."""
    return hashlib.sha1(json.dumps({n: d.hex() for n, d in files.items()}).encode()).hexdigest()


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]


def program_at(hub: Hub, home: Path, script: str, **more: str) -> subprocess.Popen[str]:
    """A program in a process that finds the server as the Hub, with a cache and a token of its own."""
    left_out = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HOME", "STILLHOUSE_MODEL_CACHE")
    variables = {k: v for k, v in os.environ.items() if k not in left_out}
    variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ran(program: subprocess.Popen[str]) -> tuple[Any, str]:
    """What a program printed as JSON, and all that it wrote."""
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    return json.loads(out.splitlines()[-1]), out + err
