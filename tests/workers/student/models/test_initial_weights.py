"""Initial weights that are made without the mixture in memory are to the bit those that were made with it, once for all
students that share them, in the type that the files have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.initial.whole_mixture import continue_whole, merge_whole

from workers.streaming import checkpoint
from workers.student.config import InitialConfig, ModelConfig
from workers.student.models.dropped_layers import drop_layers, log_probabilities, rectangle
from workers.student.models.initial import Asked, make_initials
from workers.student.models.resources import ANSWER_TOKENS, initial_bytes, resource_request

V = 300
TEXTS = np.random.default_rng(0).integers(3, V, (9, 24)).tolist()
OTHERS = np.random.default_rng(1).integers(3, V, (5, 20)).tolist()
PROMPTS = [text[:7] for text in TEXTS[:3]]
WAYS: list[dict[str, Any]] = [{}, {"merge": "average"}, {"merge": "neurons", "merged_width": 40}, {"drop_layers": 1}]


@pytest.fixture
def mixture(tiny_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A mixture's folder: many files, and a tensor for each expert."""

    def save(family: str, dtype: torch.dtype = torch.float32) -> Path:
        model = tiny_model(family, num_hidden_layers=3).to(dtype)
        model.save_pretrained(tmp_path / "moe", max_shard_size="60KB")
        return tmp_path / "moe"

    return save


