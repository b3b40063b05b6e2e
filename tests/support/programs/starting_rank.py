"""One rank of a group that starts from a model in a store, as a process: reads models, or starts students' engines, and
writes what it saw. Not a test itself.

python starting_rank.py RANK RANKS PORT CASES.json ROOT OUT_FOLDER
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from cluster.storage import LocalStorage
from workers.streaming.read_once import read_once
from workers.teacher.engines.loading import join_process_group


class Remote(LocalStorage):
    """A store whose files are fetched, as those of S3 are, and which knows how often."""

    fetched = 0

    def local_path(self, key: str) -> Path | None:
        return None

    def download_folder(self, key: str, folder: Path) -> None:
        self.fetched += 1
        super().download_folder(key, folder)


def read(storage: Remote, case: dict[str, Any]) -> dict[str, Any]:
    """A model of which each parameter is sent as soon as it is there."""
    dtype = getattr(torch, case["dtype"])
    model, layers = read_once(storage, case["key"], dtype, "cpu", layers_of, lambda p: dist.broadcast(p.data, 0))
    named = {n: t for tensors in (model.named_parameters(), model.named_buffers()) for n, t in tensors}
    return {
        "tensors": {n: t.detach().clone() for n, t in named.items()},
        "layers_seen": layers,
        "layers": layers_of(model),
    }


def layers_of(model: Any) -> int:
    return len(max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len))


def start(storage: Remote, case: dict[str, Any]) -> dict[str, Any]:
    """A student's engine; and the most numbers of parameters that were in this process until the last was shared out,
    before that of the first."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    from workers.student.config import LossConfig, TrainConfig
    from workers.student.training.engine import start_engine, whole_weights

    most = 0

    class Watched(deepspeed.zero.Init):
        def __init__(self, *given: Any, **named: Any) -> None:
            nonlocal most
            most = max(most, held())
            super().__init__(*given, **named)
            most = max(most, held())

    gc.freeze()  # what is there already need not be looked through each time
    real, deepspeed.zero.Init = deepspeed.zero.Init, Watched
    engine, _ = start_engine(case["key"], TrainConfig(**case["train"]), LossConfig(), storage)
    deepspeed.zero.Init = real
    masters = {n: safe_get_full_fp32_param(p) for n, p in engine.module.causal_lm.named_parameters()}
    found = {"tensors": whole_weights(engine), "masters": masters, "most": most, "layout": engine.module.layout}
    engine.destroy()
    del engine
    gc.collect()
    return found


def held() -> int:
    """Numbers of the parameters, and of shares of them, that are in this process and have memory."""
    parameters = [o for o in gc.get_objects() if type(o) is nn.Parameter and not o.is_meta]
    shares = [p.ds_tensor for p in parameters if getattr(p, "ds_tensor", None) is not None]
    return sum(tensor.numel() for tensor in (*parameters, *shares))


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:4])
    torch.set_num_threads(1)
    join_process_group(rank, ranks, "127.0.0.1", port, "cpu")
    for case in json.loads(Path(sys.argv[4]).read_text()):
        storage = Remote(Path(sys.argv[5]))
        found = (start if "train" in case else read)(storage, case)
        torch.save({**found, "fetched": storage.fetched}, Path(sys.argv[6], f"{case['name']}-{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
