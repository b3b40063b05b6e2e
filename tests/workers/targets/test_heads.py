"""Exact distributions of hidden states and a head that is kept apart, against a model's own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_sums
from transformers import AutoConfig, AutoModelForCausalLM

import workers.targets.heads
from workers.logit_map import LogitMap
from workers.targets.heads import TeacherHead, as_stored, from_stored, head_of_folder

IDS, VOCABULARY = 64, 60
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": IDS}
HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": False},
    "llama": {"tie_word_embeddings": True},
    "granite": {"logits_scaling": 3.0, "tie_word_embeddings": False},
    "cohere": {"logit_scale": 0.25, "tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 1.5, "tie_word_embeddings": True},
    "phi": {},
}
"""With a bias (phi), tied and not, scaled and capped."""


def model_of(family: str, folder: Path) -> Any:
    torch.manual_seed(0)
    special = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(family, **SIZES, **HEADS, **special, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
        if model.get_output_embeddings().bias is not None:
            model.get_output_embeddings().bias.normal_()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_files_gives_the_models_own_distributions(family: str, tmp_path: Path) -> None:
    model = model_of(family, tmp_path)
    ids = torch.arange(12)[None] % IDS
    with torch.no_grad():
        own_nV = model(input_ids=ids).logits[0, :, :VOCABULARY].log_softmax(-1)
        hidden_nH = model.base_model(input_ids=ids).last_hidden_state[0]
    head = TeacherHead.from_bytes(head_of_folder(tmp_path, "float32", VOCABULARY).to_bytes()).on("cpu")
    found_nV = head.log_probabilities(as_stored(hidden_nH, "float32").numpy(), "float32")
    assert found_nV.shape == own_nV.shape
    # A product of H numbers, each rounded to float32, of the size of the logits.
    assert (found_nV - own_nV).abs().max() < SIZES["hidden_size"] * 2.0**-23 * own_nV.abs().max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_on_the_format_makes_the_same_distributions(family: str, precision: str, tmp_path: Path) -> None:
    """The program in FORMAT.md, as it stands there."""
    model_of(family, tmp_path)
    head = head_of_folder(tmp_path, precision, VOCABULARY)
    (tmp_path / "head").write_bytes(head.to_bytes())
    page = (Path(workers.targets.heads.__file__).parent / "FORMAT.md").read_text()
    program: dict[str, Any] = {}
    exec(page.split("```python\n")[2].split("```")[0], program)
    hidden = as_stored(torch.randn(3, SIZES["hidden_size"]), precision).numpy()
    found_nV = program["distributions"](hidden.reshape(-1), precision, tmp_path / "head", 1.5)
    assert torch.allclose(found_nV, head.on("cpu").log_probabilities(hidden, precision, 1.5), atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_head_multiplies_in_its_own_type_and_sums_in_float32(
    precision: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of rows that do not divide the ids; the numbers of a two-byte type have exact products in float32."""
    monkeypatch.setattr(workers.targets.heads, "_BLOCK_NUMBERS", 7 * 32)
    dtype, generator = getattr(torch, precision), torch.Generator().manual_seed(0)
    W_VH, h_nH = (torch.randn(n, 32, generator=generator).to(dtype) for n in (VOCABULARY, 5))
    b_V = torch.randn(VOCABULARY, generator=generator).to(dtype) if bias else None
    z_nV = TeacherHead(W_VH, b_V, LogitMap()).make_logits(h_nH.float())
    exact_nV = h_nH.double() @ W_VH.double().T + (0 if b_V is None else b_V.double())
    sizes_nV = h_nH.double().abs() @ W_VH.double().abs().T + (0 if b_V is None else b_V.double().abs())
    assert z_nV.dtype == torch.float32
    assert ((z_nV - exact_nV).abs() <= of_sums(33) * sizes_nV).all()


def test_a_temperature_divides_the_logits(tmp_path: Path) -> None:
    model_of("gemma2", tmp_path)
    head = head_of_folder(tmp_path, "float32", VOCABULARY).on("cpu")
    hidden = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    one, two = (head.log_probabilities(hidden, "float32", t) for t in (1.0, 2.0))
    assert torch.allclose((one / 2).log_softmax(-1), two, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_hidden_states_come_back_bit_by_bit(precision: str) -> None:
    hidden = torch.randn(5, 7).to(getattr(torch, precision))
    stored = as_stored(hidden, precision).numpy()
    assert stored.dtype == (np.float32 if precision == "float32" else np.uint16)
    assert torch.equal(from_stored(stored, precision), hidden)


def test_a_head_that_is_not_in_the_files(tmp_path: Path) -> None:
    model_of("qwen3", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lm_head.weight is not in the safetensors files"):
        head_of_folder(tmp_path, "float32", VOCABULARY)
