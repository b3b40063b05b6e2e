"""Folders of other formats: transformers loads them, and their weights are what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from workers.export.compressed_folder import pack, unpack
from workers.export.config import ExportConfig
from workers.export.formats import Named, differing_weights, stored_weights, write
from workers.export.model_folder import ModelWeights
from workers.export.shards import write_shards
from workers.quantise.lattice import on_lattice

IDS = torch.arange(3, 60)[None]


def written(model: Path, folder: Path, export: ExportConfig) -> Path:
    folder.mkdir(exist_ok=True)
    return write(export, model, model, folder, Named("a"))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits[0]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "granite"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_compressed_tensors_computes_what_the_lattice_does(
    name: str, dtype: str | None, exported_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Also in bfloat16, which scales survive; what is not quantised is rounded to it in both."""
    pytest.importorskip("compressed_tensors")
    model = exported_model(name)
    export = ExportConfig.model_validate({"format": "compressed-tensors", "dtype": dtype})
    path = written(model, tmp_path / "packed", export)
    assert differing_weights(export, model, path) == 0
    rounded = AutoModelForCausalLM.from_pretrained(model).eval()
    parameters = dict(rounded.named_parameters())
    with torch.no_grad():
        for own, weight in stored_weights(export, model):
            parameters[own].copy_(weight)
        expected_TV = rounded(IDS).logits[0]
    torch.testing.assert_close(logits(path), expected_TV, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(model), expected_TV, rtol=1e-2, atol=1e-2), "and that is another model"
    small, large = (sum(f.stat().st_size for f in p.glob("*.safetensors")) for p in (path, model))
    assert small < large


def test_layers_that_are_kept(exported_model: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model = exported_model("llama")
    export = ExportConfig(format="compressed-tensors", keep=("down_proj", "layers.0.self_attn.q_proj"))
    path = written(model, tmp_path / "packed", export)
    names = ModelWeights(path).shapes
    assert "model.layers.1.mlp.down_proj.weight" in names and "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.1.self_attn.q_proj.weight_packed" in names and "lm_head.weight" in names
    assert logits(path).isfinite().all() and differing_weights(export, model, path) == 0


def test_packing_is_undone_to_the_bit() -> None:
    weight_OI = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    words, scale_OG = pack(weight_OI)
    assert (words.dtype, words.shape, scale_OG.shape) == (torch.int32, (48, 12), (48, 3))
    assert torch.equal(unpack(words, scale_OG), on_lattice(weight_OI, "q4_0"))
    assert torch.equal(unpack(words, scale_OG.bfloat16()), unpack(words, scale_OG))


def test_packing_is_that_of_the_library() -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    weight_OI = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    words, scale_OG = pack(weight_OI)
    codes = unpack_from_int32(words, 4, torch.Size((48, 96)))
    assert torch.equal(
        codes.unflatten(1, (-1, 32)) * scale_OG[..., None], unpack(words, scale_OG).unflatten(1, (-1, 32))
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_safetensors_of_another_type(dtype: str, exported_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = exported_model("qwen3")
    export = ExportConfig.model_validate({"format": "safetensors", "dtype": dtype})
    path = written(model, tmp_path / "out", export)
    assert json.loads((path / "config.json").read_text())["dtype"] == dtype
    assert {str(ModelWeights(path).read(name).dtype) for name in ModelWeights(path).shapes} == {f"torch.{dtype}"}
    assert differing_weights(export, model, path) == 0
    assert torch.equal(logits(path), logits(model)) == (dtype == "float32")


def test_a_weight_that_differs_is_counted(exported_model: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, export = exported_model("qwen3"), ExportConfig(format="safetensors", dtype="bfloat16")
    path = written(model, tmp_path / "out", export)
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][:3] += 1
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert differing_weights(export, model, path) == 3


def test_parts_and_their_index(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((256,), float(i)) for i in range(5)}
    write_shards(tmp_path, tensors.items(), part_bytes=2048)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), "model.safetensors.index.json"]
    index = json.loads((tmp_path / files[-1]).read_text())
    assert index["metadata"]["total_size"] == 5 * 1024 and index["weight_map"]["t4"] == files[2]
    weights = ModelWeights(tmp_path)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in tensors.items())
