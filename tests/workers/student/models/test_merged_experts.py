"""Dense students made of mixtures of experts: what is kept, what is exact, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_logits, of_sums
from support.initial.weights import make_initial
from support.initial.whole_mixture import mean_kl

from orchestrator.preflight.memory import student_size
from workers.streaming.layered_model import LayeredModel
from workers.student.config import ModelConfig
from workers.student.models.continued import continued
from workers.student.models.dense_sibling import SIBLINGS, dense_config, why_not_merge
from workers.student.models.merged_experts import (
    Merge,
    average,
    begin_all,
    experts_of,
    merge_experts,
    neurons,
    watch,
)

V = 300
QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart"
TEXTS = np.random.default_rng(0).integers(3, V, (8, 24)).tolist()
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"norm_topk_prob": True, "attention_bias": True},
    "mixtral": {"sliding_window": 5, "head_dim": None, "rms_norm_eps": 1e-3},
    "granitemoe": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "flex_olmo": {"norm_topk_prob": True, "num_experts": 8, "num_experts_per_tok": 2},
}
CASES = [*FAMILIES.items(), ("qwen3_moe", {"norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 5})]
IDS = [*FAMILIES, "qwen3_moe-sliding"]


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor(TEXTS), use_cache=False).logits


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def seen_by(moe: Any, texts: list[list[int]]) -> list[Any]:
    """What each layer's experts saw of texts."""
    mixture, every = LayeredModel(moe), list(range(len(texts)))
    calls = begin_all(mixture, texts)
    return [watch(layer, index, calls, every) for index, layer in mixture.layers()]


def merged(moe: Any, how: str, width: int | None, texts: list[list[int]], folder: Path) -> tuple[Any, dict[str, Any]]:
    """A mixture made dense, and what was found out about it."""
    (found,) = merge_experts(LayeredModel(moe), [Merge(how, width, texts)], folder / how)
    return found.files.load(), found.facts


@torch.no_grad()
def make_alike(moe: Any) -> None:
    """All experts of a layer become its first."""
    for layer in moe.get_decoder().layers:
        experts = experts_of(layer)
        for weight in (experts.gate_up_proj, experts.down_proj):
            weight.copy_(weight[:1].clone().expand_as(weight))


@torch.no_grad()
def shake_norms(moe: Any) -> None:
    """Norms that are not all ones, so that one that is left out or put elsewhere is seen."""
    for name, parameter in moe.named_parameters():
        if "norm" in name:
            parameter.mul_(torch.rand_like(parameter) + 0.5)


