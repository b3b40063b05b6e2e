"""Layers left out of a real model: those whose removal raises the KL least, against simpler choices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from support.initial.whole_mixture import mean_kl
from targets_bench.tables import show
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.student.models.dropped_layers import drop_layers, log_probabilities, rectangle

_TOKENS, _MEASURED = 64, 16
_STEP, _MOST = 2, 4
"""Layers that are left out: so many more each time, up to so many."""


def layer_figures(folder: Path, prose: list[Path]) -> dict[str, Any]:
    """`dropped_kl`: KL to the whole model on texts that nothing was chosen on, untrained, by number of layers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first, second = (tokenizer(path.read_text())["input_ids"] for path in prose)
    chosen_on = [first[i : i + _TOKENS] for i in range(0, len(first), _TOKENS)][:4]
    measured_on = [second[i : i + _TOKENS] for i in range(0, len(second), _TOKENS)][:_MEASURED]
    layers, rows, figures = model.config.num_hidden_layers, [], {}
    best, left = copy.deepcopy(model), list(range(layers))
    for count in range(_STEP, _MOST + 1, _STEP):
        taken, _ = drop_layers(best, _STEP, chosen_on, log_probabilities(model, rectangle(chosen_on)))
        left = [layer for i, layer in enumerate(left) if i not in taken]
        choices = {
            "by KL": sorted(set(range(layers)) - set(left)),
            "evenly spaced": [round((i + 1) * layers / (count + 1)) for i in range(count)],
            "before the last": list(range(layers - 1 - count, layers - 1)),
            "the last": list(range(layers - count, layers)),
        }
        for name, which in choices.items():
            small = copy.deepcopy(model)
            drop_layers(small, which, chosen_on)
            figures[f"{count} {name}"] = round(mean_kl(model, small, measured_on), 4)
            rows.append([f"{count}, {name}", figures[f"{count} {name}"], " ".join(map(str, which))])
    show(f"layers left out of {layers}, untrained: KL to the whole model", ["layers", "nats a token", "which"], rows)
    return {"dropped_kl": figures}
