"""On one GPU: a student's step, a capture, a decode step, and peak memory beside the plan's.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m gpu [--only steps capture decode] [--rivals PYTHON]
    [--device cpu --small]

`steps`: optimiser steps of Qwen3's 0.6B and 1.7B shapes with random weights on 8,192 packed tokens, bfloat16 with
float32 masters, by what they learn from: cross-entropy (`ce`; with Liger's fused head in its place, `liger`), a sample
of 21 (`sparse`), hidden states and the teacher's head (`hidden`), all log-probabilities of 2,048 tokens (`full`). MFU
is over the data sheet's dense FLOP/s; peaks stand beside the plan's. `--rivals`: the Python of an environment with TRL
1.16, whose GKDTrainer learns from a live teacher of Qwen3's 4B shape. `capture`: 256 rows of 151,936 ids by scheme.
`decode`: a step of 128 slots of a mixture of Qwen3-30B-A3B's shape, cut to `--layers`.

`--device cpu --small` tries all of it where there is no GPU; its figures mean nothing. Without a GPU and without that,
it says so and measures nothing. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from gpu_bench import captures, decoding, steps
from targets_bench.tables import show

from cluster.nodes.kinds import KINDS
from workers.teacher.engines.loading import join_process_group

SUBJECTS = ["steps", "capture", "decode"]
_HERE = Path(__file__).parent


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--rivals", help="Python of an environment with TRL, for GKDTrainer")
    parser.add_argument("--shapes", nargs="+", default=["0.6b", "1.7b"])
    parser.add_argument("--kinds", nargs="+", choices=steps.KINDS, default=steps.KINDS)
    for name, number in {"tokens": 8192, "longest": 2048, "steps": 10, "slots": 128, "layers": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    args.vocabulary = None
    if args.small:
        args.shapes, args.tokens, args.longest, args.slots, args.layers = ["tiny"], 128, 32, 4, 2
        args.vocabulary = 1000
    if args.device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"gpu": None}))
        return
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    figures: dict[str, Any] = {"gpu": name, "torch": torch.__version__}
    _prepare(args.device)
    if "steps" in args.only:
        figures |= step_figures(args, _peak_flops(name))
    if "capture" in args.only:
        found = captures.measure(args)
        show("capture of 256 rows", ["", "ms"], list(found.items()))
        figures |= {f"capture_ms_{what}": round(ms, 3) for what, ms in found.items()}
    if "decode" in args.only:
        found = decoding.measure(args)
        show("a decode step", ["", "measured"], list(found.items()))
        figures |= {f"decode_{what}": value for what, value in found.items()}
    print(json.dumps(figures))


def step_figures(args: Any, flops: float | None) -> dict[str, Any]:
    """Steps of all kinds, and what they are over plain cross-entropy."""
    figures: dict[str, Any] = {}
    for shape in args.shapes:
        found: dict[str, dict[str, Any]] = {}
        for kind in args.kinds:
            try:
                found[kind] = steps.measure(shape, kind, args)
            except (torch.OutOfMemoryError, ImportError) as error:  # the others are measured all the same
                print(f"{shape} {kind}: {error}", file=sys.stderr)
        if args.rivals:
            found["gkd"] = _gkd(shape, args)
        for f in found.values():
            f["mfu"] = f["flops_per_s"] / flops if flops and "flops_per_s" in f else None
        columns = ["ms", "tokens_per_s", "mfu", "peak_bytes", "planned_bytes"]
        show(f"a step, {shape}", ["", *columns], [[kind, *map(f.get, columns)] for kind, f in found.items()])
        figures |= {f"{shape}_{kind}_{c}": f.get(c) for kind, f in found.items() for c in columns}
        if {"sparse", "ce"} <= found.keys():
            figures[f"{shape}_sparse_over_ce"] = found["sparse"]["ms"] / found["ce"]["ms"]
        if {"sparse", "gkd"} <= found.keys():
            figures[f"{shape}_tokens_over_gkd"] = found["sparse"]["tokens_per_s"] / found["gkd"]["tokens_per_s"]
    return figures


def _gkd(shape: str, args: Any) -> dict[str, Any]:
    teacher = "tiny" if args.small else "4b"
    numbers = [args.tokens, args.longest, args.steps, args.vocabulary or steps.VOCABULARY]
    command = [args.rivals, "-m", "gpu_bench.gkd", shape, teacher, args.device, *map(str, numbers)]
    group = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}  # this process's, not of that one
    alone = {name: value for name, value in os.environ.items() if name not in group}
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=_HERE, env=alone).stdout
    return dict(json.loads(said.splitlines()[-1]))


def _peak_flops(name: str) -> float | None:
    """Of the card by the makers' data sheets; None where it is not a known one."""
    for kind in KINDS.values():
        if kind.accelerator_type and kind.accelerator_type in name and kind.bf16_tflops:
            return kind.bf16_tflops * 1e12
    return None


def _prepare(device: str) -> None:
    """A process group of one, as a worker has it."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    join_process_group(0, 1, "127.0.0.1", int(os.environ.get("BENCH_PORT", "29688")), device)
    import deepspeed

    if device == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


if __name__ == "__main__":
    main()
