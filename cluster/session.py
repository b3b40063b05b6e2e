"""Connecting to Ray, and leaving it as it was found."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.config import ClusterConfig

# Set before Ray starts, so that every process of a Ray started here inherits them.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Fractions of a CPU let many processes start at once; Ray would warn about each of them.
    "RAY_worker_maximum_startup_concurrency": "64",
}


@contextmanager
def ray_session(config: ClusterConfig, namespace: str, code: Path) -> Iterator[None]:
    """Connect to the configured Ray for the length of a block.

    A Ray of one's own (no address) never joins a stray cluster, ends with the block, and dies with this process.
    `code` is the folder that holds the three packages, put on the workers' import path.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    paths = [str(code), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    import ray

    runtime_env = dict(config.runtime_env)
    local = address == "local"
    if local:
        # Nobody preempts this machine; the watcher would be one more process for each specialist.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    options = {"num_cpus": config.cpus, "include_dashboard": config.dashboard} if local else {}
    ray.init(
        address=address,
        namespace=namespace,
        runtime_env=runtime_env or None,
        log_to_driver=_wants_worker_logs(),
        logging_level=logging.ERROR,
        **options,
    )
    quiet_ray()
    try:
        yield
    finally:
        ray.shutdown()


def quiet_ray() -> None:
    """Leave warnings and errors of Ray's libraries on the terminal; their progress talk goes to Ray's own log files."""
    for name in ("ray.data", "ray.train", "ray._private", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _wants_worker_logs() -> bool:
    """Workers' output on the terminal is for debugging: STILLHOUSE_WORKER_LOGS=1."""
    return os.environ.get("STILLHOUSE_WORKER_LOGS", "0") == "1"
