"""One rank of a two-rank worker group, as a process: runs a list of cases and writes what it saw. Not a test itself.

python expert_parallel_rank.py RANK RANKS PORT CASES.json OUT_FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.loading import join_process_group
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.generation.agreed import agreed_tokens


@torch.no_grad()
def whole_logits(model: Any, ids: list[list[int]]) -> np.ndarray:
    logits = model(input_ids=torch.tensor(ids), use_cache=False).logits
    if hasattr(logits, "full_tensor"):
        logits = logits.full_tensor()
    return logits.float().numpy()


class Counted:
    """Counts collectives, and what the host reads of tensors, while it is open."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Counter[str]:
        self._whole = [
            (owner, name, getattr(owner, name))
            for owner, names in {
                torch.distributed: ("all_to_all_single", "all_gather_into_tensor", "all_reduce", "broadcast"),
                torch.Tensor: ("tolist", "item", "nonzero", "__bool__", "__int__", "cpu"),
            }.items()
            for name in names
        ]
        for owner, name, call in self._whole:
            setattr(owner, name, self._counting("read" if owner is torch.Tensor else name, call))
        return self.calls

    def __exit__(self, *error: object) -> None:
        for owner, name, call in self._whole:
            setattr(owner, name, call)

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return call(*args, **kwargs)

        return counting


def passes(engine: TransformersEngine, ids: list[list[int]], ranks: int) -> dict[str, Any]:
    """Logits of this rank's ids by each way that tokens take, and what was called on the way, as JSON."""
    ways = {"": nullcontext(), "shared ": agreed_tokens(40), "sent ": agreed_tokens(4096 // ranks + 1)}
    seen: dict[str, Any] = {}
    for name, agreed in ways.items():
        with Counted() as calls, agreed:
            seen[f"{name}logits"] = whole_logits(engine.model, ids)
        seen[f"{name}calls"] = json.dumps(calls)
    return seen


def run_case(case: dict[str, Any], rank: int, ranks: int, out: Path) -> None:
    config = TeacherConfig(**case["config"])
    engine = TransformersEngine(config, rank=rank, ranks=ranks)
    asked = [TextRequest(**r) for r in case["requests"]]
    mine = asked if config.dispatch == "all_reduce" else [asked[i] for i in case["shares"][rank]]
    result: dict[str, Any] = {"weights_held": engine.describe()["weights_held"]}
    if config.dispatch == "all_reduce":
        result["logits"] = whole_logits(engine.model, case["ids"])
    else:  # each rank's own, and not equally many
        result |= passes(engine, [case["ids"][:-1], case["ids"][-1:]][rank], ranks)
    for name, spec in case["specs"].items():
        before = [dataclasses.replace(r, prompt_uid=f"before {r.prompt_uid}") for r in mine[:3]]
        engine.run(before, CaptureSpec(**spec), then=mine)  # so that some of them are begun in its slots
        targets: UnitTargets = engine.run(mine, CaptureSpec(**spec))
        for field in dataclasses.fields(targets):
            result[f"{name}.{field.name}"] = getattr(targets, field.name)
    np.savez(out / f"{case['name']}-{rank}.npz", **result)


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:4])
    torch.set_num_threads(1)
    join_process_group(rank, ranks, "127.0.0.1", port, "cpu")
    for case in json.loads(Path(sys.argv[4]).read_text()):
        run_case(case, rank, ranks, Path(sys.argv[5]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
