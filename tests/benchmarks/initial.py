"""Where a student starts: random weights against a mixture's experts made one, and which layers to leave out.

python tests/benchmarks/initial.py [--seeds 3] [--steps 20 80 240] [--model FOLDER] [--teacher-steps 0]
    [--only experts layers]

The mixture is the quickstart's teacher, or one trained here from other random weights with `--teacher-steps` (1000 made
the quickstart's, in ten minutes). `--model` is the folder of a real dense model: layers are left out of it too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

import torch
from initial_bench import QUICKSTART
from initial_bench.arms import arms, differences
from initial_bench.layers import layer_figures
from initial_bench.training import RATES, Course, distil
from initial_bench.world import language, train_teacher
from support.initial.whole_mixture import mean_kl
from targets_bench.tables import show
from transformers import AutoModelForCausalLM

import workers
from workers.streaming.layered_model import LayeredModel
from workers.student.models.continued import continued

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers loads DeepSpeed, which else looks for one and says so

CHECKOUT = Path(__file__).resolve().parents[2]
DOMAIN, PROMPTS, HELDOUT = "medical", 96, 48


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 80, 240])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--teacher-steps", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=["experts", "layers"], default=["experts", "layers"])
    args = parser.parse_args()
    assert Path(workers.__file__).parents[1] == CHECKOUT, f"{workers.__file__} would be measured, not {CHECKOUT}"
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if "experts" in args.only:
        figures |= merge_figures(teacher(args.teacher_steps), args.seeds, args.steps)
    if "layers" in args.only and args.model is not None:
        figures |= layer_figures(args.model, [CHECKOUT / "README.md", CHECKOUT / "workers" / "targets" / "FORMAT.md"])
    print(json.dumps(figures))


def teacher(steps: int) -> Any:
    if steps:
        return train_teacher.train(steps, seed=1, peak=3e-3).eval()
    return AutoModelForCausalLM.from_pretrained(QUICKSTART / "teacher", dtype=torch.float32).eval()


def merge_figures(moe: Any, seeds: int, steps: list[int]) -> dict[str, Any]:
    """Held-out KL to the mixture at every budget; each arm at the learning rate that is better for its first seed."""
    rng = random.Random(0)
    texts = [language.sample(DOMAIN, rng) for _ in range(PROMPTS + HELDOUT)]
    asked, heldout = [t[: language.prompt_length(t)] for t in texts[:PROMPTS]], texts[PROMPTS:]
    (samples,) = continued(LayeredModel(moe), [(asked, 0)], 64)
    found = differences(moe, samples)
    print(
        f"{moe.config.num_experts} experts, {moe.config.num_experts_per_tok} a token; cosine of two experts "
        f"{found['cosine']:.3f}, entropy of the routing {found['routing_entropy']:.3f} of the largest"
    )
    makers = arms(moe, samples)
    kl: dict[str, list[float]] = {
        name: [sum(mean_kl(moe, make(seed), heldout) for seed in range(seeds)) / seeds] for name, make in makers.items()
    }
    tokens = [0]
    for count in steps:
        first, *others = ({name: make(seed) for name, make in makers.items()} for seed in range(seeds))
        run = distil(moe, first, [(name, rate) for name in makers for rate in RATES], Course(DOMAIN, count, 0), heldout)
        best = [min((key for key in run.kl if key[0] == name), key=run.kl.__getitem__) for name in makers]
        runs = [run, *(distil(moe, m, best, Course(DOMAIN, count, i + 1), heldout) for i, m in enumerate(others))]
        tokens.append(run.tokens)
        for key in best:
            kl[key[0]].append(sum(r.kl[key] for r in runs) / seeds)
    columns = ["start", *(f"{n:,} tokens" for n in tokens)]
    title = f"held-out KL to the mixture, nats a token, {DOMAIN}, mean of {seeds} seeds"
    show(title, columns, [[name, *values] for name, values in kl.items()])
    return {
        "experts_cosine": round(found["cosine"], 4),
        "routing_entropy": round(found["routing_entropy"], 4),
        "tokens": tokens,
        "heldout_kl": {name: [round(v, 5) for v in values] for name, values in kl.items()},
    }


if __name__ == "__main__":
    main()
