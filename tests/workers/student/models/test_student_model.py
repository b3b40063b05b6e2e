"""A student's module, and the initial weights that layers were taken out of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import in_float64, of_gradients, of_logits
from support.initial.weights import make_initial
from support.model_families import DENSE, SIZES

from workers.evaluation.own_text import text_row
from workers.student.batches.batching import collate
from workers.student.batches.packing import Layout, Texts, lay_out
from workers.student.config import LossConfig, ModelConfig
from workers.student.layers.recomputing import recompute, recomputed_layers
from workers.student.losses.fused import HeadTargets, loss_of_logits
from workers.student.losses.objective import divergence_of
from workers.student.models.dropped_layers import drop_layers
from workers.student.models.student_model import DistillationModel, ready_to_train
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import rows_of

V = 300
TEXTS = np.random.default_rng(0).integers(3, V, (3, 12)).tolist()
ARCHITECTURES = ["llama", "qwen3"]


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor(TEXTS), use_cache=False).logits


def off_by(logits: torch.Tensor, layers: int = 2) -> float:
    """What rounding leaves between these logits and others of the same model, and between means of them."""
    return of_logits(logits.abs().max(), layers)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# Module -----------------------------------------------------------------------------------------------------


FAMILIES = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": True},
    "granite": DENSE["granite"],
    "cohere": {"logit_scale": 0.3, "tie_word_embeddings": True},
    "gemma3_text": DENSE["gemma3_text"],
    "mistral": {"sliding_window": 4},
    "gemma2": {"query_pre_attn_scalar": 16, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
    "phi": {},  # its head has a bias
    # Its state-space layers would let packed texts see each other. Small, as they are slow in plain torch.
    "falcon_h1": {"mamba_chunk_size": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
}
PADDED = {"gemma2", "falcon_h1"}


def model_of(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": V, **FAMILIES[family]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.float32).train()
    return in_float64(model)  # but for what transformers computes in float32 whatever the type, as some norms


@pytest.mark.parametrize("scheme", ["systematic", "full", "topk"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_models_own_logits(
    family: str,
    layout: Layout,
    scheme: str,
    make_header: Callable[..., StoreHeader],
    make_targets: Callable[..., UnitTargets],
) -> None:
    """Texts together and a fused loss, against each text alone and torch's own softmax."""
    header = make_header(scheme=scheme, vocabulary=V, **({"top_k": 5} if scheme == "topk" else {}))
    lengths, starts = [9, 14, 3, 6], [1, 3, 1, 2]
    unit = make_targets(header, np.random.default_rng(1), ["a", "b", "c", "d"], lengths, starts)
    loss_config = LossConfig(kl=1, ce=0.5, divergence="reverse_kl" if scheme == "topk" else "forward_kl")
    own, other = model_of(family), model_of(family)
    student = DistillationModel(own, divergence_of(loss_config), layout)
    assert student.fused and student.layout == ("padded" if family in PADDED else layout)
    batch = collate(rows_of(unit, header), loss_config, student.layout)
    loss = student(batch.texts, batch.targets)
    loss.backward()
    logits = [
        other(torch.from_numpy(r.tokens.astype(np.int64))[None, :-1]).logits[0, r.start - 1 :]
        for r in rows_of(unit, header)
    ]
    expected = loss_of_logits(torch.cat(logits), batch.targets, divergence_of(loss_config))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=of_logits(1))
    for (name, mine), theirs in zip(own.named_parameters(), other.parameters(), strict=True):
        if theirs.grad is None:
            continue
        assert mine.grad is not None, name
        tolerance = of_gradients(theirs.grad.abs().max())
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=tolerance, msg=name)


def test_a_model_that_changes_its_logits_otherwise_makes_them_itself() -> None:
    """What `LogitMap` does not know is noticed, and the loss is still that of the model's own logits."""

    class Doubled(torch.nn.Linear):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return super().forward(h).square()

    model = model_of("llama")
    head = model.lm_head
    model.lm_head = Doubled(head.in_features, head.out_features, bias=False)
    model.lm_head.weight = head.weight
    student = DistillationModel(model, layout="padded")
    assert not student.fused
    ids = torch.tensor(TEXTS)
    texts = Texts(ids, torch.ones_like(ids), None, torch.arange(11))
    targets = HeadTargets(torch.tensor(TEXTS[0][1:]), torch.ones(11))
    expected = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :11], targets.labels_T, reduction="sum")
    assert student(texts, targets).item() == pytest.approx(expected.item(), rel=of_logits(1))


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma3_text"])
def test_layers_that_are_computed_again_change_no_gradient(
    architecture: str, layout: Layout, save_model: Callable[..., Path]
) -> None:
    """Not by a bit: they are the same operators on the same numbers."""
    folder, found = save_model(architecture, num_hidden_layers=4), []
    texts = lay_out([text_row("", np.array(text[: 12 - i], np.uint32), 1) for i, text in enumerate(TEXTS)], layout)
    targets = HeadTargets(torch.arange(len(texts.positions_T)) % V, torch.ones(len(texts.positions_T)))
    for share in (0, 0.5, 1):
        model = load(folder)
        ready_to_train(model, gradient_checkpointing=share)
        loss = DistillationModel(model, layout=layout)(texts, targets)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for without, half, all_of_them in zip(*found, strict=True):
        assert torch.equal(without, half) and torch.equal(without, all_of_them)


