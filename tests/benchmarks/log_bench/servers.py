"""An S3 server on this machine, in a process of its own: SeaweedFS where `weed` is installed, else moto's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

_KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "benchbench", "AWS_DEFAULT_REGION": "us-east-1"}
_START_S = 60


@contextmanager
def s3_server() -> Iterator[tuple[str, str]]:
    """The server's name and the URI of an empty bucket; this process and its children find it by their environment."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    folder = Path(tempfile.mkdtemp(prefix="sh-s3-"))
    command, port = _seaweed(weed, folder) if weed else _moto()
    with (folder / "log").open("wb") as said:
        server = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=folder)
    try:
        os.environ.update(_KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
        _make_bucket(port, server, folder / "log")
        yield ("SeaweedFS" if weed else "moto"), "s3://bench/run"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _moto() -> tuple[list[str], int]:
    (port,) = _free_ports(1)
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port


def _seaweed(weed: str, folder: Path) -> tuple[list[str], int]:
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    names += ["s3.port.iceberg", "s3.port.lance"]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    keys = {"accessKey": _KEYS["AWS_ACCESS_KEY_ID"], "secretKey": _KEYS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "bench", "credentials": [keys], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder / 'identities.json'}", "-master.telemetry=false"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=40", "-volume.minFreeSpacePercent=0"]
    return command, ports["s3.port"]


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _make_bucket(port: int, server: subprocess.Popen[bytes], said: Path) -> None:
    """Make the bucket as soon as the server lets us. Raises RuntimeError with what it said if it does not."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=2)
        except urllib.error.HTTPError:
            pass  # it answers, if only that it wants to know who asks
        except OSError:
            time.sleep(0.2)
            continue
        try:
            return fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bench")
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start: {said.read_text()[-2000:]}")
