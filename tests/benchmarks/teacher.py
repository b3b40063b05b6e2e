"""The teacher pool: how near it comes to the speed of its model, and what it holds.

python tests/benchmarks/teacher.py [--rounds 3] [--seconds 60] [--model FOLDER]
    [--vllm .venv-vllm/bin/python] [--only pool parallel generating memory engines]

Models are random and made here; `--model` is a folder of a real one for generation. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from targets_bench.tables import show
from teacher_bench.models import make_large_vocabulary, make_moe
from teacher_bench.parallel import parallel_figures
from teacher_bench.pool import pool_figures
from teacher_bench.processes import CHECKOUT

import workers

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers loads DeepSpeed, which else looks for one and says so

SUBJECTS = ["pool", "parallel", "generating", "memory", "engines"]
TOKENS_PER_SECOND = 1200
"""Of the mixture on two cores, about: for the number of units."""
TOKENS_PER_UNIT = 5000


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=60, help="of one measured window of scoring")
    parser.add_argument("--texts", type=int, default=128, help="answers of mixed lengths")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM, for `engines`")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    args = parser.parse_args()
    assert Path(workers.__file__).parents[1] == CHECKOUT, f"{workers.__file__} would be measured, not {CHECKOUT}"
    units = max(2, args.seconds * TOKENS_PER_SECOND // TOKENS_PER_UNIT)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as name:
        folder = Path(name)
        moe = make_moe(folder / "moe")
        if "memory" in args.only:
            figures |= memory_figures(make_large_vocabulary(folder / "large"))
        if "parallel" in args.only:
            figures |= parallel_figures(moe, folder, rounds=args.rounds, units=units // 2)
        if "generating" in args.only:
            figures |= generating_figures(args.model or moe, args.rounds, args.texts)
        if "pool" in args.only:
            figures |= pool_figures(moe, folder, rounds=args.rounds, units=units + 1)
        if "engines" in args.only and args.vllm is not None:
            figures |= engine_figures(args.model or moe, args.vllm)
    print(json.dumps(figures))


def engine_figures(model: Path, vllm: Path) -> dict[str, Any]:
    """Tokens a CPU-second of both engines, each in its own environment."""
    pythons = {"transformers": sys.executable, "vllm": str(vllm)}
    found = {engine: program("engine_speed.py", model, engine, python=p) for engine, p in pythons.items()}
    kinds = [kind for kind, figure in found["vllm"].items() if isinstance(figure, dict)]
    rows = [[kind, *(found[e][kind][by] for e in found for by in ("per_s", "per_cpu_s"))] for kind in kinds]
    columns = ["", *(f"{engine} {by}" for engine in found for by in ("tokens/s", "/CPU-s"))]
    show("both engines, one thread", columns, rows)
    return {f"{engine}_{kind}": found[engine][kind]["per_cpu_s"] for engine in found for kind in kinds}


def memory_figures(model: Path) -> dict[str, Any]:
    """`peak_logits_mb`: of the scheme that takes most."""
    found = {scheme: program("memory.py", model, scheme) for scheme in ("systematic", "topk")}
    rows = [[name, *(f[key] / 1e6 for key in ("body", "whole", "above"))] for name, f in found.items()]
    show("scoring 8 x 512 tokens at 151,936 ids: MB at most", ["scheme", "body alone", "with targets", "above"], rows)
    return {"peak_logits_mb": round(max(f["above"] for f in found.values()) / 1e6, 1)}


def generating_figures(model: Path, rounds: int, texts: int) -> dict[str, Any]:
    """`capture_over_generate` and `mixed_over_static`."""
    found = program("generating.py", model, rounds, texts)
    columns = ["round", "ours tokens/s", "generate tokens/s", "ratio", "ours /CPU-s", "generate /CPU-s"]
    for kind, title in (("equal", "answers of equal lengths"), ("mixed", "answers of 16 to 256 tokens")):
        show(
            f"{title}: with capture against model.generate",
            columns,
            [[i, *r] for i, r in enumerate(found[kind]["rows"])],
        )
    return {
        "capture_over_generate": round(found["equal"]["ratio"], 3),
        "capture_over_generate_cpu": round(found["equal"]["ratio_cpu"], 3),
        "mixed_over_static": round(found["mixed"]["ratio"], 3),
        "mixed_over_static_cpu": round(found["mixed"]["ratio_cpu"], 3),
    }


def program(name: str, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
    """What a program of this benchmark prints last, run in a process of its own."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{CHECKOUT}{os.pathsep}{here}", "OMP_NUM_THREADS": "2"}
    command = [python, str(here / "teacher_bench" / name), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
