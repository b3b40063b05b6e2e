"""What every test needs: an environment of its own, and the checkout on the import path of its processes."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cluster.storage import Storage

CHECKOUT = Path(__file__).resolve().parent.parent

# Before anything imports Ray or DeepSpeed. The folder is short: Ray keeps sockets in it, whose paths are limited.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_TMPDIR=tempfile.mkdtemp(prefix="sh-", dir="/tmp"),
    RAY_memory_monitor_refresh_ms="0",
    DS_ACCELERATOR="cpu",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    COLUMNS="120",
)
os.environ.pop("RAY_ADDRESS", None)
os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of a GPU are passed over where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Where an S3 server in this process answers."""
    from support.servers.s3_servers import moto

    with moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def seaweed_endpoint() -> Iterator[str]:
    """Where a real S3 server, a child of this process, answers."""
    from support.servers.s3_servers import seaweed

    with seaweed() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty store of each kind, one after the other."""
    from support.servers.s3_servers import reached_at

    from cluster.storage import join, open_storage

    if request.param == "local":
        yield open_storage(str(tmp_path / "run"))
        return
    with reached_at(request.getfixturevalue("moto_endpoint")) as bucket:
        yield open_storage(join(bucket, uuid.uuid4().hex))
