"""Names of Ray's that are private, and may change with any release: all that this program uses, but Ray Train's
(orchestrator/stages/training/train_internals.py). A test for each fails when it does.

Ray is imported inside the functions: it loads in two seconds, and the CLI has to answer in less than one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any


def free_resources() -> dict[str, dict[str, Any]]:
    """What is free on each living node now, by the id of the node. Ray's public way to it goes through the dashboard,
    which need not run."""
    import ray

    return dict(ray._private.state.available_resources_per_node())


def node_table(*, living: bool, timeout_s: float) -> list[Any] | None:
    """What Ray's head knows of each living node, or of those that died (it keeps a thousand), in one request: id,
    address, labels, resources, when it came and left, and why. None where it does not answer in time: it is busy, or
    starts anew. `ray.nodes` tells no times, and waits."""
    import ray
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    wanted = GcsNodeInfo.GcsNodeState.ALIVE if living else GcsNodeInfo.GcsNodeState.DEAD
    client = ray._private.worker.global_worker.gcs_client
    try:
        return list(client.get_all_node_info(state_filter=wanted, timeout=timeout_s).values())
    except ray.exceptions.RayError:
        return None


_DEATH = "A worker died or was killed while executing a task by an unexpected system error"
"""How Ray begins what it says of each process that dies."""


def quieten_deaths() -> None:
    """Leave out what Ray prints of each process that dies, a page of what may cause such a thing: whoever called it
    says in a line what died and what comes of it."""
    from ray._private import worker

    show = worker.print_to_stdstream
    if getattr(show, "quiet", False):
        return

    def quiet(data: dict[str, Any], *arguments: Any, **settings: Any) -> None:
        if not any(str(line).startswith(_DEATH) for line in data.get("lines", ())):
            show(data, *arguments, **settings)

    quiet.quiet = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = quiet


def is_draining() -> bool:
    """Whether this process's node is to be taken away: its cloud has given notice, or an autoscaler will. Ray Train's
    way to ask is a meeting of all workers."""
    import ray

    return ray.get_runtime_context().get_node_id() in ray._private.state.state.get_draining_nodes()


def groups_made_by(actor: str) -> list[str]:
    """Ids of the placement groups that an actor made, dead or alive, as hex digits. Ray's public table does not say who
    made which."""
    return [group.placement_group_id.hex() for group in _groups() if group.creator_actor_id.hex() == actor]


def groups_of_the_dead() -> list[str]:
    """Likewise those of this job that actors made which are dead for good."""
    import ray

    job = ray.get_runtime_context().get_job_id()
    mine = [group for group in _groups() if group.creator_job_id.hex() == job]
    return [g.placement_group_id.hex() for g in mine if g.creator_actor_dead and g.state != g.REMOVED]


def _groups() -> list[Any]:
    import ray
    from ray.core.generated import gcs_pb2

    held = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
    return [gcs_pb2.PlacementGroupTableData.FromString(group) for group in held]


def own_node(cpus: int | None) -> tuple[dict[str, float], dict[str, str]]:
    """Resources and labels of a Ray that is started on this machine with so many CPUs (None: all), as Ray finds them.
    Its `ray.io/node-id` is not among them: nobody knows it before."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    logging.getLogger("ray").setLevel(logging.ERROR)  # it would tell how it counts CPUs in a container
    found = ResourceAndLabelSpec(num_cpus=cpus).resolve(is_head=True, node_ip_address="127.0.0.1")
    return dict(found.to_resource_dict()), dict(found.labels)


def running_ray() -> str | None:
    """HOST:PORT of the Ray that `address="auto"` joins on this machine; None where none runs, or several do."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except ConnectionError:
        return None


def is_head(address: str, timeout_s: float) -> bool:
    """Whether what listens at HOST:PORT answers as a Ray head does."""
    import grpc
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    channel = create_gcs_channel(address)
    try:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=timeout_s)
    except grpc.RpcError as error:
        # Who asks for a token is one; what is said of a wrong one comes from Ray.
        return error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    finally:
        channel.close()
    return True


def walk_package(root: Path, excludes: list[str], note: Callable[[Path], None], *, gitignore: bool) -> None:
    """Call `note` with each path that Ray would put in the package of a working directory.

    Ray's own walk: a second reading of .gitignore rules would disagree with it somewhere.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    skip = [_get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])]
    _dir_travel(root, skip, note, include_gitignore=gitignore, logger=logging.getLogger(__name__))
