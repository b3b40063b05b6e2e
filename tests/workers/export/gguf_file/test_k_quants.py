"""K-quants, by llama.cpp's own quantiser: which models they go with, how near they are, and what llama.cpp computes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workers.export.artefact import KL_GATE
from workers.export.config import BLOCKS, K_QUANTS, ExportConfig, WeightType
from workers.export.formats import Named, differing_weights, stored_weights, why_not, write
from workers.export.model_folder import ModelWeights
from workers.export.running.runner import Runner
from workers.model_files import read_model_config

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

IDS = np.random.default_rng(0).integers(2, 320, 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose rows 256 divides, which turns the rows of its queries and keys."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=320, num_hidden_layers=2, initializer_range=0.08, **sizes)
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def export_of(kind: WeightType) -> ExportConfig:
    return ExportConfig(format="gguf", weights=kind, tokenizer="none")


def written(model: Path, folder: Path, kind: WeightType) -> Path:
    folder.mkdir()
    return write(export_of(kind), model, model, folder, Named("a"))


@pytest.mark.parametrize("kind", K_QUANTS)
def test_the_file_holds_what_the_quantiser_makes_and_llama_cpp_computes_with_it(
    kind: WeightType, model: Path, tmp_path: Path
) -> None:
    path, export = written(model, tmp_path / "a", kind), export_of(kind)
    assert path.name == f"a-{kind}.gguf" and differing_weights(export, model, path) == 0
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_q.weight"] == kind.upper() and types["token_embd.weight"] == "Q8_0"
    rounded = AutoModelForCausalLM.from_pretrained(model)
    parameters = dict(rounded.named_parameters())
    with torch.no_grad():
        for name, weight in stored_weights(export, model):
            parameters[name].copy_(weight)
        logp_TV = rounded(torch.from_numpy(IDS)[None]).logits[0].log_softmax(-1)
    with Runner("llama.cpp", path, context=128) as runner:
        logq_TV = torch.from_numpy(runner.logits(IDS)).log_softmax(-1)
    assert (logp_TV.exp() * (logp_TV - logq_TV)).sum(-1).mean() < KL_GATE


def test_more_bits_are_nearer_and_their_four_are_no_farther_than_ours(model: Path) -> None:
    whole = ModelWeights(model)

    def far(kind: WeightType) -> float:
        pairs = [(w, whole.read(name)) for name, w in stored_weights(export_of(kind), model) if "layers" in name]
        return sum(float((w - own).square().sum()) for w, own in pairs if w.dim() == 2)

    q4_0, q4_k, q5_k, q6_k = (far(kind) for kind in ("q4_0", *K_QUANTS))
    assert q6_k < q5_k < q4_k < q4_0


def test_rows_that_their_blocks_do_not_divide_are_refused(model: Path) -> None:
    config = read_model_config(model) | {"hidden_size": 576}
    for kind in K_QUANTS:
        said = why_not(export_of(kind), config, model)
        assert (
            said is not None and "its hidden_size is 576, which blocks of 256" in said and "q4_0, q8_0 or f16" in said
        )
    assert why_not(export_of("q4_0"), config, model) is None


def test_every_type_that_rounds_has_the_blocks_that_gguf_says() -> None:
    for kind in get_args(WeightType):
        size, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
        assert BLOCKS.get(kind, 1) == size
