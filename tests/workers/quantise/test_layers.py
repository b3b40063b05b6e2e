"""Which weights a rounding means, that they are rounded, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workers.quantise.config import QUANTISED_FILE, QuantisedConfig, QuantisedWeights, RoundingConfig
from workers.quantise.lattice import on_lattice
from workers.quantise.layers import quantised_weights, round_weights

SIZES: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50, "tie_word_embeddings": True,
}  # fmt: skip
IN_A_LAYER = 7


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**SIZES | changes))


def rounding(**settings: Any) -> RoundingConfig:
    return RoundingConfig(**{"format": "q4_0", **settings})


def refused(causal_lm: Any, **settings: Any) -> str:
    with pytest.raises(ValueError) as caught:
        quantised_weights(causal_lm, rounding(**settings))
    return str(caught.value)


def test_the_decoders_linear_layers_are_rounded_and_nothing_else() -> None:
    whole, rounded = model(), model()
    found = round_weights(rounded, rounding())
    assert len(found.weights) == 2 * IN_A_LAYER and set(found.weights.values()) == {"q4_0"}
    parameters = dict(rounded.named_parameters())
    for name, before in whole.named_parameters():
        expected = on_lattice(before, "q4_0") if name in found.weights else before
        assert torch.equal(parameters[name], expected), name
        assert torch.equal(parameters[name], before) == (name not in found.weights)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_head_go_together(tied: bool) -> None:
    causal_lm = model(tie_word_embeddings=tied)
    found = round_weights(causal_lm, rounding(embeddings="q8_0"))
    ends = {"model.embed_tokens.weight": "q8_0", "lm_head.weight": "q8_0"}
    assert ends.items() <= found.weights.items() and len(found.weights) == 2 * IN_A_LAYER + 2
    for end in (causal_lm.model.embed_tokens, causal_lm.lm_head):
        assert torch.equal(on_lattice(end.weight, "q8_0"), end.weight)
    assert (causal_lm.model.embed_tokens.weight is causal_lm.lm_head.weight) == tied


@pytest.mark.parametrize(
    "keep, stay", [(["down_proj"], 2), (["layers.1.mlp.up_proj", "v_proj"], 3), (["mlp.up_proj"], 2)]
)
def test_layers_are_kept_by_the_end_of_their_names(keep: list[str], stay: int) -> None:
    found = quantised_weights(model(), rounding(keep=keep))
    assert len(found.weights) == 2 * IN_A_LAYER - stay


def test_a_model_without_memory_will_do() -> None:
    with torch.device("meta"):
        assert quantised_weights(model(), rounding()) == quantised_weights(model(), rounding())


def test_what_is_refused_says_what_to_do() -> None:
    message = refused(model(), keep=["proj"])
    assert message.startswith("keep: ['proj'] are no linear layers") and "'down_proj', 'gate_proj'" in message
    assert refused(model(), keep=["lm_head"]).startswith("keep: ['lm_head']")
    message = refused(model(intermediate_size=48))
    assert (
        message.startswith("format: model.layers.0.mlp.down_proj has 48 inputs") and "add down_proj to keep" in message
    )
    assert quantised_weights(model(intermediate_size=48), rounding(keep=["down_proj"])).weights
    narrow = model(hidden_size=48)
    kept = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
    assert refused(narrow, keep=kept, embeddings="q8_0").startswith("embeddings: model.embed_tokens has rows of 48")
    assert "would round nothing" in refused(model(), keep=[*kept, "o_proj", "down_proj"])
    other = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=50)
    assert "would round nothing" in refused(AutoModelForCausalLM.from_config(other))


def test_a_folder_says_what_is_on_a_lattice(tmp_path: Path) -> None:
    assert QuantisedWeights.of_folder(tmp_path) is None
    found = quantised_weights(model(), rounding(embeddings="q8_0", keep=["down_proj"]))
    (tmp_path / QUANTISED_FILE).write_bytes(found.to_bytes())
    assert QuantisedWeights.of_folder(tmp_path) == found


def test_the_preset_is_short_for_its_settings() -> None:
    preset = QuantisedConfig.model_validate("qad")
    assert preset == QuantisedConfig(format="q4_0", embeddings="q8_0")
    assert preset.rounding() == RoundingConfig(format="q4_0", embeddings="q8_0")
    with pytest.raises(ValueError, match="format"):
        QuantisedConfig.model_validate({"embeddings": "q8_0"})
