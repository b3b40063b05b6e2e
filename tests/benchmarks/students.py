"""A student's step: beside TRL's trainers, beside plain cross-entropy, and the memory of each.

python tests/benchmarks/students.py [--rounds 3] [--steps 12] [--rivals PYTHON]
    [--only agreement rivals steps memory]

`--rivals` is the Python of an environment that has TRL 1.16 and liger-kernel beside what this project needs (pip
install --no-deps trl==1.16.0 liger-kernel in a copy of the environment is enough). Models are random: student 4 layers
of 256, teacher 8 of 512, 32,768 ids, batches of 4 texts of 190 tokens, two threads. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from students_bench.programs import program
from students_bench.work import make_work
from targets_bench.tables import show

SUBJECTS = ["agreement", "rivals", "steps", "memory"]
SMALL, LARGE = 32_768, 151_936


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="timed, of each kind in a round")
    parser.add_argument("--rivals", type=Path, help="Python of an environment with TRL, for `agreement` and `rivals`")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as name:
        folder = make_work(Path(name, "small"), SMALL, texts=32, tokens=190, schemes=["systematic", "topk", "full"])
        if "agreement" in args.only and args.rivals:
            figures |= program("agreement.py", python=args.rivals)
        if "steps" in args.only:
            figures |= step_figures(folder, args.rounds, args.steps)
        if "rivals" in args.only and args.rivals:
            figures |= rival_figures(folder, args.rounds, args.steps, args.rivals)
        if "memory" in args.only:
            figures |= memory_figures(
                folder, make_work(Path(name, "large"), LARGE, texts=8, tokens=190, schemes=["systematic", "full"])
            )
    print(json.dumps(figures))


def step_figures(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Steps of all kinds in turn, in one process a round: medians of the ratios of rounds."""
    kinds = ["ce", "unfused_ce", "sparse", "topk", "reverse", "full"]
    found = [program("ours.py", folder, steps, *kinds) for _ in range(rounds)]
    over = {kind: [r[kind]["wall_s"] / r["ce"]["wall_s"] for r in found] for kind in kinds}
    cpu = {kind: [r[kind]["cpu_s"] / r["ce"]["cpu_s"] for r in found] for kind in kinds}
    rows = [
        [
            kind,
            *(median(r[kind][by] for r in found) for by in ("wall_s", "cpu_s")),
            median(over[kind]),
            median(cpu[kind]),
        ]
        for kind in kinds
    ]
    show("a step of 4 x 190 tokens", ["", "wall s", "CPU s", "over ce, wall", "over ce, CPU"], rows)
    fused = [r["ce"]["wall_s"] / r["unfused_ce"]["wall_s"] for r in found]
    fused_cpu = [r["ce"]["cpu_s"] / r["unfused_ce"]["cpu_s"] for r in found]
    return {
        "sparse_over_ce_step": round(median(over["sparse"]), 3),
        "sparse_over_ce_step_cpu": round(median(cpu["sparse"]), 3),
        "fused_over_unfused_ce_step": round(median(fused), 3),
        "fused_over_unfused_ce_step_cpu": round(median(fused_cpu), 3),
        "full_over_ce_step": round(median(over["full"]), 3),
        "reverse_topk_over_ce_step": round(median(over["reverse"]), 3),
    }


def rival_figures(folder: Path, rounds: int, steps: int, python: Path) -> dict[str, Any]:
    """One process for each kind, in turn: tokens a CPU-second, and peak memory."""
    kinds = ["sparse", "live", "gkd", "distillation"]
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds[:2]:
            rows[kind].append(_speed(kind, program("ours.py", folder, steps, kind)))
        for kind in kinds[2:]:
            rows[kind].append(_speed(kind, program("trl_trainers.py", folder, steps, kind, python=python)))
    middle = {by: {kind: median(f[by] for f in rows[kind]) for kind in kinds} for by in ("per_s", "per_cpu_s", "peak")}
    table = [[kind, *(middle[by][kind] for by in ("per_s", "per_cpu_s")), middle["peak"][kind] / 1e6] for kind in kinds]
    show("distilling, beside TRL's trainers", ["", "tokens/s", "tokens/CPU-s", "peak MB"], table)

    def over(by: str, mine: str, other: str) -> float:
        return round(median(a[by] / b[by] for a, b in zip(rows[mine], rows[other], strict=True)), 3)

    return {
        "tokens_per_cpu_s_over_gkd": over("per_cpu_s", "sparse", "gkd"),
        "with_live_teacher_over_gkd": over("per_cpu_s", "live", "gkd"),
        "peak_memory_over_gkd": over("peak", "sparse", "gkd"),
        "tokens_per_cpu_s_over_distillation": over("per_cpu_s", "sparse", "distillation"),
        "with_live_teacher_over_distillation": over("per_cpu_s", "live", "distillation"),
        "peak_memory_over_distillation": over("peak", "sparse", "distillation"),
        "tokens_per_cpu_s": round(middle["per_cpu_s"]["sparse"]),
        "gkd_tokens_per_cpu_s": round(middle["per_cpu_s"]["gkd"]),
    }


def _speed(kind: str, found: dict[str, Any]) -> dict[str, float]:
    times = found[kind]
    return {
        "per_s": times["tokens"] / times["wall_s"],
        "per_cpu_s": times["tokens"] / times["cpu_s"],
        "peak": found["peak"],
        "before": found["before"],
    }


def memory_figures(small: Path, large: Path) -> dict[str, Any]:
    """Peak of a process that takes a few steps, above what its imports held."""
    rows, figures = [], {}
    for kind in ("ce", "sparse", "full", "unfused_ce"):
        peaks = [program("ours.py", folder, 2, kind) for folder in (small, large)]
        above = [(p["peak"] - p["before"]) / 1e6 for p in peaks]
        rows.append([kind, *above])
        figures |= {f"peak_mb_{kind}": round(above[0]), f"peak_mb_{kind}_large": round(above[1])}
    show("peak memory above the imports, MB", ["", f"{SMALL:,} ids", f"{LARGE:,} ids"], rows)
    return figures


if __name__ == "__main__":
    main()
