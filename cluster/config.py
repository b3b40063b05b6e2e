"""Where a run takes place: which Ray, and how long to wait for it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from cluster.settings import Count, Settings


class NodeKindConfig(Settings):
    """A kind of node that `stillhouse plan --nodes` may name. What is null stays as a known kind of that name has it; a
    new kind says its own sizes."""

    gpu_memory: Count | None = Field(default=None, ge=0)
    """Bytes of memory of one GPU (80G = 80,000,000,000)."""

    host_memory: Count | None = Field(default=None, ge=1)
    """Bytes of memory of a whole node, without that of its GPUs."""

    cpus: float | None = Field(default=None, gt=0)
    """CPUs of a whole node."""

    gpus: int | None = Field(default=None, ge=0)
    """GPUs of a whole node, which CPUs and host memory are shared out over: a node with half of them has half. 0: the
    kind has none. Null, of a new kind: nodes with any number of GPUs have the same CPUs and host memory."""

    accelerator_type: str | None = None
    """Ray's name of its GPUs, for example H100."""

    labels: dict[str, str] | None = None
    """Ray labels of its nodes, for example {stillhouse-role: teacher}."""


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
    and the others go on; without the evaluator the run stops. So do exports, of which each then has failed."""

    leave_s: float = Field(default=120, ge=0)
    """Seconds that students may take for a last checkpoint when SIGINT or SIGTERM asks a run to stop. A second signal
    ends it at once."""

    runtime_env: dict[str, Any] = {}
    """Ray runtime_env, passed on as it is (heavy packages belong in the image, not here)."""

    model_cache: str | None = None
    """Folder of each node (absolute, or from ~ on) that models in s3:// folders are fetched into, once a node; best on
    a local disk with room for them. Null: what STILLHOUSE_MODEL_CACHE says on the node, else
    ~/.cache/stillhouse/models. Models of the Hugging Face Hub lie where HF_HOME says."""

    dashboard: bool = False
    """Start the dashboard of a Ray started on this machine: nine more processes, so not on a small one."""

    node_kinds: dict[Annotated[str, Field(pattern=r"^[^\s:,]+$")], NodeKindConfig] = {}
    """Kinds of nodes by name, for `stillhouse plan --nodes`, beside those that it knows."""

    @field_validator("model_cache")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("/", "~")):
            raise ValueError("is relative, and nodes have no folder in common; give one from / or ~ on")
        return value