def whole(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def made(
    asked: list[Asked], folder: Path, **settings: Any
) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """Weights and facts by student."""
    found = make_initials(asked, folder, vocabulary=V, **settings)
    return {one.name: (weights(one.folder), one.facts) for one in found}


def in_memory(folder: Path, model: ModelConfig, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The same with the whole mixture in memory."""
    moe = whole(folder)
    texts = [*TEXTS, *continue_whole(moe, PROMPTS, ANSWER_TOKENS, seed)]
    dense, kl = merge_whole(moe, model.merge, model.merged_width, texts)
    facts: dict[str, Any] = {"kl_of_merges": kl}
    if model.drop_layers:
        whole_BSV = log_probabilities(moe, rectangle(texts))
        facts["dropped_layers"], facts["kl_to_base"] = drop_layers(dense, model.drop_layers, texts, whole_BSV)
    return dense.state_dict(), facts


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_weights_and_figures_are_those_of_a_mixture_in_memory(
    family: str, way: dict[str, Any], mixture: Callable[..., Path], tmp_path: Path
) -> None:
    folder = mixture(family)
    model = ModelConfig(merge_experts=str(folder), **way)
    memory = 10**9 if way else 0
    (state, facts) = made([Asked("a", model, 3, TEXTS, PROMPTS)], tmp_path, memory=memory)["a"]
    expected, figures = in_memory(folder, model, 3)
    tied = [name for name in expected if name not in state]
    assert tied == (["lm_head.weight"] if family == "qwen3_moe" else [])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert {name: facts[name] for name in figures} == figures


def test_weights_of_a_mixture_in_bfloat16_are_those_of_float32_rounded_once(
    mixture: Callable[..., Path], tmp_path: Path
) -> None:
    folder = mixture("mixtral", torch.bfloat16)
    model = ModelConfig(merge_experts=str(folder), merge="neurons")
    (state, facts) = made([Asked("a", model, 3, TEXTS, PROMPTS)], tmp_path, memory=10**9)["a"]
    expected, figures = in_memory(folder, model, 3)
    for name, tensor in state.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    # The figure is that of the rounded weights.
    assert facts["kl_to_mixture"] == pytest.approx(figures["kl_of_merges"]["neurons"], rel=0.02)


def test_students_share_every_read_and_do_not_change_each_other(
    mixture: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three domains, and one that differs only in its adapters: as alone, for the reads of one."""
    folder = mixture("qwen3_moe")
    read: list[str] = []
    real = checkpoint.Piece.__getitem__
    monkeypatch.setattr(checkpoint.Piece, "__getitem__", lambda piece, at: read.append(piece.name) or real(piece, at))
    model = ModelConfig(merge_experts=str(folder))
    asked = [
        Asked("a", model, 1, TEXTS, PROMPTS),
        Asked("b", model, 2, OTHERS),
        Asked("c", ModelConfig(merge_experts=str(folder), drop_layers=[1]), 3, TEXTS),
        Asked("b-lora", ModelConfig(merge_experts=str(folder), lora={"rank": 2}), 4, OTHERS),
    ]
    together = made(asked, tmp_path / "together", memory=10**9)
    assert len(read) == len(set(read)) == len(list(checkpoint.Checkpoint(folder)))
    for one in asked:
        ((state, facts),) = made([one], tmp_path / one.name, memory=10**9).values()
        assert facts == together[one.name][1]
        assert all(torch.equal(tensor, together[one.name][0][name]) for name, tensor in state.items())
    first, second = together["a"][0], together["b"][0]
    assert not all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_base_keeps_its_type_and_is_loaded_once(
    dtype: torch.dtype, tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_model("llama", num_hidden_layers=4).to(dtype)
    base.save_pretrained(tmp_path / "base")
    loads: list[Path] = []
    real = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda folder, **more: loads.append(folder) or real(folder, **more)
    )
    source = str(tmp_path / "base")
    asked = [
        Asked("a", ModelConfig(base=source), 1),
        Asked("b", ModelConfig(base=source, drop_layers=[1, 2]), 2, TEXTS),
        Asked("c", ModelConfig(base=source, drop_layers=2), 3, OTHERS),
        Asked("d", ModelConfig(base=source), 4),
    ]
    found = made(asked, tmp_path / "made")
    assert loads == [tmp_path / "base"] and set(found) == set("abcd")
    own = base.state_dict()
    for name in "ad":
        assert found[name][1]["layers"] == 4 and all(torch.equal(t, own[n]) for n, t in found[name][0].items())
    for name in "bc":
        state, facts = found[name]
        kept = [i for i in range(4) if i not in facts["dropped_layers"]]
        assert facts["layers"] == 2 and len(kept) == 2
        for key, tensor in state.items():
            there = (
                key
                if ".layers." not in key
                else key.replace(f".{key.split('.')[2]}.", f".{kept[int(key.split('.')[2])]}.", 1)
            )
            assert tensor.dtype == dtype and torch.equal(tensor, own[there]), key


def test_layers_are_chosen_in_float32_whatever_the_type(tiny_model: Callable[..., Any]) -> None:
    """A base in bfloat16, of which no more than a layer is wide at a time, and its copy in float32."""
    narrow = tiny_model("llama", num_hidden_layers=5).to(torch.bfloat16)
    wide = tiny_model("llama", num_hidden_layers=5).to(torch.bfloat16).float()
    layers = list(narrow.get_decoder().layers)
    most: list[int] = []
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda *_: most.append(sum(p.dtype == torch.float32 for n in layers for p in n.parameters()))
        )
    assert drop_layers(narrow, 2, TEXTS) == drop_layers(wide, 2, TEXTS)
    assert all(p.dtype == torch.bfloat16 for p in narrow.parameters())
    assert set(most) <= {0, len(list(layers[0].parameters()))}


# Memory -------------------------------------------------------------------------------------------------------------

LARGE = {"hidden_size": 256, "moe_intermediate_size": 512, "num_experts": 16, "num_hidden_layers": 12, "head_dim": 32}
PROGRAM = """
import sys
from pathlib import Path
import torch
from workers.student.config import ModelConfig
from workers.student.models.initial import Asked, make_initials

def held(peak):
    name = "VmHWM" if peak else "VmRSS"
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

def work(source, memory):
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = held(False)
    texts = [[3 + (7 * i + j) % 290 for j in range(16)] for i in range(8)]
    asked = [Asked("a", ModelConfig(merge_experts=source, merge="average"), 0, texts)]
    for made in make_initials(asked, Path(sys.argv[3]), vocabulary=300, memory=memory):
        pass
    return held(True) - before

torch.set_num_threads(1)
work(sys.argv[2], 0)  # all code is loaded
print(work(sys.argv[1], 0), work(sys.argv[1], 10**10))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read as Linux tells them")
def test_the_mixture_is_never_in_memory(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """Peak memory of a process, above what it had before: of some layers, or of all twelve where these are kept."""
    moe = tiny_model("qwen3_moe", **LARGE)
    layer = sum(p.nbytes for p in moe.get_decoder().layers[0].parameters())
    every = sum(p.nbytes for p in moe.parameters())
    dense = every - 12 * layer * 15 // 16
    moe.save_pretrained(tmp_path / "large")
    del moe
    tiny_model("qwen3_moe").save_pretrained(tmp_path / "tiny")
    arguments = [tmp_path / "large", tmp_path / "tiny", tmp_path / "made"]
    # With a threshold of its own, glibc gives large arrays back at once; else it keeps some layers of them, or not.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    run = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    streamed, kept = map(int, run.stdout.split()[-2:])
    # A layer at work: pages of the file, each kind of experts stacked, gates and ups joined. An allocator keeps some.
    assert streamed < 4 * layer + dense + 16e6 < every / 2
    assert kept > every


def test_what_is_reserved_grows_with_the_memory_that_is_given(mixture: Callable[..., Path]) -> None:
    model = ModelConfig(merge_experts=str(mixture("mixtral")))
    layers = sum(t.nbytes for n, t in weights(mixture("mixtral")).items() if ".layers." in n)
    sizes = [initial_bytes([model], InitialConfig(memory=memory)) for memory in (0, layers // 2, layers, 10**12)]
    assert sizes[1] - sizes[0] == layers // 2 and sizes[2] - sizes[0] == layers and sizes[3] == sizes[2]
    request = resource_request([model, model], InitialConfig(memory=0, cpus=2))
    assert request is not None and request.bundles[0]["CPU"] == 2
    new = ModelConfig(config={"model_type": "llama"})
    assert resource_request([new], InitialConfig()) is None and initial_bytes([new], InitialConfig()) == 0
