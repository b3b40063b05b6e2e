"""The S3 server of the tests, for the benchmark of the log: SeaweedFS where `weed` is installed, else moto's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from support.servers.s3_servers import WEED, moto, reached_at, seaweed


@contextmanager
def s3_server() -> Iterator[tuple[str, str]]:
    """The server's name and the URI of an empty place; this process and its children find it by their environment."""
    name, server = ("SeaweedFS", seaweed) if WEED.exists() else ("moto", moto)
    with server() as endpoint, reached_at(endpoint) as bucket:
        yield name, f"{bucket}/run"
