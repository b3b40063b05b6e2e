"""What a place costs an hour: by the kind of its node, else by its GPUs and CPUs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from support.small_configuration import put, refused

from cluster.config import ClusterConfig
from cluster.nodes.kinds import KINDS
from cluster.nodes.prices import Place, Rate, node_rate, rate_of

GPU, CPU = Place(4, 1), Place(4, 0)


def rate(place: Place, **prices: Any) -> Rate | None:
    return rate_of(ClusterConfig.model_validate({"prices": prices}), place)


def test_without_prices_there_are_none() -> None:
    assert rate_of(ClusterConfig(), GPU) is None


def test_a_node_is_paid_for_by_its_gpus_or_its_cpus() -> None:
    prices = {"node_hour": {"h100": 80.0, "cpu": 6.4}}
    assert rate(GPU, **prices) == Rate(gpu=10.0, cpu=0.0) and rate(CPU, **prices) == Rate(gpu=0.0, cpu=0.1)
    assert rate(CPU, node_hour={"h100": 80.0}) == Rate(0.0, 0.0), "its CPUs come with GPUs that are paid for"
    assert rate(GPU, node_hour={"cpu": 6.4}) is None


def test_of_several_kinds_the_accelerator_or_a_label_decides() -> None:
    prices = {"node_hour": {"h100": 80.0, "l4": 8.0}}
    assert rate(GPU, **prices) is None
    assert rate(Place(4, 1, "L4"), **prices) == Rate(1.0, 0.0)
    assert rate(Place(4, 1, labels={"ray.io/accelerator-type": "H100"}), **prices) == Rate(10.0, 0.0)
    assert rate(GPU, node_hour={"h100": 80.0, "h200": 80.0}) == Rate(10.0, 0.0), "they cost the same"


def test_what_nodes_do_not_say_gpus_and_cpus_do() -> None:
    prices = {"node_hour": {"h100": 80.0, "l4": 8.0}, "gpu_hour": 3.0, "cpu_hour": 0.05}
    assert rate(GPU, **prices) == Rate(3.0, 0.05) and rate(CPU, **prices) == Rate(3.0, 0.05)
    assert rate(Place(4, 1, "L4"), **prices) == Rate(1.0, 0.0)
    assert rate(CPU, gpu_hour=3.0) == Rate(3.0, 0.0) and rate(GPU, cpu_hour=0.05) is None


def test_a_node_costs_its_part_of_a_whole_one_or_what_it_has() -> None:
    def node(kind: str, gpus: float, cpus: float, **prices: Any) -> float | None:
        return node_rate(ClusterConfig.model_validate({"prices": prices or None}), KINDS[kind], gpus, cpus)

    assert node("h100", 8, 192, node_hour={"h100": 80}) == 80 and node("h100", 2, 48, node_hour={"h100": 80}) == 20
    assert node("cpu", 0, 64, node_hour={"cpu": 3.2}) == 3.2
    assert node("h100", 8, 192, gpu_hour=2.0) == 16 and node("h100", 8, 192, gpu_hour=2.0, cpu_hour=0.5) == 112
    assert node("cpu", 0, 64, cpu_hour=0.5) == 32 and node("cpu", 0, 64, gpu_hour=2.0) is None
    assert node("h100", 8, 192, cpu_hour=0.5) is None and node("h100", 8, 192) is None
    assert node("h100", 8, 192, node_hour={"h100": 0, "l4": 5}, gpu_hour=2.0) == 0 and node("l4", 8, 192) is None


def test_dollars_of_seconds() -> None:
    assert Rate(gpu=3.6, cpu=0.36).dollars(gpu_s=1000, cpu_s=2000) == pytest.approx(1.2)


def test_wrong_prices_are_refused_with_what_to_do() -> None:
    assert "did you mean 'h100'?" in refused(put("cluster.prices", {"node_hour": {"H10": 4}}))
    rig = {"node_kinds": {"rig": {"gpu_memory": 1, "host_memory": 1, "cpus": 1}}, "prices": {"node_hour": {"rig": 1}}}
    assert "cluster.node_kinds.rig.gpus" in refused(put("cluster", rig))
    assert "says no price" in refused(put("cluster.prices", {}))
    for wrong in ({"gpu_hour": -1}, {"node_hour": {"h100": -2}}, {"per_token": 1}):
        with pytest.raises(ValidationError):
            ClusterConfig.model_validate({"prices": wrong})
