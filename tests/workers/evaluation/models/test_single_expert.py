"""The teacher cut down to one expert a layer: which experts are kept, what is read, and what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.comparing.tolerances import in_float64, of_capture

from workers.evaluation.models.cuttable import CUTTABLE, why_not_cut
from workers.evaluation.models.single_expert import favourite_experts, single_expert_model
from workers.streaming import checkpoint

V = 300
TEXTS = np.random.default_rng(0).integers(3, V, (3, 12)).astype(np.uint32)
CPU = (torch.float32, "cpu")


@pytest.fixture(autouse=True)
def _scoring() -> Iterator[None]:
    with torch.no_grad():
        yield


Saved = Callable[..., tuple[Path, Any]]


@pytest.fixture
def saved(tiny_model: Callable[..., Any], tmp_path: Path) -> Saved:
    """A teacher's folder, with a tensor for each expert where transformers writes such, in many files; and itself."""

    def save(family: str, **sizes: Any) -> tuple[Path, Any]:
        teacher = tiny_model(family, **sizes)
        teacher.save_pretrained(tmp_path / "teacher", max_shard_size="60KB")
        return tmp_path / "teacher", teacher

    return save


def dense_model(moe: Any, keep: dict[int, int], tiny_model: Callable[..., Any]) -> Any:
    """The dense model of the same family whose MLPs are the kept experts: no router, each at weight 1."""
    dense_type = {"qwen3_moe": "qwen3", "mixtral": "mistral"}[moe.config.model_type]
    dense = tiny_model(
        dense_type,
        num_hidden_layers=moe.config.num_hidden_layers,
        tie_word_embeddings=moe.config.tie_word_embeddings,
        rms_norm_eps=moe.config.rms_norm_eps,
        rope_parameters=moe.config.rope_parameters,
    )
    state = moe.state_dict()
    for name, parameter in dense.state_dict().items():
        if ".mlp." not in name or name in state:
            parameter.copy_(state[name])
    for index, expert in keep.items():
        layer, experts = dense.get_decoder().layers[index], moe.get_decoder().layers[index].mlp.experts
        gate, up = experts.gate_up_proj[expert].chunk(2)
        layer.mlp.gate_proj.weight.copy_(gate)
        layer.mlp.up_proj.weight.copy_(up)
        layer.mlp.down_proj.weight.copy_(experts.down_proj[expert])
    return dense.eval()


CUTS: list[tuple[str, dict[str, Any], dict[int, int]]] = [
    ("qwen3_moe", {}, {0: 3, 1: 6}),
    ("qwen3_moe", {"norm_topk_prob": True}, {0: 0, 1: 7}),
    ("qwen3_moe", {"num_hidden_layers": 3, "mlp_only_layers": [0]}, {1: 5, 2: 2}),
    ("mixtral", {}, {0: 1, 1: 3}),
]


@pytest.mark.parametrize("family, sizes, keep", CUTS)
def test_the_single_expert_teacher_is_its_kept_experts_at_weight_1(
    family: str, sizes: dict[str, Any], keep: dict[int, int], saved: Saved, tiny_model: Callable[..., Any]
) -> None:
    folder, teacher = saved(family, **sizes)
    ids = torch.from_numpy(TEXTS.astype(np.int64))
    before = in_float64(teacher)(ids).logits
    cut = single_expert_model(str(folder), None, keep, *CPU)
    expected = in_float64(dense_model(teacher, keep, tiny_model))(ids).logits
    found = in_float64(cut)(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=of_capture(expected.abs().max()))
    assert (found - before).abs().max() > 0.1 and not cut.training
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in teacher.parameters())


