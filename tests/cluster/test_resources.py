"""Whether a worker group finds room, and what the message says where it does not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cluster.resources import (
    Node,
    ResourceRequest,
    free_slots,
    group_request,
    infeasible_reason,
    matches,
    others_than,
    table,
)


def node(cpus: float, gpus: float = 0, *, free: float = 0, kind: str = "", **labels: str) -> Node:
    total = {"CPU": cpus, "GPU": gpus} | ({f"accelerator_type:{kind}": 1.0} if kind else {})
    return Node("10.0.0.1", total, {"CPU": free}, {k.replace("_", "-"): v for k, v in labels.items()})


def wants(
    ranks: int = 2, gpus: float = 0, strategy: str = "PACK", kind: str | None = None, **labels: str
) -> ResourceRequest:
    return group_request(ranks, 1, gpus, strategy, {k.replace("_", "-"): v for k, v in labels.items()}, kind)


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (wants(4), [node(2), node(2)]),
        (wants(2, strategy="STRICT_SPREAD"), [node(1), node(1)]),
        (wants(2, strategy="STRICT_PACK"), [node(1), node(2)]),
        (wants(2, gpus=0.5), [node(2, 1)]),
        (wants(2, gpus=1, kind="H100"), [node(9, 8, kind="A100"), node(9, 2, kind="H100")]),
        (wants(1, role="teacher"), [node(1, role="student"), node(1, role="teacher")]),
    ],
)
def test_room_for_a_group_of_processes(wanted: ResourceRequest, nodes: list[Node]) -> None:
    assert infeasible_reason(wanted, nodes) is None


@pytest.mark.parametrize(
    ("wanted", "nodes", "message"),
    [
        (wants(1), [], "the cluster has no node"),
        (wants(4, gpus=1, strategy="STRICT_PACK"), [node(8, 2), node(8, 2)],
         "4 GPU are wanted on one node, the largest node has 2"),
        (wants(3, strategy="STRICT_SPREAD"), [node(8), node(8)],
         "3 nodes are wanted, one for each process; 2 have room for one"),
        (wants(2, gpus=1), [node(8)], "one process wants 1 GPU, the largest node has 0"),
        (wants(4, gpus=1), [node(8, 2), node(1, 2)], "room for 3 of its 4 processes on 2 nodes"),
        (wants(2, gpus=1, kind="H100"), [node(9, 8, kind="A100")],
         "no node has accelerators of type H100; there are ['A100']"),
        (wants(1, role="teacher"), [node(1, role="student")],
         "no node has the label role=teacher; there are ['student']"),
        (wants(1, rolle="teacher"), [node(1)], "no node has the label rolle=teacher; there are none of that name"),
        (wants(1, role="teacher", zone="b"), [node(1, role="teacher", zone="a"), node(1, zone="b")],
         "no node has all of the labels role=teacher + zone=b"),
        (wants(2, role="teacher"), [node(1, role="teacher"), node(9)], "room for 1 of its 2 processes on 1 nodes"),
    ],
)  # fmt: skip
def test_why_a_group_finds_no_place(wanted: ResourceRequest, nodes: list[Node], message: str) -> None:
    assert message in (infeasible_reason(wanted, nodes) or "")


@pytest.mark.parametrize(
    ("selector", "good", "bad"),
    [
        ({"zone": "a"}, {"zone": "a"}, {"zone": "b"}),
        ({"zone": "!a"}, {"zone": "b"}, {"zone": "a"}),
        ({"zone": "in(a, b)"}, {"zone": "b"}, {"zone": "c"}),
        ({"zone": "!in(a, b)"}, {"zone": "c"}, {"zone": "a"}),
        ({"zone": "a", "role": "t"}, {"zone": "a", "role": "t"}, {"zone": "a"}),
    ],
)
def test_selectors(selector: Mapping[str, str], good: Mapping[str, str], bad: Mapping[str, str]) -> None:
    assert matches(good, selector) and not matches(bad, selector)


def test_places_that_are_free_on_nodes_with_the_labels() -> None:
    """Not what nodes have in all: others hold a part of it."""
    nodes = [
        Node("a", {"CPU": 8.0}, {"CPU": 2.5}, {"role": "student"}),
        Node("b", {"CPU": 8.0, "GPU": 1.0}, {"CPU": 0.6, "GPU": 1.0}, {"role": "student"}),
        Node("c", {"CPU": 8.0}, {"CPU": 8.0}, {}),
    ]
    assert free_slots(nodes, {"CPU": 1}, {"role": "student"}) == 2
    assert free_slots(nodes, {"CPU": 1}, {}) == 10
    assert free_slots(nodes, {"CPU": 0.2}, {"role": "student"}) == 12 + 3
    assert free_slots(nodes, {"CPU": 0.5, "GPU": 1}, {}) == 1
    assert free_slots(nodes, {"CPU": 9}, {}) == 0


def test_the_table_of_a_cluster() -> None:
    assert table([node(8, 2, free=3, kind="L4")]) == "10.0.0.1: 3 of 8 CPU free, 0 of 2 GPU free, type L4"
    assert table([node(1)] * 11).endswith("and 3 nodes more")


def test_what_is_wanted_in_words() -> None:
    wanted = wants(4, gpus=1, kind="H100", role="teacher")
    assert str(wanted) == "4 x 1 CPU + 1 GPU + an accelerator of type H100 (PACK) on nodes with role=teacher"


@pytest.mark.parametrize(
    ("selectors", "other"),
    [
        ([], {}),
        ([{}, {"role": "!head"}], {}),
        ([{"role": "teacher"}, {"role": "teacher"}], {"role": "!in(teacher)"}),
        ([{"role": "teacher"}, {"role": "in(student, spot)"}], {"role": "!in(spot,student,teacher)"}),
        ([{"role": "teacher", "zone": "a"}, {"kind": "!x", "zone": "b"}], {"role": "!in(teacher)", "zone": "!in(b)"}),
    ],
)
def test_the_nodes_that_nobody_asks_for(selectors: list[dict[str, str]], other: dict[str, str]) -> None:
    assert others_than(selectors) == other
    asked = [
        {key: value for key, value in selector.items() if "in(" not in value and "!" not in value}
        for selector in selectors
    ]
    assert not any(matches(labels, other) for labels in asked if labels)
    assert matches({"role": "cpu"}, other) and matches({}, other), "nodes without a label too"
