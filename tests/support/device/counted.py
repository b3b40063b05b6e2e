"""How often ranks stop for their device, by step and by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from support.model_families import save_random_model
from support.programs.ranks import run_ranks

RANKS = 2
LAYERS = (2, 4)


def count_stops(folder: Path) -> dict[str, tuple[float, float]]:
    """Of a decode step of a mixture and of an optimiser step, each over two ranks: the stops of a step with no layer,
    and those of each layer. The larger of the ranks'."""
    for layers in LAYERS:
        (folder / str(layers)).mkdir()
        save_random_model(folder / str(layers), "qwen3_moe", num_hidden_layers=layers)
    run_ranks("device_ops_rank.py", RANKS, folder)
    ranks = [json.loads((folder / f"counts-{rank}.json").read_text()) for rank in range(RANKS)]
    return {what: max(_by_layer(counts[what]) for counts in ranks) for what in ranks[0]}


def _by_layer(counts: Mapping[str, float]) -> tuple[float, float]:
    few, many = (counts[str(layers)] for layers in LAYERS)
    each = (many - few) / (LAYERS[1] - LAYERS[0])
    return few - LAYERS[0] * each, each
