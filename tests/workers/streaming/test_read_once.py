"""A model that one rank reads for all, and students' engines as they start: whose memory holds what, and whether bits
are lost on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from support.programs.ranks import run_ranks

from cluster.storage import LocalStorage
from workers.streaming.read_once import read_once

RANKS = 2
SLIDING = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False},
    "gemma3_text": {"num_hidden_layers": 4, "layer_types": SLIDING},
    "gpt2": {},
    "apart": {"tie_word_embeddings": True},
}
"""By case; `apart`: the files hold a head that is not the embeddings, though the configuration says so."""
LAYERS = dict.fromkeys(FAMILIES, (1, 2)) | {"gemma3_text": (3, 4)}
"""Those that are tried, and all of them."""
STARTS: dict[str, dict[str, Any]] = {
    "zero-1": {"zero": 1},
    "zero-3": {"zero": 3},
    "bfloat16-3": {"zero": 3, "dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> Path:
    """Models in bfloat16, one of them the initial weights of a student."""
    root = tmp_path_factory.mktemp("run")
    for name, sizes in FAMILIES.items():
        tiny_model("qwen3" if name == "apart" else name, **sizes).bfloat16().save_pretrained(root / name)
    file = root / "apart" / "model.safetensors"
    state = load_file(file)
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"] * 2}, file, {"format": "pt"})
    tiny_model("qwen3", num_hidden_layers=8, tie_word_embeddings=False).bfloat16().save_pretrained(root / "initial")
    return root


@pytest.fixture(scope="module")
def started(root: Path) -> Path:
    """Where two ranks left what they found: of models that were read, and of engines."""
    cases = [{"name": name, "key": name, "dtype": "float32"} for name in FAMILIES]
    cases += [{"name": name, "key": "initial", "train": train} for name, train in STARTS.items()]
    (root / "cases.json").write_text(json.dumps(cases))
    run_ranks("starting_rank.py", RANKS, root / "cases.json", root, root)
    return root


def found(folder: Path, name: str, ranks: int = RANKS) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_rank_has_the_model_of_the_files(name: str, started: Path) -> None:
    """Weights and buffers, to the bit, and those shared that are shared; the store was asked once."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(started / name, dtype=torch.float32)
    expected = dict(model.named_parameters()) | dict(model.named_buffers())
    assert ("lm_head.weight" in expected) == (name in ("llama", "apart"))
    ranks = found(started, name)
    for tensors in (rank["tensors"] for rank in ranks):
        assert tensors.keys() == expected.keys()
        for key, tensor in expected.items():
            assert tensors[key].dtype == tensor.dtype and torch.equal(tensors[key], tensor), key
    assert [rank["fetched"] for rank in ranks] == [1, 0]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_tried_is_a_layer_of_each_kind(name: str, started: Path) -> None:
    assert {(rank["layers_seen"], rank["layers"]) for rank in found(started, name)} == {LAYERS[name]}


def test_files_that_lack_weights_are_refused(root: Path, tmp_path: Path) -> None:
    """Of a layer that is not among those that are tried."""
    shutil.copytree(root / "llama", tmp_path / "lacking")
    file = tmp_path / "lacking" / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"lacking' lack 1 of .* \(model\.layers\.1\.mlp\.up_proj\.weight "):
            read_once(LocalStorage(tmp_path), "lacking", torch.float32, "cpu", lambda model: None)
    finally:
        dist.destroy_process_group()


@pytest.mark.long
def test_of_four_ranks_one_reads(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps([{"name": "four", "key": "llama", "dtype": "bfloat16"}]))
    run_ranks("starting_rank.py", 4, tmp_path / "cases.json", root, tmp_path)
    expected, ranks = load_file(root / "llama" / "model.safetensors"), found(tmp_path, "four", 4)
    assert all(torch.equal(rank["tensors"][key], weight) for rank in ranks for key, weight in expected.items())
    assert [rank["fetched"] for rank in ranks] == [1, 0, 0, 0]


@pytest.mark.parametrize("name", STARTS)
def test_weights_and_masters_have_the_bits_of_the_file(name: str, started: Path) -> None:
    """At any stage, on every rank; the store is asked once."""
    initial = load_file(started / "initial" / "model.safetensors")
    ranks = found(started, name)
    assert ranks[0]["tensors"].keys() == initial.keys() == ranks[0]["masters"].keys()
    for key, weight in initial.items():
        assert torch.equal(ranks[0]["tensors"][key].float(), weight.float()), key
        assert all(torch.equal(rank["masters"][key], weight.float()) for rank in ranks), key
    assert [rank["fetched"] for rank in ranks] == [1, 0]
    assert [rank["layout"] for rank in ranks] == ["packed"] * RANKS


@pytest.mark.parametrize("name", ["zero-3", "bfloat16-3"])
def test_no_rank_ever_holds_the_model_under_zero_3(name: str, started: Path) -> None:
    """Its share of what is there, and beside it on the first rank the part that is read (embeddings and head, or a
    layer, and while it is tried both), on others a parameter."""
    initial = load_file(started / "initial" / "model.safetensors")
    sizes = {key: weight.numel() for key, weight in initial.items()}
    half, filled_up = sum(sizes.values()) // RANKS, len(sizes) * (RANKS - 1)
    ends = sum(size for key, size in sizes.items() if ".layers." not in key)
    layer = sum(size for key, size in sizes.items() if ".layers.0." in key)
    first, second = (rank["most"] for rank in found(started, name))
    assert ends + layer < half
    assert half <= first <= half + filled_up + layer
    assert half <= second <= half + filled_up + max(sizes.values())
