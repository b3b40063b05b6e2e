"""Nodes that are not there: how they are written, which kinds there are, and what a node of each has."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import ClusterConfig
from cluster.inventory import Inventory
from cluster.nodes.kinds import KINDS, node_kinds, planned_inventory


def planned(text: str, **kinds: Any) -> Inventory:
    return planned_inventory(text, ClusterConfig(node_kinds=kinds).node_kinds)


def test_whole_nodes_have_what_their_kind_says() -> None:
    two = planned("h100:8x2")
    h100 = KINDS["h100"]
    assert (two.nodes, two.gpus, two.cpus, two.memory) == (2, 16, 2 * h100.cpus, 2 * h100.host_memory)
    assert [node.address for node in two.members] == ["h100-1", "h100-2"]
    assert all(node.accelerators() == ["H100"] for node in two.members)


def test_a_node_with_fewer_gpus_has_its_share() -> None:
    quarter = planned("h100:2x1")
    assert (quarter.gpus, quarter.cpus, quarter.memory) == (2, KINDS["h100"].cpus / 4, KINDS["h100"].host_memory // 4)


def test_several_kinds_and_sizes() -> None:
    mixed = planned(" h100:8x1, cpu:0x3 ,h100:4x1")
    assert [node.address for node in mixed.members] == ["h100-1", "cpu-1", "cpu-2", "cpu-3", "h100-2"]
    assert mixed.gpus == 12 and not any(node.total.get("GPU") for node in mixed.members[1:4])


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_can_be_planned(name: str) -> None:
    assert planned(f"{name}:{KINDS[name].gpus}x1").gpus == KINDS[name].gpus


def test_what_a_gpu_can_do_is_known_of_all_known_kinds_and_a_setting_of_others() -> None:
    for kind in KINDS.values():
        known = (kind.bf16_tflops or 0) > 0, (kind.memory_bandwidth or 0) > 0
        assert known == (bool(kind.gpus), bool(kind.gpus))
    sizes = {"gpu_memory": "24G", "host_memory": "64G", "cpus": 16, "gpus": 4}
    kinds = {"rig": sizes, "fast": {**sizes, "bf16_tflops": 165, "memory_bandwidth": "1008G"}, "h100": {"cpus": 4}}
    found = node_kinds(ClusterConfig.model_validate({"node_kinds": kinds}).node_kinds)
    assert found["rig"].bf16_tflops is None and found["rig"].memory_bandwidth is None
    assert (found["fast"].bf16_tflops, found["fast"].memory_bandwidth) == (165, 1.008e12)
    assert found["h100"].bf16_tflops == KINDS["h100"].bf16_tflops


HOSTILE = {
    "nothing": "",
    "a comma": ",",
    "a comma too many": "h100:8x2,",
    "a name alone": "h100",
    "no number of nodes": "h100:8",
    "no number behind x": "h100:8x",
    "no GPUs": "h100:x2",
    "no kind": ":8x2",
    "a negative number": "h100:-8x2",
    "a fraction": "h100:0.5x2",
    "an exponent": "h100:1e3x2",
    "digits of another script": "h100:８x2",
    "a capital X": "h100:8X2",
    "a space within": "h100: 8x2",
    "a number of many digits": f"h100:8x{'9' * 5000}",
    "a long word": "h" * 1_000_000,
    "a long kind": f"{'h' * 1_000_000}:8x2",
    "a line break": "h100:8x2\nh100",
    "a null byte": "h100\x00:8x2",
    "markup": "[red]:8x2",
    "half a surrogate pair": "\ud800:8x2",
    "another separator": "h100:8x2;l4:8x1",
    "no node": "h100:8x0",
    "more GPUs than a node has": "h100:9x1",
    "GPUs of nodes without": "cpu:1x1",
    "GPU nodes without GPUs": "h100:0x2",
    "more nodes than a plan has": "h100:8x999999",
    "as many in several": ",".join(["h100:8x4000"] * 3),
    "another case": "H100:8x2",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_nodes_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        planned(text)
    message = str(refused.value)
    assert message.startswith("--nodes: ") and "\n" not in message and len(message) < 400


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'h10' is no known kind of node; did you mean 'h100'\?") as refused:
        planned("h10:8x2", rig={"gpu_memory": "24G", "host_memory": "64G", "cpus": 16})
    assert all(name in str(refused.value) for name in [*KINDS, "rig", "cluster.node_kinds"])


# Kinds of one's own -------------------------------------------------------------------------------------------


def test_a_kind_of_ones_own() -> None:
    rig = {"gpu_memory": "24G", "host_memory": "128G", "cpus": 32, "gpus": 4, "labels": {"role": "student"}}
    [node] = planned("rig:2x1", rig=rig).members
    assert node.total == {"CPU": 16, "GPU": 2, "memory": 64e9} and node.labels == {"role": "student"}
    with pytest.raises(ValueError, match="a node of rig has 4 GPUs"):
        planned("rig:8x1", rig=rig)


def test_of_a_kind_without_a_number_of_gpus_every_node_has_all_of_the_host() -> None:
    rig = {"gpu_memory": "24G", "host_memory": "128G", "cpus": 32}
    for gpus in (1, 16):
        [node] = planned(f"rig:{gpus}x1", rig=rig).members
        assert node.total == {"CPU": 32, "GPU": gpus, "memory": 128e9}


def test_a_kind_without_gpus() -> None:
    [node] = planned("fat:0x1", fat={"gpus": 0, "host_memory": "1T", "cpus": 128}).members
    assert node.total == {"CPU": 128, "memory": 1e12}


def test_a_known_kind_is_changed_in_what_is_said() -> None:
    changed = node_kinds(ClusterConfig(node_kinds={"h100": {"labels": {"role": "teacher"}}}).node_kinds)["h100"]
    assert changed.labels == {"role": "teacher"}
    assert (changed.gpu_memory, changed.cpus, changed.gpus) == (80 * 10**9, KINDS["h100"].cpus, 8)
    [node] = planned("h100:8x1", h100={"host_memory": "1T"}).members
    assert node.total["memory"] == 1e12 and node.labels["ray.io/accelerator-type"] == "H100"


@pytest.mark.parametrize("lacking", ["gpu_memory", "host_memory", "cpus"])
def test_a_new_kind_that_lacks_a_size_is_refused(lacking: str) -> None:
    sizes: dict[str, Any] = {"gpu_memory": "24G", "host_memory": "128G", "cpus": 32}
    sizes.pop(lacking)
    with pytest.raises(ValueError, match=rf"cluster\.node_kinds\.rig\.{lacking}: is missing"):
        planned("h100:8x1", rig=sizes)
