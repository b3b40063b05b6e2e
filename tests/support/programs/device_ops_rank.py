"""One rank of two, as a process: counts what makes it wait for its device. Not a test itself.

python device_ops_rank.py RANK RANKS PORT FOLDER, in which the teachers lie: folders called by their number of layers.
Writes {what: {layers: count}} to FOLDER/counts-RANK.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from support.device.decoding import decode_step
from support.device.training import train_step
from workers.teacher.engines.loading import join_process_group


def main() -> None:
    import deepspeed

    rank, ranks, port = map(int, sys.argv[1:4])
    folder = Path(sys.argv[4])
    torch.set_num_threads(1)
    join_process_group(rank, ranks, "127.0.0.1", port, "cpu")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    teachers = {int(path.name): path for path in folder.iterdir() if path.is_dir()}
    counts = {
        "decode": {layers: float(decode_step(model, rank, ranks)) for layers, model in teachers.items()},
        "train": {layers: train_step(layers).stops for layers in teachers},
    }
    (folder / f"counts-{rank}.json").write_text(json.dumps(counts))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
