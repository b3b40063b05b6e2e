"""Groups of processes on nodes, one after another."""

from __future__ import annotations

import random

import pytest

from cluster.nodes.packing import Room
from cluster.resources import Node, ResourceRequest, group_request, infeasible_reason


def node(cpus: float, gpus: float = 0, **labels: str) -> Node:
    total = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return Node("10.0.0.1", total, total, labels)


def group(ranks: int, cpus: float = 1, gpus: float = 0, strategy: str = "PACK", **labels: str) -> ResourceRequest:
    return group_request(ranks, cpus, gpus, strategy, labels)


def put(nodes: list[Node], *requests: ResourceRequest) -> list[list[int] | None]:
    room = Room(nodes)
    return [room.put(request, range(len(nodes))) for request in requests]


def test_a_packed_group_takes_the_fullest_node_that_holds_it() -> None:
    nodes = [node(16, 8), node(16, 8)]
    assert put(nodes, group(6, gpus=1), group(2, gpus=1), group(4, gpus=1)) == [[0] * 6, [0] * 2, [1] * 4]


def test_a_group_that_no_node_holds_is_packed_on_the_fewest() -> None:
    assert put([node(2), node(4), node(1)], group(6)) == [[1, 1, 1, 1, 0, 0]]
    assert put([node(2), node(4)], group(6, strategy="STRICT_PACK")) == [None]


def test_a_spread_group_takes_one_node_after_another() -> None:
    assert put([node(4), node(1), node(4)], group(5, strategy="SPREAD")) == [[0, 2, 1, 0, 2]]
    assert put([node(4), node(1), node(4)], group(3, strategy="STRICT_SPREAD")) == [[0, 2, 1]]
    assert put([node(4), node(1), node(4)], group(4, strategy="STRICT_SPREAD")) == [None]


def test_what_finds_no_room_takes_none() -> None:
    assert put([node(4, 4)], group(5, gpus=1), group(4, gpus=1)) == [None, [0] * 4]


def test_parts_of_a_gpu_share_one() -> None:
    assert put([node(8, 1)], group(2, gpus=0.5), group(1, gpus=0.5)) == [[0, 0], None]


def test_processes_without_gpus_keep_off_nodes_that_have_some() -> None:
    nodes = [node(2, 8), node(4)]
    assert put(nodes, group(3), group(1), group(2)) == [[1] * 3, [1], [0, 0]]


def test_labels_and_nodes_that_are_left_out() -> None:
    nodes = [node(4, role="teacher"), node(4, role="student")]
    assert put(nodes, group(2, role="student")) == [[1, 1]]
    assert Room(nodes).put(group(2), {1}) == [1, 1]


@pytest.mark.parametrize("seed", range(40))
def test_no_node_holds_more_than_it_has_and_empty_nodes_hold_what_is_feasible(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [node(draw.randint(1, 12), draw.choice([0, 0, 4, 8])) for _ in range(draw.randint(1, 6))]
    requests = [
        group(
            draw.randint(1, 9),
            draw.choice([0.5, 1, 2]),
            draw.choice([0, 0.5, 1]),
            draw.choice(["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"]),
        )
        for _ in range(12)
    ]
    used = [{"CPU": 0.0, "GPU": 0.0} for _ in nodes]
    for request, places in zip(requests, put(nodes, *requests), strict=True):
        [alone] = put(nodes, request)
        assert (alone is None) == (infeasible_reason(request, nodes) is not None)
        assert places is None or len(places) == len(request.bundles)
        assert request.strategy != "STRICT_PACK" or len(set(places or [])) <= 1
        assert request.strategy != "STRICT_SPREAD" or len(set(places or [])) == len(places or [])
        for i in places or []:
            for name, amount in request.bundles[0].items():
                used[i][name] += amount
    for node_, amounts in zip(nodes, used, strict=True):
        assert all(amount <= node_.total.get(name, 0) + 1e-6 for name, amount in amounts.items())
