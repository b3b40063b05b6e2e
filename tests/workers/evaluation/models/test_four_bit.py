"""The teacher at 4 bit: what rounding does to numbers, and which weights of a model it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.model_families import DENSE

from workers.evaluation.cost import RoundedWeights
from workers.evaluation.models.cuttable import ROUNDED, why_not_rounded
from workers.evaluation.models.four_bit import round_matrix, round_to_4_bit
from workers.quantise.lattice import GROUP

STEP_ROUNDING = 2.0**-11
"""Of a step in 16 bits, relatively; of a number of 8 steps that is .004 of one."""

IDS = torch.arange(3, 15)[None]


def rounded(weight_OI: torch.Tensor) -> torch.Tensor:
    copy = weight_OI.clone()
    round_matrix(copy)
    return copy


def groups(weight_OI: torch.Tensor) -> list[torch.Tensor]:
    return [group for row in weight_OI for group in row.split(GROUP)]


@pytest.mark.parametrize("inputs", [1, 31, 32, 33, 96, 250])
def test_a_number_loses_half_a_step_at_most(inputs: int) -> None:
    """But beyond 7.5 steps on the side that has no eighth."""
    weight_OI = torch.randn(40, inputs, generator=torch.Generator().manual_seed(inputs))
    found_OI, clipped = rounded(weight_OI), 0
    for before, after in zip(groups(weight_OI), groups(found_OI), strict=True):
        largest = before[before.abs().argmax()]
        step, lost = (largest.abs() / 8).item(), (after - before).abs()
        beyond = before * -largest.sign() > 7.5 * step
        assert lost[~beyond].max() <= step * (0.5 + 8 * STEP_ROUNDING)
        assert not beyond.any() or lost[beyond].max() <= step * (1 + 8 * STEP_ROUNDING)
        assert len(after.unique()) <= 16 and after[before.abs().argmax()] == largest.sign() * after.abs().max()
        clipped += int(beyond.sum())
    assert clipped < 0.02 * weight_OI.numel(), "of a normal distribution, few"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_rounded_stays_as_it_is(dtype: torch.dtype) -> None:
    weight_OI = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    once_OI = rounded(weight_OI)
    assert not torch.equal(once_OI, weight_OI) and torch.equal(rounded(once_OI), once_OI)


def test_a_group_of_zeros_stays_one_and_a_group_does_not_feel_another() -> None:
    weight_OI = torch.zeros(3, 2 * GROUP + 5)
    weight_OI[1, :GROUP], weight_OI[2, GROUP:-5] = 32768, torch.linspace(-1, 1, GROUP)
    found_OI = rounded(weight_OI)
    assert not found_OI[0].any() and not found_OI[1, GROUP:].any() and not found_OI[:, -5:].any()
    alone = rounded(weight_OI[2:, GROUP:-5].clone())
    assert torch.equal(found_OI[2:, GROUP:-5], alone) and found_OI.isfinite().all()
    assert torch.equal(found_OI[1, :GROUP], weight_OI[1, :GROUP]), "all alike are eight steps each"


def test_a_matrix_in_pieces_is_rounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OI = torch.randn(50, 70, generator=torch.Generator().manual_seed(0))
    whole = rounded(weight_OI)
    monkeypatch.setattr("workers.evaluation.models.four_bit._AT_ONCE", 3 * 70)
    assert torch.equal(rounded(weight_OI), whole)


KEPT = ("embed_tokens", "lm_head", "norm", ".gate.weight", "router", "shared_expert_gate", "bias", "sinks")
"""Parts of the names of what stays as it is."""


SMALL: dict[str, dict[str, Any]] = {
    "flex_olmo": {"num_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 8, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 32},
}


@pytest.mark.parametrize("family", [*ROUNDED, *DENSE])
def test_linear_weights_and_experts_are_rounded_along_their_inputs_and_nothing_else_is(
    family: str, tiny_model: Callable[..., Any]
) -> None:
    """By what is left: the numbers that a group along the inputs has are 16 at most."""
    model = tiny_model(family, **SMALL.get(family, {}))
    assert why_not_rounded(model.config.to_dict()) is None
    before, logits = {n: p.clone() for n, p in model.named_parameters()}, model(IDS).logits
    found = round_to_4_bit(model)
    changed = groups_of = 0
    for name, parameter in model.named_parameters():
        if any(part in name for part in KEPT):
            assert torch.equal(parameter, before[name]), name
            continue
        assert not torch.equal(parameter, before[name]), name
        by_input = parameter.mT if family == "gpt_oss" and ".experts." in name else parameter
        by_input = by_input.reshape(-1, by_input.shape[-1])
        assert all(len(group.unique()) <= 16 for group in groups(by_input)), name
        changed += parameter.numel()
        groups_of += len(groups(by_input))
    total = sum(p.numel() for p in model.parameters())
    assert found == RoundedWeights(total, changed, changed // 2 + 2 * groups_of + 2 * (total - changed), 2 * total)
    assert found == RoundedWeights.from_bytes(found.to_bytes()) and changed > 0.3 * total
    assert 0 < (model(IDS).logits - logits).std() < logits.std(), "near, and another one"


def test_no_second_model_is_held(tiny_model: Callable[..., Any]) -> None:
    """Weights stay where they are."""
    model = tiny_model("mixtral")
    places = [p.data_ptr() for p in model.parameters()]
    round_to_4_bit(model)
    assert [p.data_ptr() for p in model.parameters()] == places


def test_a_model_without_linear_weights_is_refused() -> None:
    class Bare(torch.nn.Module):
        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(ValueError, match="teacher_4bit found no linear weights to round in Bare"):
        round_to_4_bit(Bare())
