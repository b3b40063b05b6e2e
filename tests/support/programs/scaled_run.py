"""A command on a cluster that grows with demand: Ray's own autoscaler, and nodes that are raylets of this machine. Not
a test itself.

    unshare -pfn --mount-proc python scaled_run.py CLUSTER.json SEEN.json COMMAND ...

CLUSTER.json: {"nodes": {TYPE: {"resources", "labels", "max"}}, "idle_s"}. Starting such a cluster ends every Ray that
it sees, so this goes on in namespaces of its own alone, which end with it. SEEN.json: {"code": the command's exit code,
"looks": [[time, {TYPE: nodes}], ...] as the autoscaler tells, until nothing but the head is left}.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import AutoscalingCluster

_HEAD = "ray.head.default"
_LEAVE_S = 90.0
"""Seconds in which all nodes must leave after the command."""

_LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)


class _Cluster(AutoscalingCluster):
    """Ray's package lacks the file that this makes its configuration of."""

    def _generate_config(self, head_resources: Any, worker_node_types: Any, **more: Any) -> dict[str, Any]:
        provider = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
        return {
            "cluster_name": "fake",
            "provider": {
                "type": "external",
                "module": provider,
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
            },
            "available_node_types": {
                **worker_node_types,
                _HEAD: {"resources": head_resources, "node_config": {}, "max_workers": 0},
            },
            "head_node_type": _HEAD,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            "upscaling_speed": 1.0,
            "max_workers": sum(kind["max_workers"] for kind in worker_node_types.values()),
            "idle_timeout_minutes": more["idle_timeout_minutes"],
            **{name: [] for name in _LISTS},
        }


def _require_own_namespaces() -> None:
    """The first process of a namespace sees no Ray but its own."""
    if os.getpid() != 1:
        sys.exit("this ends every Ray that it sees: run it by `unshare -pfn --mount-proc`")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, 0x8913, asked))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", flags | 1))  # SIOCSIFFLAGS, IFF_UP


def _types() -> dict[str, int]:
    """Nodes by type, as the autoscaler knows them, without the head."""
    status = get_cluster_status("127.0.0.1:6379")
    nodes = [*status.active_nodes, *status.idle_nodes]
    return dict(Counter(node.ray_node_type_name for node in nodes if node.node_id != FAKE_HEAD_NODE_ID))


def main(asked: dict[str, Any], seen: Path, command: list[str]) -> None:
    """Start the cluster, run the command on it, and look on until its nodes have left."""
    types = {
        name: {
            "resources": {"object_store_memory": 80 * 2**20, **kind["resources"]},
            "labels": kind["labels"],
            "node_config": {},
            "min_workers": 0,
            "max_workers": kind["max"],
        }
        for name, kind in asked["nodes"].items()
    }
    head = {"CPU": 0, "object_store_memory": 80 * 2**20}
    cluster = _Cluster(head, types, autoscaler_v2=True, idle_timeout_minutes=asked["idle_s"] / 60)
    cluster.start()
    looks: list[tuple[float, dict[str, int]]] = []
    run = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": "127.0.0.1:6379"})
    while run.poll() is None:
        looks.append((time.time(), _types()))
        time.sleep(0.5)
    until = time.monotonic() + _LEAVE_S
    while (left := _types()) and time.monotonic() < until:
        looks.append((time.time(), left))
        time.sleep(0.5)
    looks.append((time.time(), left))
    seen.write_text(json.dumps({"code": run.returncode, "looks": looks}))


if __name__ == "__main__":
    _require_own_namespaces()
    _loopback_up()
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3:])
