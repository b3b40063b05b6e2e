"""What the end-to-end tests of this folder share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.small_job import make_teacher
from support.servers.s3_servers import reached_at

from cluster.storage import join


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def bucket(moto_endpoint: str) -> Iterator[str]:
    """An empty place on an S3 server; every process started meanwhile finds it by its environment."""
    with reached_at(moto_endpoint) as shelf:
        yield join(shelf, uuid.uuid4().hex)
