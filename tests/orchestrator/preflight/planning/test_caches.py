"""What a teacher keeps of a text while it answers, by its configuration, beside what transformers' own cache holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.model_families import FAMILIES, SIZES, as_parameters

from orchestrator.preflight.memory import state_cache_bytes
from workers.teacher.engines.families import kv_cache_bytes

TEXTS, TOKENS = 3, 7
LATENT = {"deepseek_v3", "kimi_linear"}
"""Their keys are wider than a head, and their values are not, by latents: what the plan says of them is about right."""


@pytest.mark.parametrize("family", as_parameters(FAMILIES))
def test_bytes_that_a_cache_holds(family: str) -> None:
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    transformers.set_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
    cache: Any = DynamicCache(config=config)
    with torch.no_grad():
        AutoModelForCausalLM.from_config(config).eval()(torch.full((TEXTS, TOKENS), 5), past_key_values=cache)
    tokens, states = 0, 0
    for layer in cache.layers:
        if getattr(layer, "keys", None) is not None:
            tokens += TEXTS * TOKENS * (layer.keys.shape[1] * layer.keys.shape[3]) * 2
        recurrent = [s for s in getattr(layer, "recurrent_states", {}).values() if s is not None]
        convolutions = [s for s in getattr(layer, "conv_states", {}).values() if s is not None]
        states += 4 * sum(state.numel() for state in recurrent or convolutions)
    given = config.to_dict()
    assert state_cache_bytes(given, TEXTS) == states
    if family not in LATENT:
        assert kv_cache_bytes(given, TEXTS * TOKENS, 4) == 4 * tokens
