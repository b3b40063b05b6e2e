"""The fused loss on hidden states and teachers' heads is that on the distributions which they make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_chain
from torch import Tensor

import workers.student.losses.fused
from workers.logit_map import LogitMap
from workers.student.batches.batching import MicroBatch, collate
from workers.student.config import LossConfig
from workers.student.losses.fused import fused_loss
from workers.student.losses.objective import divergence_of
from workers.student.losses.teacher_states import TeacherStates
from workers.targets.heads import TeacherHead, as_stored, from_stored
from workers.targets.reader import TargetRow

V, IDS, D = 41, 37, 12
"""The student has a few ids more than the tokenizer."""

LOSSES: dict[str, dict[str, Any]] = {
    "forward_kl": {},
    "reverse_kl": {"divergence": "reverse_kl"},
    "jsd": {"divergence": "jsd", "beta": 0.3},
    "skew_kl": {"divergence": "skew_kl"},
    "reverse_skew_kl": {"divergence": "reverse_skew_kl"},
    "total_variation": {"divergence": "total_variation"},
    "alpha_beta": {"divergence": "alpha_beta"},
}
WEIGHTINGS = ["constant", "entropy", "confidence"]


def heads_of(precision: str) -> dict[str, TeacherHead]:
    """Of two teachers: one with a bias and a cap, one of another size and with a scale."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, precision)
    weights = [torch.randn(IDS, H, generator=generator).to(dtype) for H in (6, 10)]
    bias = torch.randn(IDS, generator=generator).to(dtype)
    return {
        "a": TeacherHead(weights[0], bias, LogitMap(cap=4.0)),
        "b": TeacherHead(weights[1], None, LogitMap(scale=0.5)),
    }


def rows_of_both(heads: dict[str, TeacherHead], teachers: str, precision: str) -> tuple[list[TargetRow], ...]:
    """Texts of teachers, with hidden states, and with the distributions that float64 makes of them."""
    rng = np.random.default_rng(1)
    found: tuple[list[TargetRow], ...] = ([], [])
    for i, name in enumerate(teachers):
        head, targets, temperature = heads[name], 3 + 2 * i, 1.0 + i % 2
        hidden = as_stored(torch.from_numpy(rng.normal(size=(targets, head.weight_VH.shape[1]))), precision).numpy()
        bias = 0 if head.bias_V is None else head.bias_V.double()
        z_TV = from_stored(hidden, precision).double() @ head.weight_VH.double().T + bias
        head.logits.apply_(z_TV)
        logp_TV = (z_TV / temperature).log_softmax(-1)
        row = TargetRow(
            prompt_uid=f"p{i}",
            tokens=rng.integers(0, IDS, targets + 2).astype(np.uint32),
            start=2,
            num_kept=np.zeros(0, np.uint16),
            ids=np.zeros(0, np.uint32),
            weights=np.zeros(0, np.float32),
            tail=np.zeros(0, np.float32),
            logprobs=logp_TV.float().numpy(),
            entropy=-(logp_TV.exp() * logp_TV).sum(-1).float().numpy(),
            token_logprob=np.zeros(targets, np.float32),
            temperature=temperature,
        )
        found[0].append(replace(row, logprobs=None, hidden=hidden, precision=precision, teacher=name))
        found[1].append(row)
    return found


def value_and_gradients(batch: MicroBatch, loss: LossConfig, heads: dict[str, TeacherHead]) -> list[Tensor]:
    """Of a student's last hidden states and its head, the loss as it is told: less the least that it can be."""
    generator = torch.Generator().manual_seed(2)
    T = len(batch.targets.labels_T)
    h_TD, W_VD = (torch.randn(n, D, generator=generator).requires_grad_() for n in (T, V))
    value = fused_loss(h_TD, W_VD, None, batch.targets.with_heads(heads), divergence_of(loss))
    value.backward()
    assert h_TD.grad is not None and W_VD.grad is not None
    return [value.detach() - batch.floor, h_TD.grad, W_VD.grad]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_full_targets(
    name: str, weighting: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two teachers in one batch, two temperatures, chunks in which both stand."""
    monkeypatch.setattr(workers.student.losses.fused, "chunk_tokens", lambda *of, **how: 4)
    loss = LossConfig(ce=0.5, weighting=weighting, **LOSSES[name])
    heads = heads_of(precision)
    hidden, full = (collate(rows, loss) for rows in rows_of_both(heads, "aabb", precision))
    assert hidden.floor == 0 and torch.equal(hidden.targets.labels_T, full.targets.labels_T)
    found = [value_and_gradients(batch, loss, heads) for batch in (hidden, full)]
    # Sums one after another: the teacher's logits and softmax, the student's, over ids and over positions.
    largest = max(float(r.abs().max()) for r in found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=of_chain(6, V) * largest)


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(ce=0.5, weighting="confidence")], ids=str)
def test_texts_of_teachers_in_any_order_use_their_own_heads(loss: LossConfig) -> None:
    """A batch of them all is the sum of each text alone: what is asked of the student is the same in both."""
    heads = heads_of("float32")
    rows, _ = rows_of_both(heads, "abab", "float32")
    together, alone = collate(rows, loss), [collate([row], loss) for row in rows]
    made = [batch.targets.with_heads(heads).part(slice(0, 99), torch.float32) for batch in (together, *alone)]
    order = [0, 2, 1, 3]  # texts of one teacher stand together
    for name in ("weights_TK", "soft_T", "hard_T", "entropy_T", "labels_T"):
        parts = [getattr(part, name) for part in made]
        torch.testing.assert_close(parts[0], torch.cat([parts[1 + i] for i in order]), rtol=0, atol=1e-6)
    assert together.texts.lengths == tuple(len(rows[i].tokens) - 1 for i in order)


def test_the_head_makes_one_chunk_at_a_time_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.student.losses.fused, "chunk_tokens", lambda *of, **how: 4)
    heads, asked = heads_of("bfloat16"), []
    make = TeacherHead.make_logits

    def watched(head: TeacherHead, h_nH: Tensor) -> Tensor:
        asked.append(len(h_nH))
        return make(head, h_nH)

    monkeypatch.setattr(TeacherHead, "make_logits", watched)
    rows, _ = rows_of_both(heads, "aab", "bfloat16")
    value_and_gradients(collate(rows, LossConfig()), LossConfig(), heads)
    assert sum(asked) == sum(row.targets for row in rows) and max(asked) <= 4
    for head, before in zip(heads.values(), heads_of("bfloat16").values(), strict=True):
        assert head.weight_VH.dtype == torch.bfloat16 and torch.equal(head.weight_VH, before.weight_VH)
        assert not head.weight_VH.requires_grad


def test_hidden_states_move_and_are_cut_like_all_targets() -> None:
    states = TeacherStates((("a", torch.zeros(3, 6)), ("b", torch.ones(2, 10))))
    assert [(name, len(h)) for name, h in states.part(slice(2, 4)).runs] == [("a", 1), ("b", 1)]
    assert [(name, len(h)) for name, h in states.part(slice(3, 9)).runs] == [("b", 2)]
    assert all(h.dtype == torch.float64 for _, h in states.map(Tensor.double).runs)


def test_labels_alone_need_no_head() -> None:
    loss = LossConfig(kl=0, ce=1)
    rows, _ = rows_of_both(heads_of("float32"), "ab", "float32")
    batch = collate(rows, loss)
    assert batch.targets.states is None
    assert value_and_gradients(batch, loss, {})[0] > 0
