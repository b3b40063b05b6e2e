"""Where a run takes place: which Ray, and how long to wait for it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cluster.settings import Settings


class ClusterConfig(Settings):
    """The Ray session. A job sent by `stillhouse submit` joins the cluster that it runs on."""

    address: str | None = None
    """Ray address to join (`auto`, or HOST:PORT). Null starts a Ray of its own on this machine, or joins the
    cluster that RAY_ADDRESS names (as it does inside a submitted job)."""

    cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of a Ray started on this machine. Null takes what the machine has."""

    placement_deadline_s: float = Field(default=1800, gt=0)
    """Seconds that a teacher replica may wait for its place before the run stops and says what it wanted. Students and
    the evaluator wait for what is in use, and so long for what the cluster has not at all: then a student has failed,
    and the others go on; without the evaluator the run stops."""

    runtime_env: dict[str, Any] = {}
    """Ray runtime_env, passed on as it is (heavy packages belong in the image, not here)."""

    dashboard: bool = False
    """Start the dashboard of a Ray started on this machine: nine more processes, so not on a small one."""
