"""Two expert-parallel ranks of one thread each against one process of two threads, and what a rank holds."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from targets_bench.tables import show
from transformers import AutoModelForCausalLM

from teacher_bench.models import VOCABULARY, random_ids
from teacher_bench.processes import run_ranks


def parallel_figures(model: Path, folder: Path, *, rounds: int, units: int) -> dict[str, Any]:
    """`ep2_over_single`, `weights_share_per_rank`, `expert_share`, `load_peak_share`."""
    texts = folder / "scored.json"
    lengths = [128 + 37 * i % 385 for i in range(16)]
    texts.write_text(json.dumps([random_ids(lengths, VOCABULARY, seed) for seed in range(units + 1)]))
    rows, ratios, cpu_ratios = [], [], []
    for number in range(rounds):
        pair = run_ranks("score", model, texts, ranks=2, threads=1)
        one = run_ranks("score", model, texts, ranks=1, threads=2)
        speed = {name: f["tokens"] / f["wall_s"] for name, f in (("pair", pair), ("one", one))}
        per_cpu = {name: f["tokens"] / f["cpu_s"] for name, f in (("pair", pair), ("one", one))}
        rows.append(
            [number, speed["pair"], speed["one"], speed["pair"] / speed["one"], per_cpu["pair"], per_cpu["one"]]
        )
        ratios.append(speed["pair"] / speed["one"])
        cpu_ratios.append(per_cpu["pair"] / per_cpu["one"])
    columns = ["round", "2 ranks tokens/s", "1 process tokens/s", "ratio", "2 ranks /CPU-s", "1 process /CPU-s"]
    show("scoring, two ranks of one thread against one process of two", columns, rows)
    loaded = run_ranks("load", model, texts, ranks=2, threads=1)
    whole, experts = sizes(model)
    figures = {
        "ep2_over_single": round(median(ratios), 3),
        "ep2_over_single_cpu": round(median(cpu_ratios), 3),
        "expert_share": round(experts / whole, 4),
        "weights_share_per_rank": round(loaded["weights_held"] / whole, 4),
        "load_peak_share": round(loaded["load_peak"] / (whole * 4), 4),
        "load_peak_own_share": round(loaded["load_peak_own"] / (whole * 4), 4),
    }
    limit, peak, own = 1 - experts / whole / 2, figures["load_peak_share"], figures["load_peak_own_share"]
    print(
        f"  a rank holds {figures['weights_share_per_rank']:.1%} of the weights ((1 - e) + e/2 is {limit:.1%}); loading"
    )
    print(f"  takes {peak:.1%} of them at most, {own:.1%} without the pages of the model's files")
    return figures


def sizes(model: Path) -> tuple[int, int]:
    """Parameters of a model in memory, and of its experts."""
    loaded = AutoModelForCausalLM.from_pretrained(model)
    experts = sum(p.numel() for n, p in loaded.named_parameters() if ".experts." in n)
    return sum(p.numel() for p in loaded.parameters()), experts