SMALL: dict[str, dict[str, Any]] = {
    "flex_olmo": {"num_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 8, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 32},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", CUTTABLE)
def test_every_weight_is_the_teachers_own_or_its_kept_row(family: str, dtype: torch.dtype, saved: Saved) -> None:
    folder, teacher = saved(family, **SMALL.get(family, {}))
    keep, state = {0: 2, 1: 3}, teacher.state_dict()
    assert why_not_cut(json.loads((folder / "config.json").read_text())) is None
    cut, smaller = single_expert_model(str(folder), None, keep, dtype, "cpu"), 0
    assert cut.state_dict().keys() == state.keys()
    for name, tensor in cut.state_dict().items():
        expected = state[name].to(dtype)
        if tensor.shape != expected.shape:
            layer, smaller = int(name.split(".")[2]), smaller + 1
            expected = expected[keep[layer] : keep[layer] + 1]
        assert tensor.dtype == dtype and torch.equal(tensor, expected), name
    assert smaller >= 6  # router, gates and ups, downs of two layers
    for name, buffer in cut.named_buffers():
        if name not in state:
            assert torch.equal(buffer, dict(teacher.named_buffers())[name])
    assert cut(torch.from_numpy(TEXTS.astype(np.int64))).logits.isfinite().all()


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_of_the_experts_only_the_kept_ones_are_read(family: str, saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that leave the files: those of the smaller model, and no more."""
    read: list[int] = []
    real = checkpoint.Piece.__getitem__

    def counted(piece: checkpoint.Piece, at: Any) -> torch.Tensor:
        tensor = real(piece, at)
        read.append(tensor.nbytes)
        return tensor

    folder, teacher = saved(family)
    monkeypatch.setattr(checkpoint.Piece, "__getitem__", counted)
    cut = single_expert_model(str(folder), None, {0: 1, 1: 2}, *CPU)
    assert sum(read) == sum(p.nbytes for p in cut.parameters())
    experts = teacher.get_decoder().layers[0].mlp.experts.down_proj.shape[0]
    assert sum(p.nbytes for p in teacher.parameters()) - sum(read) > 2 * (experts - 1) * 3 * 64 * 48 * 4


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "granitemoe", "gpt_oss"])
def test_favourite_experts_are_those_that_most_tokens_go_to(family: str, saved: Saved) -> None:
    """By domain, with the whole teacher's true hidden states: against what its routers put out in memory."""
    folder, teacher = saved(family, num_hidden_layers=3)
    texts = {"a": [TEXTS[0], TEXTS[1][:5]], "b": [TEXTS[2]], "none": []}
    found = favourite_experts(str(folder), None, texts, *CPU)
    assert found["none"] == {0: 0, 1: 0, 2: 0}
    for domain in ("a", "b"):
        counts = [_sent(teacher, layer, texts[domain]) for layer in teacher.get_decoder().layers]
        assert sum(map(sum, counts)) == 3 * 2 * sum(map(len, texts[domain]))
        for index, expert in found[domain].items():
            assert counts[index][expert] == max(counts[index])


def _sent(teacher: Any, layer: Any, texts: list[np.ndarray]) -> list[int]:
    """Tokens that a layer of a teacher in memory sends to each expert."""
    sent: list[int] = []

    def note(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        sent.extend(args[1].flatten().tolist())

    hook = next(m for n, m in layer.named_modules() if n.endswith(".experts")).register_forward_pre_hook(note)
    for text in texts:
        teacher(torch.from_numpy(text.astype(np.int64))[None])
    hook.remove()
    return np.bincount(sent, minlength=8).tolist()


def test_a_layer_without_experts_has_no_favourite(saved: Saved) -> None:
    folder, _ = saved("qwen3_moe", num_hidden_layers=3, mlp_only_layers=[1])
    found = favourite_experts(str(folder), None, {"a": [TEXTS[0]]}, *CPU)["a"]
    assert list(found) == [0, 2]
    cut = single_expert_model(str(folder), None, found, *CPU)
    assert cut(torch.from_numpy(TEXTS.astype(np.int64))).logits.isfinite().all()


def test_the_revision_of_a_source_is_the_one_that_is_read(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hub's cache with two revisions of one id: the branch `main` is another model than the one asked for."""
    folder, teacher = saved("mixtral")
    cache = tmp_path / "hub" / "models--some--moe"
    for revision, seed in (("a" * 40, 0), ("b" * 40, 1)):
        there = cache / "snapshots" / revision
        there.mkdir(parents=True)
        for path in folder.iterdir():
            (there / path.name).write_bytes(path.read_bytes())
        if seed:
            for path in there.glob("*.safetensors"):
                _zero(path)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    keep = {0: 1, 1: 2}
    asked, main = (single_expert_model("some/moe", revision, keep, *CPU) for revision in ("a" * 40, None))
    norm = "model.norm.weight"
    assert torch.equal(asked.state_dict()[norm], teacher.state_dict()[norm]) and not main.state_dict()[norm].any()


def _zero(path: Path) -> None:
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        state = {name: torch.zeros_like(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    save_file(state, path, {"format": "pt"})


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"num_local_experts": None}, "dense"),
        ({"model_type": "deepseek_v3"}, "not among"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantised"),
    ],
)
def test_what_cannot_be_cut_is_told_by_its_configuration(changes: dict[str, Any], word: str) -> None:
    config = {"model_type": "mixtral", "num_local_experts": 4}
    assert why_not_cut(config) is None
    assert word in str(why_not_cut(config | changes))
