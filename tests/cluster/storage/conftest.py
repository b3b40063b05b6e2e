"""What tests of stores share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.s3_servers import reached_at

from cluster.storage import Storage, join, open_storage


@pytest.fixture(params=["local", "moto", "seaweed"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """Every kind of store, empty."""
    if request.param == "local":
        yield open_storage(str(tmp_path / "store"))
        return
    with reached_at(request.getfixturevalue(f"{request.param}_endpoint")) as bucket:
        yield open_storage(join(bucket, uuid.uuid4().hex, "runs", "one"))
