"""What a student learns from each way of keeping the teacher's distributions, on real text at equal tokens.

python tests/benchmarks/learning.py --model FOLDER --prompts FILE [FILE ...]
    [--tokens 16000] [--unique 16000] [--layers 14] [--seeds 3] [--lr 4e-4]

The teacher is the model, the student the model with a few of its layers; the texts are the prompts with their answers.
Each arm's learning rate is the best of half, once and twice `--lr` on seed 0; a seed is another order of texts and
other draws. Losses, batches and schedule are the product's; the optimiser is torch's own AdamW. Half an hour on two
quiet cores. Without a model (`make bench` has none) there is nothing to measure.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import torch
from students_bench.arms import ARMS, Course, score, train
from targets_bench.distributions import Scored
from targets_bench.tables import show
from targets_bench.texts import read_texts

from workers.student.models.dropped_layers import drop_layers

_LONGEST = 256
_HELDOUT = 4000
"""Target tokens of the texts that are scored."""


def main() -> None:
    """Print a table of scores, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path, nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=16_000, help="target tokens of a student")
    parser.add_argument("--unique", type=int, default=16_000, help="target tokens of the texts")
    parser.add_argument("--layers", type=int, default=14, help="of the student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    args = parser.parse_args()
    if args.model is None or not args.prompts:
        print("learning.py: give --model and --prompts; nothing was measured\n{}")
        return
    torch.set_num_threads(os.cpu_count() or 1)
    heldout, texts, tokenizer = distributions(args)
    initial = student_of(args, texts)
    found: dict[str, list[dict[str, float]]] = {"initial": [score(copy.deepcopy(initial), heldout)] * args.seeds}
    print(f"initial KL {found['initial'][0]['kl']:.4f}", flush=True)
    rates = {"initial": 0.0}
    for name in args.arms:
        rates[name], found[name] = tuned(name, args, initial, texts, heldout, tokenizer)
    report(found, rates)


def distributions(args: argparse.Namespace) -> tuple[Scored, Scored, Any]:
    """Of held-out texts and of those to learn from."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    _, texts = read_texts(tokenizer, args.prompts, 2 * (args.unique + _HELDOUT))
    for text in texts:
        del text.prompt_token_ids[_LONGEST:]
    held = _first(texts, _HELDOUT)
    learned = _first(texts[held:], args.unique)
    teacher = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    made = [Scored(teacher, teacher, len(tokenizer), t) for t in (texts[:held], texts[held : held + learned])]
    return made[0], made[1], tokenizer


def _first(texts: list[Any], tokens: int) -> int:
    """How many texts hold so many target tokens."""
    held = 0
    for i, text in enumerate(texts):
        if held >= tokens:
            return i
        held += len(text.prompt_token_ids) - 1
    return len(texts)


def student_of(args: argparse.Namespace, texts: Scored) -> Any:
    """The teacher with so many of its layers, chosen as the product does: by the least KL."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    with torch.no_grad():
        samples = [t.prompt_token_ids[:64] for t in texts.texts[:4]]
        drop_layers(model, model.config.num_hidden_layers - args.layers, samples)
    return model


def tuned(
    name: str, args: argparse.Namespace, initial: Any, texts: Scored, heldout: Scored, tokenizer: Any
) -> tuple[float, list[dict[str, float]]]:
    """The best learning rate on seed 0, and the scores of all seeds with it."""

    def run(seed: int, rate: float) -> dict[str, float]:
        torch.manual_seed(seed)
        model = copy.deepcopy(initial)
        train(model, ARMS[name], Course(ARMS[name], texts, tokenizer, seed), args.tokens, rate)
        scores = score(model, heldout)
        print(f"{name:18s} seed {seed} lr {rate:.1e}  KL {scores['kl']:.4f}", flush=True)
        return scores

    tried = {rate: run(0, rate) for rate in (args.lr / 2, args.lr, 2 * args.lr)}
    best = min(tried, key=lambda rate: tried[rate]["kl"])
    return best, [tried[best], *(run(seed, best) for seed in range(1, args.seeds))]


def report(found: dict[str, list[dict[str, float]]], rates: dict[str, float]) -> None:
    """The table, and the gate: an arm's distance from `full` as a share of that of hard labels."""
    columns = ["kl", "top1_agreement", "ece_teacher", "overconfidence_gap"]
    kl = {name: [s["kl"] for s in scores] for name, scores in found.items()}
    gaps: dict[str, list[float]] = {}
    if "full" in kl:
        gaps = {name: [a - b for a, b in zip(kl[name], kl["full"], strict=True)] for name in kl}
    rows = [
        [name, rates[name], *(mean(s[c] for s in scores) for c in columns), *(gaps[name] if gaps else ())]
        for name, scores in found.items()
    ]
    seeds = [f"KL - full, seed {i}" for i in range(len(kl["initial"]))] if gaps else []
    show("held-out scores, means over seeds", ["", "lr", *columns, *seeds], rows)
    figures: dict[str, Any] = {
        name: {c: round(mean(s[c] for s in scores), 4) for c in columns} for name, scores in found.items()
    }
    for name in gaps:
        figures[name]["kl_minus_full"] = round(mean(gaps[name]), 4)
        if "hard labels" in gaps:
            figures[name]["share_of_hard"] = round(mean(gaps[name]) / mean(gaps["hard labels"]), 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
