"""Models of every family as GGUF: llama.cpp computes what transformers does, and weights are the lattice's points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from workers.export.config import ExportConfig
from workers.export.gguf_file.families import FAMILIES, reader, why_not_gguf
from workers.export.gguf_file.writing import About, write_gguf
from workers.export.model_folder import ModelWeights
from workers.export.running.runner import Runner
from workers.model_files import read_model_config
from workers.quantise.lattice import on_lattice

gguf = pytest.importorskip("gguf")

FAMILY_NAMES = [
    "llama", "llama, tied, wide heads", "llama, biases", "llama 3", "llama, stretched", "mistral", "qwen2", "qwen3",
    "gemma3", "granite",
]  # fmt: skip
IDS = np.random.default_rng(0).integers(2, 320, 100)


def write(model: Path, path: Path, **settings: Any) -> Path:
    settings = {"tokenizer": "none", **settings}
    write_gguf(model, model, path, ExportConfig(format="gguf", **settings), About("a model", "apache-2.0", "its base"))
    return path


def read_back(path: Path) -> dict[str, torch.Tensor]:
    """Weights by name, as numbers."""
    return {
        t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy()).reshape(*reversed(t.shape.tolist()))
        for t in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_llama_cpp_computes_what_transformers_does(
    name: str, exported_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Up to the rounding of float32, in another order of sums."""
    pytest.importorskip("xllamacpp")
    folder = exported_model(name)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder)
        logp_TV = model(torch.from_numpy(IDS)[None]).logits[0].log_softmax(-1)
    with Runner("llama.cpp", write(folder, tmp_path / "model.gguf", weights="f32"), context=128) as runner:
        logq_TV = torch.from_numpy(runner.logits(IDS)).log_softmax(-1)
    assert logq_TV.shape == logp_TV.shape
    assert (logp_TV.exp() * (logp_TV - logq_TV)).sum(-1).max() < 1e-4
    assert (logp_TV - logq_TV).abs().max() < 0.05


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_file_holds_the_points_of_the_lattice(
    name: str, exported_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever the order of rows: each row of the model on its lattice is a row of the file."""
    folder = exported_model(name)
    found = read_back(write(folder, tmp_path / "model.gguf", weights="q4_0"))
    names = gguf.get_tensor_name_map(_arch(folder), 8)
    weights = ModelWeights(folder)
    for source in weights.shapes:
        weight, own = weights.read(source), found[names.get_name(source, (".weight", ".bias"))]
        if weight.dim() == 2:
            weight = on_lattice(weight, "q8_0" if "embed" in source or "lm_head" in source else "q4_0")
            assert sorted(own.tolist()) == sorted(weight.tolist()), source
        else:
            assert torch.equal(own.sort().values, (weight + (1.0 if name == "gemma3" else 0.0)).sort().values), source


def _arch(folder: Path) -> Any:
    family = FAMILIES[read_model_config(folder)["model_type"]]
    return next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family.name)


def test_types_of_weights(exported_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = exported_model("llama")

    def types(**settings: Any) -> dict[str, str]:
        path = write(folder, tmp_path / "model.gguf", **settings)
        return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}

    found = types(weights="q4_0")
    assert found["token_embd.weight"] == found["output.weight"] == "Q8_0"
    assert found["blk.1.ffn_down.weight"] == "Q4_0" and found["blk.1.attn_norm.weight"] == "F32"
    found = types(weights="q4_0", embeddings="q4_0", keep=["layers.0.mlp.down_proj", "o_proj"])
    assert found["token_embd.weight"] == "Q4_0" and found["blk.1.attn_output.weight"] == "F32"
    assert found["blk.0.ffn_down.weight"] == "F32" and found["blk.1.ffn_down.weight"] == "Q4_0"
    assert set(types(weights="f16").values()) == {"F16", "F32"}


def test_what_a_file_says_of_itself(exported_model: Callable[[str], Path], tmp_path: Path) -> None:
    reader_ = gguf.GGUFReader(write(exported_model("llama"), tmp_path / "model.gguf", weights="q8_0"))
    said = {name: field.contents() for name, field in reader_.fields.items()}
    assert said["general.architecture"] == "llama" and said["general.name"] == "a model"
    assert said["general.license"] == "apache-2.0" and said["general.base_model.0.name"] == "its base"
    assert said["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0 and said["llama.vocab_size"] == 320


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"model_type": "olmo2"}, "'olmo2' is not among the architectures"),
        ("llama", {"hidden_act": "gelu"}, "computes silu"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "type 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised already"),
        ("mistral", {"sliding_window": 64}, "no sliding window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64}, "no sliding window"),
        ("qwen3", {"attention_bias": True}, "no place for the biases"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "each 6th layer"),
        ("gemma3", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("granite", {"head_dim": 32}, "no head_dim"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    name: str, changes: dict[str, Any], said: str, exported_model: Callable[[str], Path]
) -> None:
    config = read_model_config(exported_model(name))
    assert why_not_gguf(config) is None
    assert said in (why_not_gguf(config | changes) or "")


def test_settings_are_read_as_older_transformers_wrote_them(exported_model: Callable[[str], Path]) -> None:
    from workers.export.gguf_file.families import rope

    old = {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    found = rope(reader(old))
    assert (found["rope_theta"], found["rope_type"], found["factor"]) == (5e5, "linear", 2.0)


def test_a_weight_that_cannot_be_expressed_leaves_no_file(
    exported_model: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(exported_model("llama") / "model.safetensors")
    path = tmp_path / "model.gguf"

    def written(changed: dict[str, torch.Tensor]) -> None:
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        write(tmp_path, path, weights="q4_0")

    (tmp_path / "config.json").write_text((exported_model("llama") / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no place for the weight 'model.layers.0.mlp.odd.weight'"):
        written(weights | {"model.layers.0.mlp.odd.weight": torch.ones(4, 64)})
    with pytest.raises(ValueError, match=r"no blk\.1\.ffn_down\.weight"):
        written({n: w for n, w in weights.items() if n != "model.layers.1.mlp.down_proj.weight"})
    with pytest.raises(ValueError, match="48 wide, which blocks of 32 do not divide"):
        written(weights | {"model.layers.1.mlp.down_proj.weight": torch.ones(64, 48)})
    broken = weights["model.layers.1.mlp.down_proj.weight"].clone()
    broken[3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        written(weights | {"model.layers.1.mlp.down_proj.weight": broken})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