@pytest.mark.parametrize(
    ("layers", "share", "chosen"),
    [
        (4, 0, []),
        (4, 0.5, [0, 2]),
        (4, 1, [0, 1, 2, 3]),
        (36, 0.1, [0, 9, 18, 27]),
        (5, 0.6, [0, 2, 4]),
        (3, 0.01, [0]),
    ],
)
def test_which_layers_a_share_is(layers: int, share: float, chosen: list[int]) -> None:
    assert recomputed_layers(layers, share) == chosen


def test_an_architecture_that_recomputes_all_or_none_is_refused_a_part() -> None:
    """One whose layers have no flag of their own."""
    model = model_of("llama")
    model.model.layers = torch.nn.ModuleList([torch.nn.Sequential(*model.model.layers)])
    model.config.num_hidden_layers = 1
    recompute(model, 1)
    with pytest.raises(ValueError, match=r"gradient_checkpointing: 0\.5, but llama .* true or false"):
        recompute(model, 0.5)


# Initial weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_named_layers_are_left_out(architecture: str, save_model: Callable[..., Path], tmp_path: Path) -> None:
    base = save_model(architecture, num_hidden_layers=4)
    facts = make_initial(ModelConfig(base=str(base), drop_layers=[1, 2]), tmp_path, vocabulary=V, texts=TEXTS)
    whole, small = load(base), load(tmp_path)
    assert facts["dropped_layers"] == [1, 2] and facts["layers"] == 2
    assert small.config.num_hidden_layers == len(small.get_decoder().layers) == 2
    assert facts["parameters"] == sum(p.numel() for p in small.parameters())
    for kept, original in ((0, 0), (1, 3)):
        for name, weight in small.get_decoder().layers[kept].state_dict().items():
            assert torch.equal(weight, whole.get_decoder().layers[original].state_dict()[name]), name
    p, q = (logits_of(model).log_softmax(-1) for model in (whole, small))
    kl = (p.exp() * (p - q)).sum(-1).mean().item()
    assert facts["kl_to_base"] == pytest.approx(kl, abs=off_by(p, 4)) and facts["kl_to_base"] > 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reloaded_model_is_the_one_that_was_cut(
    architecture: str, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(architecture, num_hidden_layers=4)
    drop_layers(model, [0, 2], TEXTS)
    expected = logits_of(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(load(tmp_path)), expected, rtol=0, atol=off_by(expected))


def silence(layer: Any) -> None:
    """Make a decoder layer add nothing."""
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("silent", [[0], [2], [3], [1, 2], [0, 3]], ids=str)
def test_measured_layers_are_those_that_change_nothing(
    architecture: str, silent: list[int], tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(architecture, num_hidden_layers=4)
    for index in silent:
        silence(model.get_decoder().layers[index])
    before = logits_of(model)
    taken, kl = drop_layers(model, len(silent), TEXTS)
    assert taken == silent
    assert kl == pytest.approx(0, abs=off_by(before, 4))
    torch.testing.assert_close(logits_of(model), before, rtol=0, atol=off_by(before, 4))


KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("dropped", [[0, 2], [2, 3]], ids=str)
def test_a_layer_keeps_its_own_kind_of_attention(
    dropped: list[int], tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Sliding and full layers in one model: what was measured is what is saved."""
    model = tiny_model("qwen3", num_hidden_layers=4, use_sliding_window=True, sliding_window=3, layer_types=KINDS)
    whole = logits_of(model).log_softmax(-1)
    _, kl = drop_layers(model, dropped, TEXTS)
    model.save_pretrained(tmp_path)
    saved = load(tmp_path)
    assert saved.config.layer_types == [kind for i, kind in enumerate(KINDS) if i not in dropped]
    logp = logits_of(saved).log_softmax(-1)
    found = (whole.exp() * (whole - logp)).sum(-1).mean().item()
    assert kl == pytest.approx(found, abs=off_by(whole, 4)) and kl > 0.01


def test_a_silent_layer_is_found_among_several_kinds_of_attention(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("qwen3", num_hidden_layers=4, use_sliding_window=True, sliding_window=3, layer_types=KINDS)
    silence(model.get_decoder().layers[0])
    tolerance = off_by(logits_of(model), 4)
    taken, kl = drop_layers(model, 1, TEXTS)
    assert taken == [0] and kl == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("which, named", [([4], "4"), ([1, -1], "-1"), (4, "leave nothing"), (9, "leave nothing")])
def test_layers_that_are_not_there_are_refused(which: Any, named: str, tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.drop_layers") as caught:
        drop_layers(tiny_model("llama", num_hidden_layers=4), which, TEXTS)
    assert named in str(caught.value)


def test_a_list_of_all_layers_is_refused(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.drop_layers"):
        drop_layers(tiny_model("llama"), [0, 1], TEXTS)


def test_random_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    sizes = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_initial(ModelConfig(config=sizes), tmp_path / name, vocabulary=V, seed=seed)
    a, b, c = (load(tmp_path / name) for name in "abc")
    assert a.config.vocab_size == V and a.config.model_type == "llama"
    assert torch.equal(logits_of(a), logits_of(b)) and not torch.equal(logits_of(a), logits_of(c))


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(save_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot hold the tokenizer's 301 ids"):
        make_initial(ModelConfig(base=str(save_model("llama"))), tmp_path, vocabulary=V + 1)
