"""Connecting to Ray, and leaving it as it was found."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.model_cache import MODEL_CACHE, use_model_cache
from cluster.network import network_environment
from cluster.ray_internals import is_head, quieten_deaths, running_ray

# Set before Ray starts, so that every process of a Ray started here inherits them.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A submitted job has the runtime_env of its configuration from the submission; to give it here again is a conflict.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    # Fractions of a CPU let many processes start at once; Ray would warn about each of them.
    "RAY_worker_maximum_startup_concurrency": "64",
}


_ANSWER_S = 5.0
"""Seconds in which a cluster's head must answer: once to a connection, once to a question."""

_ADDRESS = re.compile(r"(?P<client>ray://)?(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s/:\[\]]+)):(?P<port>\d{1,5})")


def address_of(config: ClusterConfig) -> str:
    """The Ray that is joined: its address as it was given, or `local` for one that is started here."""
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


def check_address(config: ClusterConfig) -> None:
    """Raise ValueError, within seconds, if nobody answers where the cluster is said to be. Ray tries for minutes."""
    address, where = address_of(config), "cluster.address" if config.address else "RAY_ADDRESS"
    if address == "auto" and os.environ.get("RAY_ADDRESS", "auto") not in ("", "auto"):
        address, where = os.environ["RAY_ADDRESS"], "RAY_ADDRESS"  # which Ray prefers
    if address == "local":
        return
    if address == "auto":
        found = running_ray()
        if found is None:
            raise ValueError(
                f"{where}: auto, but there is no Ray on this machine, or more than one; start one (ray start --head), "
                "give HOST:PORT, or leave it out to have one started for the run"
            )
        address = found
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not 0 < int(parts["port"]) < 65536:
        http = " (an http address is that of the job server: stillhouse submit --address)" if "http" in address else ""
        raise ValueError(f"{where}: {address!r} is no address of a Ray cluster; give auto, or HOST:PORT{http}")
    host, port = parts["v6"] or parts["host"], int(parts["port"])
    remedy = "is the cluster up, and the port of its head (6379 as a rule) reachable from here?"
    try:
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ValueError(f"{where}: nobody answers at {address} ({error.strerror or error}); {remedy}") from None
    if not parts["client"] and not is_head(f"[{host}]:{port}" if parts["v6"] else f"{host}:{port}", _ANSWER_S):
        raise ValueError(f"{where}: what answers at {address} is not the head of a Ray cluster; {remedy}")


@contextmanager
def ray_session(config: ClusterConfig, namespace: str, code: Path) -> Iterator[None]:
    """Connect to the configured Ray for the length of a block.

    A Ray of one's own (no address) never joins a stray cluster, ends with the block, and dies with this process.
    `code` is the folder that holds the three packages, put on the workers' import path.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address_of(config)
    paths = [str(code), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    import ray

    runtime_env = dict(config.runtime_env)
    passed = network_environment(config.network)
    if config.model_cache is not None:
        use_model_cache(config.model_cache)
        passed[MODEL_CACHE] = config.model_cache
    if passed:
        runtime_env["env_vars"] = passed | runtime_env.get("env_vars", {})
    local = address == "local"
    if local:
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
    quieten_deaths()
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
