"""Weights of four bits: the lattice beside ggml's, what rounding costs specialists, and what training with it costs.

python tests/benchmarks/quantise.py [--runs RUN ...] [--specialists NAME ...] [--seeds 0 1 2] [--alone] [--steps 60]
    [--settings '{"format": "q4_0", "embeddings": "q8_0"}'] [--only lattice loss steps]

`--runs` are folders of finished runs with their stores, quickstarts of several seeds for example; what is needed of
them is copied. Without one there is the lattice alone. `--seeds` trains specialists of a run anew for other seeds than
its own, on the same store. Nothing else should run for `steps`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from targets_bench.tables import show

from workers.quantise.lattice import Form, codes, values

SUBJECTS = ["lattice", "loss", "steps"]
HERE = Path(__file__).resolve().parent
WEIGHTS = 4 << 20
MEMORY_STEPS = 5
MISSING = (
    *("lattice_differing", "ptq_loss", "qad_loss", "qad_over_ptq", "qad_step_over_step", "qad_memory_over_whole"),
    "gguf_kl_fake_quant",
)


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    parser.add_argument("--specialists", nargs="+", default=["medical", "code"])
    parser.add_argument("--seeds", type=int, nargs="+", help="of each specialist's trainings; none: the run's own")
    parser.add_argument("--alone", action="store_true", help="none is trained on as long with whole weights")
    parser.add_argument("--steps", type=int, default=60, help="timed, of each kind")
    parser.add_argument("--settings", default='{"format": "q4_0", "embeddings": "q8_0"}')
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    args = parser.parse_args()
    figures: dict[str, Any] = dict.fromkeys(MISSING)
    if "lattice" in args.only and find_spec("gguf") is not None:
        figures |= lattice_figures()
    if "loss" in args.only and args.runs:
        figures |= loss_figures(args)
    if "steps" in args.only and args.runs:
        figures |= step_figures(args.runs[0], args.specialists, args.steps)
    print(json.dumps(figures))


def lattice_figures() -> dict[str, Any]:
    """Weights that gguf-py, which ggml's own agrees with, rounds otherwise; with ggml's scales, as files have them."""
    import gguf
    from gguf.quants import dequantize, quantize

    weights_OI = torch.randn(WEIGHTS // 1024, 1024, generator=torch.Generator().manual_seed(0))
    forms: dict[Form, Any] = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}
    found = {}
    for form, kind in forms.items():
        theirs = torch.from_numpy(dequantize(quantize(weights_OI.numpy(), kind), kind))
        found[form] = int((values(*codes(weights_OI, form, torch.float16)) != theirs).sum())
    return {"lattice_differing": sum(found.values()), "lattice_weights": WEIGHTS * len(forms)}


def loss_figures(args: argparse.Namespace) -> dict[str, Any]:
    """What a specialist loses rounded, trained on with rounding, and trained on as long without."""
    kinds = ["ptq", "qad"] if args.alone else ["ptq", "qad", "further", "further ptq"]
    rows, found = [], list[dict[str, Any]]()
    for run, name in product(args.runs, args.specialists):
        for seed in args.seeds or ["own"]:
            one = program("siblings.py", run, name, args.settings, seed, *(["alone"] if args.alone else []))
            found.append(one)
            rows.append([f"{name}, seed {one['seed']}", one["tokens"], one["lr"], one["whole"]])
            rows[-1] += [_interval(one[f"{kind} - whole"]) for kind in kinds]
            rows[-1] += [_interval(one["qad_over_ptq"])]
            rows[-1] += [] if args.alone else [_interval(one["qad - further ptq"])]
            print(rows[-1], flush=True)
    heads = {"ptq": "PTQ", "qad": "QAD", "further": "whole, as long", "further ptq": "its PTQ"}
    last = ["QAD/PTQ"] if args.alone else ["QAD/PTQ", "QAD less that"]
    titles = ["", "tokens", "lr", "KL", *(heads[kind] for kind in kinds), *last]
    show("held-out KL to the teacher, nats a token; losses beyond it", titles, rows)
    return _means(found, args.alone)


def _means(found: list[dict[str, Any]], alone: bool) -> dict[str, Any]:
    lost = {k[: -len(" - whole")]: mean(one[k][0] for one in found) for k in found[0] if k.endswith(" - whole")}
    sure = {kind: round(mean(one[f"{kind} - whole, overconfidence"] for one in found), 5) for kind in ("ptq", "qad")}
    figures = {
        "ptq_loss": round(lost["ptq"], 6),
        "qad_loss": round(lost["qad"], 6),
        "qad_over_ptq": round(lost["qad"] / lost["ptq"], 4),
        "qad_better_than_ptq": sum(one["qad - ptq"][2] < 0 for one in found),
        "trainings": len(found),
        "overconfidence_added": sure,
    }
    if alone:
        return figures
    further, its_ptq = lost["further"], lost["further ptq"]
    return figures | {
        "whole_as_long_loss": round(further, 6),
        "whole_as_long_then_ptq_loss": round(its_ptq, 6),
        "qad_over_ptq_of_whole_as_long": round((lost["qad"] - further) / (its_ptq - further), 4),
    }


def step_figures(run: Path, specialists: list[str], steps: int) -> dict[str, Any]:
    """A step on the lattice over one with whole weights: in time, and in memory."""
    found = {name: program("steps.py", run, name, steps) for name in specialists}
    rows = [[n, f["whole"]["wall_s"], f["quantised"]["wall_s"], f["wall"], f["cpu"]] for n, f in found.items()]
    show("a step", ["", "whole s", "quantised s", "over, wall", "over, CPU"], rows)
    return {
        "qad_step_over_step": round(mean(f["wall"] for f in found.values()), 3),
        "qad_step_over_step_cpu": round(mean(f["cpu"] for f in found.values()), 3),
        **memory_figures(run, specialists),
    }


def memory_figures(run: Path, specialists: list[str]) -> dict[str, Any]:
    """What training on the lattice holds at most over training with whole weights: all tensors between steps, and what
    a step takes beside them; and the two processes, of whose memory Python and libraries are a part."""
    rows, over, processes = [], list[float](), list[float]()
    for name in specialists:
        kinds = {kind: program("steps.py", run, name, MEMORY_STEPS, kind) for kind in ("whole", "quantised")}
        whole, quantised = kinds.values()
        over.append((quantised["held"] + quantised["step"]) / (whole["held"] + whole["step"]))
        processes.append(quantised["process"] / whole["process"])
        for kind, f in kinds.items():
            beside = (over[-1], processes[-1]) if kind == "quantised" else (None, None)
            parts = (f"{f[part] / 1e6:,.1f}" for part in ("held", "step", "process"))
            rows.append([f"{name}, {kind}", *parts, *beside])
    show("memory of training, MB", ["", "between steps", "a step beside", "process", "over", "over, process"], rows)
    return {
        "qad_memory_over_whole": round(mean(over), 3),
        "qad_process_memory_over_whole": round(mean(processes), 3),
    }


def program(name: str, *arguments: object) -> dict[str, Any]:
    """What a program of quantise_bench prints last, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "quantise_bench" / name), *map(str, arguments)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def _interval(found: list[float]) -> str:
    return f"{found[0]:+.5f} ({found[1]:+.5f} … {found[2]:+.5f})"


if __name__ == "__main__":
    main()
