"""What nodes are called where they are had: as EC2 itself describes its types, and refused where nothing is known."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.resources import files
from typing import Any

import pytest

from cluster.config import ClusterConfig
from cluster.nodes.kinds import KINDS, node_kinds
from cluster.nodes.offers import Where, cpu_offers, head_offer, offer_of

GPUS = [(name, gpus) for name, kind in KINDS.items() if kind.gpus for gpus in (1, 2, 4, 8)]
MAKERS = {"a100-40": "A100", "a100-80": "A100"}


@cache
def described() -> dict[str, Any]:
    """What `aws ec2 describe-instance-types` says, as moto keeps it."""
    text = gzip.decompress((files("moto.ec2") / "resources" / "instance_types.json.gz").read_bytes())
    found: dict[str, Any] = json.loads(text)
    return found


def offered(where: Where, kind: str, gpus: int, **settings: Any) -> Any:
    own = ClusterConfig(node_kinds=settings).node_kinds
    return offer_of(where, node_kinds(own)[kind], gpus, own)


def known(where: Where) -> list[tuple[str, int]]:
    def is_known(kind: str, gpus: int) -> bool:
        try:
            return offered(where, kind, gpus) is not None
        except ValueError:
            return False

    return [(kind, gpus) for kind, gpus in GPUS if is_known(kind, gpus)]


def test_every_kind_has_a_node_of_eight_on_ec2() -> None:
    assert {kind for kind, gpus in known("aws") if gpus == 8} == {name for name, kind in KINDS.items() if kind.gpus}


@pytest.mark.parametrize(("kind", "gpus"), known("aws"), ids=lambda v: str(v))
def test_ec2_describes_its_types_so(kind: str, gpus: int) -> None:
    offer = offered("aws", kind, gpus)
    about = described()[offer.name]
    [devices] = about["GpuInfo"]["Gpus"]
    assert (devices["Count"], devices["Name"]) == (gpus, MAKERS.get(kind, kind.upper()))
    assert abs(devices["MemoryInfo"]["SizeInMiB"] / 1024 * 2**30 / KINDS[kind].gpu_memory - 1) < 0.15
    assert about["VCpuInfo"]["DefaultVCpus"] == offer.cpus
    assert about["MemoryInfo"]["SizeInMiB"] << 20 == offer.memory
    assert (about["NetworkInfo"].get("EfaInfo") or {}).get("MaximumEfaInterfaces", 0) == offer.efa


@pytest.mark.parametrize("offer", cpu_offers("aws", KINDS["cpu"], {}), ids=lambda offer: offer.name)
def test_ec2_describes_nodes_without_gpus_so(offer: Any) -> None:
    about = described()[offer.name]
    assert "GpuInfo" not in about and about["VCpuInfo"]["DefaultVCpus"] == offer.cpus
    assert about["MemoryInfo"]["SizeInMiB"] << 20 == offer.memory


@pytest.mark.parametrize("where", ["aws", "gcp"])
def test_a_head_is_as_large_as_it_must_be(where: Where) -> None:
    small, large = head_offer(where, 17 << 30), head_offer(where, 40 << 30)
    assert small.memory >= 17 << 30 and large.memory >= 40 << 30 and small.cpus < large.cpus
    if where == "aws":
        assert described()[small.name]["MemoryInfo"]["SizeInMiB"] << 20 == small.memory


@pytest.mark.parametrize(("kind", "gpus"), known("gcp"), ids=lambda v: str(v))
def test_machine_types_name_their_gpus(kind: str, gpus: int) -> None:
    offer = offered("gcp", kind, gpus)
    assert offer.name.endswith(f"-{gpus}g") or kind == "l4"
    assert offer.cpus >= 12 * gpus and offer.memory >= 48 * gpus << 30


@pytest.mark.parametrize("where", ["kubernetes", "skypilot"])
def test_all_kinds_of_gpus_have_a_name(where: Where) -> None:
    names = [offered(where, name, 1).name for name, kind in KINDS.items() if kind.gpus]
    assert len(set(names)) == len(names) and None not in names


def test_pods_leave_room_for_the_node_itself() -> None:
    offer, kind = offered("kubernetes", "h100", 8), KINDS["h100"]
    assert 0.8 * kind.cpus < offer.cpus < kind.cpus and 0.8 * kind.host_memory < offer.memory < kind.host_memory
    assert offered("kubernetes", "h100", 2).cpus * 4 == offer.cpus


# What is not known ------------------------------------------------------------------------------------------------

RIG: dict[str, Any] = {"gpu_memory": "24G", "host_memory": "128G", "cpus": 32, "gpus": 4}


@pytest.mark.parametrize("where", ["kubernetes", "aws", "gcp", "skypilot"])
def test_a_kind_without_a_name_is_refused_with_the_setting_that_gives_one(where: Where) -> None:
    key = "gpu_product" if where == "kubernetes" else where
    with pytest.raises(ValueError, match=rf"^cluster\.node_kinds\.rig\.{key}: "):
        offered(where, "rig", 2, rig=RIG)
    name: Any = {2: "rig.large"} if where in ("aws", "gcp") else "rig.large"
    offer = offered(where, "rig", 2, rig=RIG | {key: name})
    assert offer.name == "rig.large" and 0.8 * 16 < offer.cpus <= 16


def test_a_number_of_gpus_that_no_type_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"h100:8 \(p5\.48xlarge\)") as refused:
        offered("aws", "h100", 4)
    assert "cluster.node_kinds.h100.aws" in str(refused.value)
    assert offered("aws", "h100", 4, h100={"aws": {4: "p5.half"}}).name == "p5.half"


def test_what_the_configuration_says_comes_first() -> None:
    offer = offered("aws", "l40s", 4, l40s={"aws": {4: "g6e.24xlarge"}})
    assert (offer.name, offer.cpus, offer.memory) == ("g6e.24xlarge", 96, 768 << 30)
    assert offered("kubernetes", "l40s", 4, l40s={"gpu_product": "NVIDIA-L40S-SHARED"}).name == "NVIDIA-L40S-SHARED"


def test_names_of_nodes_are_no_sizes() -> None:
    with pytest.raises(ValueError, match=r"cluster\.node_kinds\.new\.gpu_memory: is missing"):
        node_kinds(ClusterConfig(node_kinds={"new": {"aws": {1: "p9.large"}}}).node_kinds)
