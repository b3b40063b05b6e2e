"""What the memory of each process is the sum of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.project import Project

Command = Callable[..., Any]


def parts(project: Project, stillhouse: Command, *words: str) -> dict[str, dict[str, Any]]:
    found = json.loads(stillhouse("plan", project.write(), "--json", *words).out)["parts"]
    return {part["name"]: part for part in found}


def check_sums(part: dict[str, Any]) -> None:
    for key in ("memory", "gpu_memory"):
        pieces = part[f"{key}_of"]
        assert sum(pieces.values()) == part[key] and all(size > 0 for size in pieces.values())


@pytest.mark.parametrize("nodes", [[], ["--nodes", "h100:8x2"]])
@pytest.mark.parametrize("scheme", ["systematic", "hidden"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_pieces_add_up(large: Project, stillhouse: Command, nodes: list[str], scheme: str, zero: int) -> None:
    large.set("targets.scheme", scheme)
    large.set("defaults.train.zero", zero)
    large.model("dense", experts=0)
    large.weights("dense", {f"model.layers.{i}.mlp.up_proj.weight": [2, 10**9] for i in range(2)})
    large.set("specialists.legal.model", "dense")
    found = parts(large, stillhouse, *nodes)
    assert len(found) == 5
    for part in found.values():
        check_sums(part)
    student = found["specialist medical"]["gpu_memory_of"]
    assert {"weights", "gradients", "moments", "masters", "reduce_bucket", "activations", "logits"} <= set(student)
    assert ("teacher_head" in student) == (scheme == "hidden")
    assert {"weights", "kv_cache", "logits", "cuda_context"} == set(found["teacher teacher"]["gpu_memory_of"])


def test_pieces_without_gpus(project: Project, stillhouse: Command) -> None:
    for part in parts(project, stillhouse).values():
        check_sums(part)
        assert part["gpu_memory_of"] == {} and part["memory_of"]["process"] > 0


def test_workers_share_moments_and_masters_and_from_stage_two_on_gradients(large: Project, stillhouse: Command) -> None:
    held = {}
    for zero, workers in ((1, 2), (1, 4), (2, 4), (3, 4)):
        large.set("defaults.train", {"tokens": 1000, "workers": workers, "gpus_per_worker": 1, "zero": zero})
        held[zero, workers] = parts(large, stillhouse)["specialist medical"]["gpu_memory_of"]
    one, more = held[1, 2], held[1, 4]
    assert one["moments"] == 2 * more["moments"] == 2 * one["masters"] and one["gradients"] == more["gradients"]
    assert more["gradients"] == 4 * held[2, 4]["gradients"] and more["weights"] == 4 * held[3, 4]["weights"]


def test_they_are_shown_where_they_are_asked_for(large: Project, stillhouse: Command) -> None:
    before, after = (stillhouse("plan", large.write(), "--nodes", "h100:8x2", *flag).out for flag in ([], ["--memory"]))
    rows = [line.split() for line in after.splitlines() if line.startswith("teacher teacher") and " GPU " in line]
    assert ["teacher", "teacher", "GPU", "kv", "cache"] in [row[:5] for row in rows]
    assert "kv cache" not in before and "cuda context" not in before
