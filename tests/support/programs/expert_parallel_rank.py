"""One rank of a two-rank worker group, as a process: runs a list of cases and writes what it saw. Not a test itself.

python expert_parallel_rank.py RANK RANKS PORT CASES.json OUT_FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.loading import join_process_group
from workers.teacher.engines.transformers_engine import TransformersEngine


@torch.no_grad()
def whole_logits(model: Any, ids: list[list[int]]) -> np.ndarray:
    logits = model(input_ids=torch.tensor(ids), use_cache=False).logits
    if hasattr(logits, "full_tensor"):
        logits = logits.full_tensor()
    return logits.float().numpy()


def run_case(case: dict[str, Any], rank: int, ranks: int, out: Path) -> None:
    config = TeacherConfig(**case["config"])
    engine = TransformersEngine(config, rank=rank, ranks=ranks)
    asked = [TextRequest(**r) for r in case["requests"]]
    mine = asked if config.dispatch == "all_reduce" else [asked[i] for i in case["shares"][rank]]
    # The same ids on all ranks where they share texts; each rank's own where they do not.
    ids = case["ids"] if config.dispatch == "all_reduce" else case["ids"][rank::ranks]
    result: dict[str, Any] = {
        "logits": whole_logits(engine.model, ids),
        "weights_held": engine.describe()["weights_held"],
    }
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
