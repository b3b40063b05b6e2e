"""Where a run takes place: which Ray, and how long to wait for it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from cluster.settings import Count, Settings, Share

InstanceTypes = dict[Annotated[int, Field(ge=0)], Annotated[str, Field(min_length=1)]]
"""What a cloud calls nodes of a kind, by the number of their GPUs."""


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

    bf16_tflops: float | None = Field(default=None, gt=0)
    """TFLOP/s of one GPU in bfloat16, dense (half of what data sheets give with sparsity). Null, of a new kind: not
    known, and the plan has no hours for what runs there."""

    memory_bandwidth: Count | None = Field(default=None, ge=1)
    """Bytes a second that one GPU reads of its memory (864G = 864,000,000,000). Null: likewise."""

    labels: dict[str, str] | None = None
    """Ray labels of its nodes, for example {stillhouse-role: teacher}."""

    gpu_product: str | None = Field(default=None, min_length=1)
    """What Kubernetes calls its GPUs: the value of its nodes' label nvidia.com/gpu.product. This and the three below
    are for `stillhouse cluster render`."""

    aws: InstanceTypes | None = None
    """Instance types of EC2 by number of GPUs, for example {4: g6e.12xlarge}; 0 for a kind without. Their CPUs and
    memory are the kind's own, or the share that goes with so many GPUs."""

    gcp: InstanceTypes | None = None
    """Machine types of Google Compute Engine, likewise."""

    skypilot: str | None = Field(default=None, min_length=1)
    """SkyPilot's name of its GPUs, for example H100."""


Dollars = Annotated[float, Field(ge=0)]


class PricesConfig(Settings):
    """What places cost. A node's price goes to its GPUs, or to its CPUs where it has none; a part of a run whose kind
    of node has no price is counted by its GPUs and CPUs."""

    node_hour: dict[str, Dollars] = {}
    """Dollars an hour of a whole node by its kind: h100, l4, cpu, ... as `stillhouse plan --nodes` knows them, and
    those of `node_kinds`. Of several kinds with GPUs, a teacher's `accelerator_type` or a `label_selector` says which
    one is meant."""

    gpu_hour: Dollars | None = None
    """Dollars an hour of one GPU. Null: only the nodes' prices count."""

    cpu_hour: Dollars | None = None
    """Dollars an hour of one CPU, also beside a GPU. Null: CPUs come with GPUs and nodes, and cost nothing more."""

    @model_validator(mode="after")
    def _some_price(self) -> PricesConfig:
        if not self.node_hour and self.gpu_hour is None and self.cpu_hour is None:
            raise ValueError("says no price; give node_hour, gpu_hour or cpu_hour, or leave prices out")
        return self


Port = Annotated[int, Field(ge=1024, le=65535)]


class NetworkConfig(Settings):
    """Which way the ranks of a teacher, and the workers of a student, reach each other."""

    interfaces: list[Annotated[str, Field(pattern=r"^[^\s,=^]+$")]] = []
    """Network interfaces by name (eth0, ens5): of these each process takes the first that its node has, for gloo
    (GLOO_SOCKET_IFNAME) and for NCCL's sockets (NCCL_SOCKET_IFNAME). Empty: the interface of the address that the node
    has in Ray. What `runtime_env.env_vars` sets of those two wins."""

    rendezvous_ports: tuple[Port, Port] | None = None
    """First and last port for processes to meet at, at the first of them; one group on a node takes one. Null: any that
    is free. The connections that follow are on ports of the system's choice, so nodes must reach each other on all."""

    collective_s: int = Field(default=4 * 3600, ge=10)
    """Seconds that workers of a student wait for each other between steps before those that wait fail, and the group
    starts anew: a final model, which the first one writes, and the upload of a checkpoint, which the next one waits
    for, must take less. One that died is noticed at once. Within steps it is `train.hang_deadline_s`; a teacher has one
    of its own."""

    @model_validator(mode="after")
    def _in_order(self) -> NetworkConfig:
        if self.rendezvous_ports is not None and self.rendezvous_ports[0] > self.rendezvous_ports[1]:
            first, last = self.rendezvous_ports
            raise ValueError(f"rendezvous_ports: {first} to {last}; give the lower one first")
        return self


class EfficiencyConfig(Settings):
    """Which part of what its hardware can do at most a run reaches: for the hours of `stillhouse plan`. The defaults
    are assumptions; what a run measured (`plan --rates RUN`) goes before them."""

    training: Share = Field(default=0.35, gt=0, le=1)
    """Of a GPU's bfloat16 FLOP/s, in training. torchtitan reports 33% to 39% for Llama 3.1 8B on 8 and 128 H100."""

    prefill: Share = Field(default=0.5, gt=0, le=1)
    """Of the same, where a model only reads text: prompts, given answers, held-out text. Assumed."""

    bandwidth: Share = Field(default=0.6, gt=0, le=1)
    """Of a GPU's memory bandwidth, in decoding and in optimiser steps. Assumed."""

    layer_ms: float = Field(default=2.0, ge=0)
    """Milliseconds that a layer of a decoding step takes the engine transformers on GPUs at least, for its kernels are
    launched one by one, and ranks wait for one another. Assumed, of experts on several ranks; a dense model may take
    less. vLLM replays graphs, and is reckoned without."""


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

    network: NetworkConfig = NetworkConfig()
    """Interfaces, ports and patience of processes that work together."""

    dashboard: bool = False
    """Start the dashboard of a Ray started on this machine: nine more processes, so not on a small one."""

    node_kinds: dict[Annotated[str, Field(pattern=r"^[^\s:,]+$")], NodeKindConfig] = {}
    """Kinds of nodes by name, for `stillhouse plan --nodes`, beside those that it knows."""

    efficiency: EfficiencyConfig = EfficiencyConfig()
    """What the hours of `stillhouse plan` take for granted."""

    prices: PricesConfig | None = None
    """What nodes, GPUs and CPUs cost, for `stillhouse plan`, `stillhouse status`, `stillhouse runs` and the report.
    Null: costs are told in seconds only."""

    @field_validator("model_cache")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("/", "~")):
            raise ValueError("is relative, and nodes have no folder in common; give one from / or ~ on")
        return value