# Exact --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, sizes", CASES, ids=IDS)
def test_experts_that_are_all_one_make_a_dense_model_of_equal_logits(
    family: str, sizes: dict[str, Any], tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    moe = tiny_model(family, **sizes)
    make_alike(moe)
    shake_norms(moe)
    moe.save_pretrained(tmp_path / "moe")
    config = ModelConfig(merge_experts=str(tmp_path / "moe"), merge="average")
    facts = make_initial(config, tmp_path / "dense", vocabulary=V, texts=TEXTS)
    dense, whole = load(tmp_path / "dense"), load(tmp_path / "moe")
    assert dense.config.model_type == SIBLINGS[family] and not hasattr(dense.config, "num_experts")
    assert whole.config.model_type == family and logits_of(whole).std() > 0.1
    expected = logits_of(whole)
    tolerance = of_logits(expected.abs().max())
    torch.testing.assert_close(logits_of(dense), expected, rtol=0, atol=tolerance)
    assert facts["kl_to_mixture"] == pytest.approx(0, abs=tolerance)
    assert facts["parameters"] == sum(p.numel() for p in dense.parameters())
    on_disk = json.loads((tmp_path / "moe" / "config.json").read_text())
    assert student_size(config, tmp_path / "moe", on_disk, V) == pytest.approx(facts["parameters"], rel=0.02)


def test_the_sliding_windows_of_these_tests_are_felt(tiny_model: Callable[..., Any]) -> None:
    for family, sizes in (("mixtral", {}), ("qwen3_moe", {"use_sliding_window": True})):
        near, far = (tiny_model(family, **sizes, sliding_window=window) for window in (5, 50))
        assert (logits_of(near) - logits_of(far)).abs().max() > 1e-3


@pytest.mark.parametrize("family, sizes", CASES, ids=IDS)
def test_all_neurons_of_experts_that_all_tokens_use_alike_are_the_mixture(
    family: str, sizes: dict[str, Any], tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing is chosen and nothing is left to fit: routers that see no difference, and room for every neuron."""
    experts = 8 if family in ("qwen3_moe", "flex_olmo") else 4
    moe = tiny_model(family, **{**sizes, "num_experts_per_tok": experts})
    with torch.no_grad():
        for name, parameter in moe.named_parameters():
            if name.endswith(("gate.weight", "router.weight")):
                parameter.zero_()
    dense, facts = merged(moe, "neurons", None, TEXTS, tmp_path)
    assert facts["merged_width"] == dense.config.intermediate_size == experts * 48
    assert facts["routing_entropy"] == [1.0, 1.0]
    expected = logits_of(moe)
    tolerance = of_logits(expected.abs().max(), width=experts * 48)
    torch.testing.assert_close(logits_of(dense), expected, rtol=0, atol=tolerance)


# Measured -----------------------------------------------------------------------------------------------------------


def test_weights_are_those_that_the_routers_gave(tiny_moe: Path) -> None:
    """Against the routers' own logits, softmax and top two by hand."""
    moe = load(tiny_moe)
    seen = seen_by(moe, TEXTS[:3])
    for i, layer in enumerate(moe.get_decoder().layers):
        with torch.no_grad():
            logits_NE = torch.cat(
                [moe(input_ids=torch.tensor([t]), output_router_logits=True).router_logits[i] for t in TEXTS[:3]]
            )
        top = logits_NE.softmax(-1).topk(2)
        values = top.values / top.values.sum(-1, keepdim=True) if moe.config.norm_topk_prob else top.values
        expected = torch.zeros_like(logits_NE).scatter(1, top.indices, values).mean(0)
        # Weights are exponentials: relative errors that are those of the logits.
        torch.testing.assert_close(seen[i].mean_weights(8), expected, rtol=of_logits(logits_NE.abs().max()), atol=0)
        assert len(seen[i].x_ND) == 72 and expected.max() > 2 * expected.min()
        assert not experts_of(layer)._forward_hooks


def test_an_average_is_weighted_by_routing_frequency(tiny_moe: Path) -> None:
    moe = load(tiny_moe)
    experts, seen = experts_of(moe.get_decoder().layers[0]), seen_by(moe, TEXTS)[0]
    weights = seen.mean_weights(8)
    mlp = average(experts, seen)
    gate = sum(float(w) * experts.gate_up_proj[e, :48] for e, w in enumerate(weights)) / float(weights.sum())
    down = sum(float(w) * experts.down_proj[e] for e, w in enumerate(weights))
    for found, expected in ((mlp.gate_WD, gate.detach()), (mlp.down_DW, down.detach())):
        # Eight products with shares, which are quotients of sums; no weight is as large as 2.
        torch.testing.assert_close(found, expected, rtol=0, atol=2 * of_sums(16))


def test_neurons_that_put_nothing_out_are_left_out(tiny_moe: Path) -> None:
    """Experts 3 to 7 are silent: the neurons of the first three are all that is taken, and all are."""
    moe = load(tiny_moe)
    with torch.no_grad():
        for layer in moe.get_decoder().layers:
            experts_of(layer).down_proj[3:] = 0
    layer = moe.get_decoder().layers[1]
    mlp = neurons(experts_of(layer), seen_by(moe, TEXTS)[1], 3 * 48)
    torch.testing.assert_close(mlp.gate_WD, experts_of(layer).gate_up_proj[:3, :48].reshape(144, 64))
    torch.testing.assert_close(mlp.up_WD, experts_of(layer).gate_up_proj[:3, 48:].reshape(144, 64))


def test_a_fit_is_closer_to_the_layer_than_the_experts_own_weights(tiny_moe: Path) -> None:
    moe = load(tiny_moe)
    experts, seen = experts_of(moe.get_decoder().layers[1]), seen_by(moe, TEXTS)[1]
    missed = {}
    for width in (24, 96):
        with torch.no_grad():
            mlp = neurons(experts, seen, width)
            hidden = experts.act_fn(seen.x_ND @ mlp.gate_WD.T) * (seen.x_ND @ mlp.up_WD.T)
            missed[width] = float((seen.y_ND - hidden @ mlp.down_DW.T).square().mean())
    assert missed[96] < missed[24] < float(seen.y_ND.square().mean())


def test_neurons_keep_far_more_of_a_trained_mixture_than_the_average_of_its_experts(tmp_path: Path) -> None:
    """The quickstart's teacher, whose experts learned different things, on its own answers."""
    from transformers import AutoTokenizer

    moe, tokenizer = load(QUICKSTART / "teacher"), AutoTokenizer.from_pretrained(QUICKSTART / "teacher")
    rows = [json.loads(row) for row in (QUICKSTART / "prompts" / "medical.jsonl").read_text().splitlines()]
    asked = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows if "answer" not in row]
    (texts,) = continued(LayeredModel(moe), [(asked[:48], 0)], 40)
    width = moe.config.moe_intermediate_size
    _, average_facts = merged(moe, "average", None, texts, tmp_path)
    _, neurons_facts = merged(moe, "neurons", width, texts, tmp_path)
    assert average_facts["merged_width"] == neurons_facts["merged_width"] == width
    assert 10 * neurons_facts["kl_to_mixture"] < average_facts["kl_to_mixture"] and neurons_facts["kl_to_mixture"] < 0.3
    assert merged(moe, "auto", None, texts, tmp_path)[1]["merged"] == "neurons"


def test_auto_takes_the_average_of_experts_that_are_nearly_copies(tiny_moe: Path, tmp_path: Path) -> None:
    moe = load(tiny_moe)
    make_alike(moe)
    with torch.no_grad():
        for layer in moe.get_decoder().layers:
            experts_of(layer).down_proj.add_(0.001 * torch.randn_like(experts_of(layer).down_proj))
    dense, facts = merged(moe, "auto", None, TEXTS, tmp_path)
    assert facts["merged"] == "average" and dense.config.intermediate_size == facts["merged_width"] == 48
    assert facts["kl_to_mixture"] == facts["kl_of_merges"]["average"] < facts["kl_of_merges"]["neurons"]


def test_a_merge_of_the_same_mixture_on_the_same_prompts_is_the_same(tiny_moe: Path, tmp_path: Path) -> None:
    prompts = [text[:6] for text in TEXTS]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = ModelConfig(merge_experts=str(tiny_moe))
        make_initial(config, tmp_path / name, vocabulary=V, seed=seed, prompts=prompts)
    a, b, c = (logits_of(load(tmp_path / name)) for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_layers_are_dropped_by_the_kl_to_the_mixture(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    moe = tiny_model("qwen3_moe", num_hidden_layers=4)
    with torch.no_grad():
        silent = moe.get_decoder().layers[2]
        silent.self_attn.o_proj.weight.zero_()
        experts_of(silent).down_proj.zero_()
    moe.save_pretrained(tmp_path / "moe")
    config = ModelConfig(merge_experts=str(tmp_path / "moe"), drop_layers=1)
    facts = make_initial(config, tmp_path / "dense", vocabulary=V, texts=TEXTS)
    dense = load(tmp_path / "dense")
    assert facts["dropped_layers"] == [2] and facts["layers"] == dense.config.num_hidden_layers == 3
    longest = sorted(TEXTS, key=len)[-4:]
    moe = load(tmp_path / "moe")
    tolerance = of_logits(logits_of(moe).abs().max(), layers=4)
    assert facts["kl_to_base"] == pytest.approx(mean_kl(moe, dense, longest), abs=tolerance)


# Answers ------------------------------------------------------------------------------------------------------------


def test_prompts_are_continued_as_each_alone_would_be(tiny_model: Callable[..., Any]) -> None:
    """Padding on the left changes nothing: every sampled token is likely in its own text, and a stop ends it."""
    model = tiny_model("qwen3_moe", initializer_range=2.0)  # so sure of itself that sampling is nearly greedy
    prompts = [TEXTS[0][:9], TEXTS[1][:2], TEXTS[2][:5]]
    (found,) = continued(LayeredModel(model), [(prompts, 0)], 12)
    model.generation_config.eos_token_id = [found[0][12]]
    for prompt, text in zip(prompts, found, strict=True):
        assert text[: len(prompt)] == prompt
        with torch.no_grad():
            p_SV = model(input_ids=torch.tensor([text])).logits[0].softmax(-1)
        chosen = [float(p_SV[i - 1, text[i]]) for i in range(len(prompt), len(text))]
        assert np.mean(chosen) > 0.5
    (again,) = continued(LayeredModel(model), [(prompts, 0)], 12)
    assert again[0] == found[0][:13]
    assert continued(LayeredModel(model), [([], 0)], 12) == [[]]


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss", "deepseek_v3", "phimoe"])
def test_a_family_without_a_dense_sibling_is_refused_with_its_reason(family: str) -> None:
    reason = why_not_merge({"model_type": family})
    assert reason is not None and family in reason and "no dense sibling" in reason
    with pytest.raises(ValueError, match=family):
        dense_config({"model_type": family}, 8)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"mlp_only_layers": [0]}, "another width"),
        ({"decoder_sparse_step": 2}, "another width"),
        ({"model_type": "dbrx"}, "not among the tested"),
    ],
)
def test_what_a_supported_family_cannot_do_is_refused(settings: dict[str, Any], word: str) -> None:
    known = {"model_type": "qwen3_moe", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    assert why_not_merge(known) is None
    assert word in str(why_not_merge(known | settings))


def test_more_neurons_than_there_are_is_refused(tiny_moe: Path, tmp_path: Path) -> None:
    config = ModelConfig(merge_experts=str(tiny_moe), merge="neurons", merged_width=8 * 48 + 1)
    with pytest.raises(ValueError, match=r"model\.merged_width: 385 neurons.*384"):
        make_initial(config, tmp_path, vocabulary=V, texts=TEXTS)


def test_the_configuration_on_disk_says_what_the_loaded_one_says(tiny_moe: Path) -> None:
    """So that the plan, which loads nothing, and the merge agree."""
    on_disk = json.loads((tiny_moe / "config.json").read_text())
    assert dense_config(on_disk, 96) == dense_config(load(tiny_moe).config.to_dict(), 96)
