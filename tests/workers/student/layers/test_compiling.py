"""Compiled decoder layers: the numbers of plain ones, compiled once for all lengths of texts and for layers alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.plain_training import BATCH, LOSS, STEPS, TRAIN, first_batches, plain_training
from support.comparing.tolerances import LOSSES, of_gradients
from support.small_students import CommitUnit, MakeTargets, V, fill_store, life, live, make_student, student_job
from torch import Tensor
from torch.library import register_kernel

from cluster.storage import LocalStorage
from workers.student.batches.packing import Texts
from workers.student.config import TrainConfig
from workers.student.layers.compiling import check_can_compile, check_layers, compile_layers
from workers.student.layers.recomputing import recompute
from workers.student.losses.fused import HeadTargets
from workers.student.models import packed_attention
from workers.student.models.student_model import DistillationModel
from workers.targets.encoding.schema import StoreHeader

LENGTHS = [(5, 7, 3), (9, 2, 6, 11), (20,), (8, 8, 8, 8, 8, 8)]


def softmax_of(query_Hnd: Tensor, key_Hnd: Tensor, scale: float) -> Tensor:
    scores_Hnn = query_Hnd @ key_Hnd.transpose(1, 2) * scale
    return scores_Hnn.masked_fill(torch.ones_like(scores_Hnn[0]).triu(1).bool(), -torch.inf).softmax(-1)


def of_texts(ends: Tensor, *of_all: Tensor) -> list[list[Tensor]]:
    """[H, n, d] of each text, of keys and values for each head of the queries."""
    lengths, heads = ends.diff().tolist(), of_all[0].shape[1]
    parts = zip(*(x.transpose(0, 1).split(lengths, 1) for x in of_all), strict=True)
    return [[x.repeat_interleave(heads // len(x), 0) for x in part] for part in parts]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernel for GPUs, by its definition on a CPU."""

    @register_kernel("torch_attn::_varlen_attn", "cpu")
    def forward(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        scale = given[4]
        parts = of_texts(ends, query, key, value)
        found = torch.cat([(softmax_of(q, k, scale) @ v).transpose(0, 1) for q, k, v in parts])
        return found.contiguous(), query.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)

    @register_kernel("torch_attn::_varlen_attn_backward", "cpu")
    def backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, ends: Tensor,
                 *given: Any) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        scale, found = given[5], []
        for q, k, v, g in of_texts(ends, query, key, value, grad):
            p = softmax_of(q, k, scale)
            dp = g @ v.transpose(1, 2)
            ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
            found.append((ds @ k, ds.transpose(1, 2) @ q, p.transpose(1, 2) @ g))
        wide = [torch.cat(parts, 1).transpose(0, 1) for parts in zip(*found, strict=True)]
        each = [x.unflatten(1, (like.shape[1], -1)).sum(2) for x, like in zip(wide, (query, key, value), strict=True)]
        return each[0], each[1], each[2]

    monkeypatch.setattr(packed_attention, "kernel_takes", lambda query: True)


def student(share: float) -> DistillationModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model("qwen3", vocab_size=V, **sizes, **heads)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    recompute(model, share)
    return DistillationModel(model)


def learn(model: DistillationModel, lengths: tuple[int, ...]) -> list[Tensor]:
    """Loss and gradients of texts of such lengths."""
    make, tokens = torch.Generator().manual_seed(sum(lengths)), sum(lengths)
    ids_1P, labels_P = (torch.randint(V, size, generator=make) for size in ((1, tokens), (tokens,)))
    model.zero_grad()
    place_1P = torch.cat([torch.arange(n) for n in lengths])[None]
    texts = Texts(ids_1P, None, lengths, torch.arange(tokens), place_1P)
    loss = model(texts, HeadTargets(labels_P, torch.ones(tokens)))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.long
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_layers_on_a_gpu_are_compiled_once_for_all_lengths(share: float) -> None:
    """One graph for layers that are alike, without a break, and none for a batch of other lengths. Of the backend only
    what it is given is tried: kernels are another machine's."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = student(share)
    expected = [learn(model, lengths) for lengths in LENGTHS]
    compile_layers(model.causal_lm, "aot_eager")
    for lengths, plain in zip(LENGTHS, expected, strict=True):
        for one, other in zip(learn(model, lengths), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=of_gradients(other.abs().max()))
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == (2 if share else 1)


@pytest.mark.long
def test_compiled_training_is_training(
    tmp_path: Path,
    make_header: Callable[..., StoreHeader],
    make_targets: MakeTargets,
    commit: CommitUnit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By workers of their own: one with weights on a lattice, and two under ZeRO, with layers that are recomputed. What
    they compiled is on the node, and nowhere in the run's storage."""
    cache = tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    root = tmp_path / "run"
    storage = LocalStorage(root)
    fill_store(storage, make_header(vocabulary=V), make_targets, commit)
    make_student(root)
    batches = first_batches(storage, STEPS, BATCH)
    budget = sum(r.targets for rows in batches for r in rows)
    losses, norms, _ = plain_training(batches, root / "initial", LOSS, TrainConfig(tokens=budget, **TRAIN))

    def job(name: str, **train: Any) -> dict[str, Any]:
        return student_job(root, name, LOSS.model_dump(), {**TRAIN, "tokens": budget, **train})

    quantise = {"format": "q4_0", "keep": ["down_proj"]}  # of 48 inputs, which groups of 32 do not divide
    lives = [life(job(f"lattice-{c}", compile=c, quantise=quantise), 1) for c in (False, True)]
    lives += [life(job("two", compile=True, zero=2, gradient_checkpointing="50%"))]
    live(root, lives)
    found = {
        fields["job"]["name"]: json.loads((root / "students" / fields["job"]["name"] / "done.json").read_text())[
            "history"
        ]
        for fields in lives
    }
    np.testing.assert_allclose([s["loss"] for s in found["two"]], losses, rtol=0, atol=LOSSES)
    np.testing.assert_allclose([s["grad_norm"] for s in found["two"]], norms, rtol=of_gradients(1))
    for one, other in zip(found["lattice-False"], found["lattice-True"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=LOSSES)
    assert any(cache.rglob("*.so"))
    assert not [key for key in storage.keys("") if "compiled" in key or key.endswith(".so")]


def test_a_node_without_a_compiler_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/compiler")
    with pytest.raises(ValueError, match=r"train\.compile: true, but this node has no C\+\+ compiler"):
        check_can_compile()
    monkeypatch.setenv("CXX", sys.executable)  # whatever it is, it is there
    check_can_compile()


def test_layers_that_are_not_told_apart_are_refused() -> None:
    model = student(0).causal_lm
    check_layers(model)
    model.model.layers = torch.nn.ModuleList([torch.nn.Sequential(*model.model.layers)])
    model.config.num_hidden_layers = 1
    with pytest.raises(ValueError, match="compile: true, but layers of qwen3 are not told apart"):
        check_layers(model)
