"""A model that is run layer by layer is the model; and no more of it is in memory, or read, than is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.initial.whole_mixture import continue_whole

from workers.streaming import checkpoint
from workers.streaming.layered_model import LayeredModel
from workers.student.models.continued import continued

V = 300
TEXTS = np.random.default_rng(0).integers(3, V, (3, 17)).tolist()
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "mixtral": {"sliding_window": 5},
    "granitemoe": {},
    "gpt_oss": {},
    "llama": {},
    "gemma3_text": {},
}
SHARD = "60KB"
"""A layer of the tiny models is in several files of so much."""


@pytest.fixture(params=["shards", "stacked"])
def saved(request: pytest.FixtureRequest, tiny_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A model's folder: in many files as transformers writes it, with a tensor for each expert; or in one file, with
    one tensor for all of them."""

    def save(family: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Path:
        folder, model = tmp_path / "model", tiny_model(family, **{"num_hidden_layers": 3, **sizes}).to(dtype)
        model.save_pretrained(folder, max_shard_size=SHARD)
        if request.param == "stacked":
            shutil.rmtree(folder)
            folder.mkdir()
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
            tied = ["lm_head.weight"] if model.config.tie_word_embeddings else []
            state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
            save_file(state, folder / "model.safetensors", {"format": "pt"})
        return folder

    return save


def whole(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


@torch.no_grad()
def run(model: LayeredModel, texts: list[list[int]]) -> torch.Tensor:
    """Logits of one batch of texts."""
    call = model.begin(input_ids=torch.tensor(texts), use_cache=False)
    for index, layer in model.layers():
        call.run(layer, index)
    return model.logits(call)


def in_memory(model: LayeredModel) -> list[int]:
    """Layers whose weights are there."""
    layers = model.causal_lm.get_decoder().layers
    return [i for i, layer in enumerate(layers) if not any(p.is_meta for p in layer.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_layer_by_layer_logits_are_those_of_the_whole_model(
    family: str, dtype: torch.dtype, saved: Callable[..., Path]
) -> None:
    folder = saved(family, dtype, **FAMILIES[family])
    model = LayeredModel.from_files(str(folder))
    with torch.no_grad():
        expected = whole(folder)(input_ids=torch.tensor(TEXTS), use_cache=False).logits
    assert expected.dtype == dtype and expected.std() > 0.1
    assert torch.equal(run(model, TEXTS), expected)


@pytest.mark.parametrize("memory", [0, 10**9], ids=["nothing kept", "all kept"])
def test_answers_are_those_of_the_whole_model(memory: int, saved: Callable[..., Path]) -> None:
    """Token by token, with keys and values; lists of prompts of two students share the reading of the layers."""
    folder = saved("qwen3_moe")
    asked = [([TEXTS[0][:9], TEXTS[1][:2]], 1), ([], 0), ([TEXTS[2][:5]], 7)]
    found = continued(LayeredModel.from_files(str(folder), memory=memory), asked, 6)
    assert found == [continue_whole(whole(folder), prompts, 6, seed) for prompts, seed in asked]
    assert max(map(len, found[0])) == 15


def test_no_more_layers_are_in_memory_than_are_said(saved: Callable[..., Path]) -> None:
    folder = saved("qwen3_moe", num_hidden_layers=5)
    layer = sum(p.nbytes for p in whole(folder).get_decoder().layers[0].parameters())
    for memory, kept in ((0, []), (2 * layer, [0, 1]), (3 * layer - 1, [0, 1]), (9 * layer, [0, 1, 2, 3, 4])):
        model, seen = LayeredModel.from_files(str(folder), memory=memory), []
        for _ in range(2):
            for index, _ in model.layers():
                seen.append(in_memory(model))
                assert set(seen[-1]) <= {*kept, index}
        assert in_memory(model) == kept and seen[0] == [0]
        model.release()
        assert in_memory(model) == []


def test_what_is_kept_is_read_once_and_the_rest_again(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = checkpoint.Piece.__getitem__
    monkeypatch.setattr(checkpoint.Piece, "__getitem__", lambda piece, at: read.append(piece.name) or real(piece, at))
    folder = saved("mixtral")
    names = set(checkpoint.Checkpoint(folder))
    layer = sum(p.nbytes for p in whole(folder).get_decoder().layers[0].parameters())
    model = LayeredModel.from_files(str(folder), memory=layer)
    assert sorted(read) == sorted(name for name in names if ".layers." not in name)
    for _ in range(2):
        list(model.layers())
    again = [name for name in names if ".layers.0." not in name and ".layers." in name]
    assert sorted(read) == sorted([*names, *again])


def test_weights_that_are_in_no_file_are_missed(saved: Callable[..., Path]) -> None:
    folder = saved("mixtral")
    for path in folder.glob("*.safetensors"):
        state = {n: t for n, t in load_file(path).items() if not n.endswith("1.self_attn.q_proj.weight")}
        save_file(state, path, {"format": "pt"})
    for index in folder.glob("*.index.json"):
        lines = [line for line in index.read_text().splitlines() if "1.self_attn.q_proj.weight" not in line]
        index.write_text("\n".join(lines))
    model = LayeredModel.from_files(str(folder))
    with model.layer(0):
        pass
    with (
        pytest.raises(ValueError, match=r"lack 1 of the model's weights \(model\.layers\.1\.self_attn\.q_proj"),
        model.layer(1),
    ):
        pass


def test_weights_of_another_shape_are_refused(saved: Callable[..., Path]) -> None:
    folder = saved("mixtral")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_key_value_heads": 2', '"num_key_value_heads": 4'))
    model = LayeredModel.from_files(str(folder))
    with pytest.raises(ValueError, match=r"do not fit its config\.json \(.*self_attn\.k_proj"), model.layer(0):
        pass


def test_a_folder_without_safetensors_is_refused(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    tiny_model("mixtral").config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no safetensors files"):
        LayeredModel.from_files(str(tmp_path))


def test_layers_that_tell_each_other_more_than_states_are_refused(tiny_model: Callable[..., Any]) -> None:
    """As if the second layer were given what the first put out, beside hidden states."""
    model = tiny_model("llama")
    layers = model.get_decoder().layers

    class Shares(type(model.get_decoder())):  # type: ignore[misc]
        def forward(self, input_ids: Any, **_: Any) -> Any:
            states = self.embed_tokens(input_ids)
            for layer in self.layers:
                states = layer(states, position_embeddings=(states, states))
            return states

    model.get_decoder().__class__ = Shares
    with pytest.raises(ValueError, match="llama cannot be run layer by layer"):
        LayeredModel(model).begin(input_ids=torch.tensor(TEXTS))
    assert all("forward" not in vars(layer) for layer in layers)
