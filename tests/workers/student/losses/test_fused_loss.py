"""The fused head and loss against plain autograd, and against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from support.comparing.tolerances import of_chain, of_sums
from torch import Tensor

from workers.student.losses.fused import HeadTargets, fused_loss


def fused_cross_entropy(
    h_TD: Tensor,
    W_VD: Tensor,
    b_V: Tensor | None,
    ids_TK: Tensor | None,
    w_TK: Tensor,
    tail_T: Tensor | None = None,
    heat_T: Tensor | None = None,
) -> Tensor:
    """The linear loss at temperature T with its factor T^2, and no labels."""
    none_T = torch.zeros(len(h_TD))
    soft_T = heat_T**2 if heat_T is not None else none_T + 1
    targets = HeadTargets(none_T.long(), none_T, soft_T, ids_TK, w_TK, tail_T, None, heat_T)
    return fused_loss(h_TD, W_VD, b_V, targets)


def reference(h_TD: Tensor, W_VD: Tensor, b_V: Tensor | None, ids_TK: Tensor | None, w_TK: Tensor) -> Tensor:
    """The same loss with the whole [T, V] matrix and torch's own gradient."""
    logp_TV = torch.nn.functional.linear(h_TD, W_VD, b_V).log_softmax(-1)
    return -(w_TK * (logp_TV[:, : w_TK.shape[1]] if ids_TK is None else logp_TV.gather(1, ids_TK))).sum()


def targets(kind: str, T: int, V: int, generator: torch.Generator) -> tuple[Tensor | None, Tensor]:
    if kind == "dense":
        return None, torch.randn(T, V, generator=generator).softmax(-1)
    if kind == "dense over the tokenizer's ids":
        return None, torch.randn(T, V - 9, generator=generator).softmax(-1)
    K = 5
    ids_TK = torch.rand(T, V, generator=generator).argsort(-1)[:, :K]
    w_TK = torch.rand(T, K, generator=generator)  # sums to anything: the gradient keeps the sum as a factor
    w_TK[:, 3:][torch.rand(T, 2, generator=generator) < 0.5] = 0
    if kind == "sparse with an id twice":
        ids_TK[:, 4] = ids_TK[:, 0]
    return ids_TK, w_TK


KINDS = ["sparse", "sparse with an id twice", "dense", "dense over the tokenizer's ids"]


def assert_exact(found: list[list[Tensor | None]], T: int, V: int) -> None:
    """What float32 found is what float64 finds, after four sums: logits, softmax, over ids and over positions."""
    for fused, exact in zip(*found, strict=True):
        assert fused is not None and exact is not None
        tolerance = of_chain(4, max(T, V)) * float(exact.abs().max())
        torch.testing.assert_close(fused.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("T", [1, 511, 512, 513, 1100])
def test_value_and_gradients_are_those_of_autograd(kind: str, bias: bool, T: int) -> None:
    D, V, scale = 12, 41, 0.37
    generator = torch.Generator().manual_seed(T)
    ids_TK, w_TK = targets(kind, T, V, generator)
    leaves = [torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)]
    leaves += [torch.randn(V, generator=generator)] if bias else []
    found = []
    for loss_of, dtype in ((fused_cross_entropy, torch.float32), (reference, torch.float64)):
        own = [x.clone().to(dtype).requires_grad_() for x in leaves]
        loss = loss_of(own[0], own[1], own[2] if bias else None, ids_TK, w_TK.to(dtype))
        (loss * scale).backward()
        found.append([loss.detach(), *(x.grad for x in own)])
    assert_exact(found, T, V)


def coarse_reference(h: Tensor, W: Tensor, ids: Tensor, w: Tensor, tail: Tensor, temperature: Tensor) -> Tensor:
    """K + 1 outcomes at a temperature, by whole matrices and torch's own gradient."""
    q_TV = (h @ W.T / temperature[:, None]).softmax(-1)
    beyond_T = q_TV.scatter(1, ids, 0).sum(-1)
    each_T = (w * q_TV.gather(1, ids).log()).sum(-1) + torch.where(tail > 0, tail * beyond_T.log(), 0)
    return -(temperature**2 * each_T).sum()


@pytest.mark.parametrize("T", [1, 513])
def test_tail_and_temperature_are_those_of_autograd(T: int) -> None:
    D, V, K = 12, 41, 5
    generator = torch.Generator().manual_seed(T)
    ids, w = targets("sparse", T, V, generator)
    assert ids is not None
    w, tail = w * 0.2, torch.rand(T, generator=generator)
    ids[:, K - 1], w[:, K - 1] = ids[:, 0], 0  # padding repeats an id
    tail[::3] = 0  # a label: its position has no tail
    temperature = torch.tensor([1.0, 2.0, 0.5, 3.0]).repeat(T)[:T]
    leaves = [torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)]
    found = []
    for dtype in (torch.float32, torch.float64):
        h, W = (x.clone().to(dtype).requires_grad_() for x in leaves)
        typed = [x.to(dtype) for x in (w, tail, temperature)]
        if dtype == torch.float32:
            loss = fused_cross_entropy(h, W, None, ids, *typed)
        else:
            loss = coarse_reference(h, W, ids, *typed)
        loss.backward()
        found.append([loss.detach(), h.grad, W.grad])
    assert_exact(found, T, V)


def test_a_tail_is_learned_and_naive_top_k_is_not() -> None:
    """The gradient at the teacher itself: zero with the tail, and towards an overconfident head without it."""
    p_V = torch.tensor([6.0, 3.5, 1.0, -1.0]).softmax(-1)
    ids, w, tail = torch.tensor([[0, 1]]), p_V[None, :2], p_V[2:].sum()[None]
    z_1V = p_V.log()[None].requires_grad_()
    fused_cross_entropy(z_1V, torch.eye(4), None, ids, w, tail).backward()
    assert z_1V.grad is not None and z_1V.grad.abs().max() < of_sums(4)
    z_1V.grad = None
    fused_cross_entropy(z_1V, torch.eye(4), None, ids, w).backward()
    assert z_1V.grad is not None and (z_1V.grad[0, 2:] > 1e-4).all()


def test_a_tail_of_no_ids_is_nothing() -> None:
    """Every id is kept: nothing is beyond, and the loss is the full one."""
    z_TV = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    w_TV = torch.rand(3, 6).softmax(-1)
    everything = torch.arange(6).expand(3, 6)
    loss = fused_cross_entropy(z_TV, torch.eye(6), None, everything, w_TV, torch.zeros(3))
    loss.backward()
    full = fused_cross_entropy(z_TV.detach(), torch.eye(6), None, everything, w_TV)
    assert loss.item() == pytest.approx(full.item(), rel=of_sums(18))
    assert z_TV.grad is not None and torch.isfinite(z_TV.grad).all()


def test_the_size_of_gradients_does_not_depend_on_the_temperature() -> None:
    """High-temperature limit: the loss's gradient becomes that of the logits' difference over V (Hinton 2015)."""
    V = 8
    generator = torch.Generator().manual_seed(3)
    teacher, z = torch.randn(1, V, generator=generator), torch.randn(1, V, generator=generator).requires_grad_()
    teacher, temperature = teacher - teacher.mean(), torch.tensor([200.0])
    fused_cross_entropy(z, torch.eye(V), None, None, (teacher / 200).softmax(-1), None, temperature).backward()
    expected = (z.detach() - z.detach().mean() - teacher) / V
    assert z.grad is not None and torch.allclose(z.grad, expected, atol=2e-3)


def test_float64_inputs_keep_their_type() -> None:
    h, W = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(7, 4, dtype=torch.float64)
    fused_cross_entropy(h, W, None, torch.tensor([[1], [2], [3]]), torch.ones(3, 1)).backward()
    assert h.grad is not None and h.grad.dtype == torch.float64


def test_forward_kl_and_its_gradient_in_closed_form() -> None:
    """Teacher logits (6, 3.5, 1, -1), student logits (4, 3, .5, -.5): KL and gradient worked out by hand."""
    p_V = torch.tensor([6.0, 3.5, 1.0, -1.0]).softmax(-1)
    z_1V = torch.tensor([[4.0, 3.0, 0.5, -0.5]], requires_grad=True)
    expected = torch.tensor([-0.20802482, 0.18573249, 0.01524585, 0.00704648])
    for ids in (None, torch.arange(4)[None]):
        z_1V.grad = None
        cross_entropy = fused_cross_entropy(z_1V, torch.eye(4), None, ids, p_V[None])
        cross_entropy.backward()
        kl = cross_entropy.detach() + (p_V * p_V.log()).sum()
        # A handful of roundings of numbers below 5.
        assert float(kl) == pytest.approx(0.13272258, abs=5 * of_sums(4))
        assert z_1V.grad is not None and torch.allclose(z_1V.grad[0], expected, atol=5 * of_sums(4))


def test_the_gradient_in_the_logits_is_mass_times_softmax_minus_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    z_TV = (torch.randn(6, 9, generator=generator) * 3).requires_grad_()
    w_TV = torch.rand(6, 9, generator=generator) * torch.tensor([0.0, 0.1, 1.0, 1.5, 2.0, 40.0])[:, None]
    fused_cross_entropy(z_TV, torch.eye(9), None, None, w_TV).backward()
    expected = w_TV.sum(-1, keepdim=True) * z_TV.detach().softmax(-1) - w_TV
    tolerance = of_sums(9) * float(w_TV.sum(-1).max())
    assert z_TV.grad is not None and torch.allclose(z_TV.grad, expected, rtol=0, atol=tolerance)
    assert z_TV.grad.sum(-1).abs().max() < tolerance
    assert (z_TV.grad[0] == 0).all()  # a position of weight 0 captures nothing


def test_one_weighted_id_is_plain_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(1)
    h, W = torch.randn(20, 8, generator=generator), torch.randn(30, 8, generator=generator)
    labels = torch.randint(0, 30, (20,), generator=generator)
    expected = torch.nn.functional.cross_entropy(h @ W.T, labels, reduction="sum")
    assert torch.allclose(fused_cross_entropy(h, W, None, labels[:, None], torch.ones(20, 1)), expected)


def test_large_logits_do_not_overflow() -> None:
    h, W = torch.full((1, 1), 1e4, requires_grad=True), torch.tensor([[1.0], [2.0], [-3.0]])
    loss = fused_cross_entropy(h, W, None, torch.tensor([[0]]), torch.ones(1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(1e4) and h.grad is not None and h.grad.item() == pytest.approx(1.0)


def test_no_tokens_are_no_loss() -> None:
    W = torch.randn(5, 3, requires_grad=True)
    loss = fused_cross_entropy(torch.zeros(0, 3), W, None, torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    loss.backward()
    assert loss.item() == 0 and W.grad is not None and (W.grad == 0).all()


def test_bfloat16_is_close() -> None:
    generator = torch.Generator().manual_seed(2)
    h, W = torch.randn(600, 16, generator=generator), torch.randn(50, 16, generator=generator) * 0.3
    ids, w = targets("sparse", 600, 50, generator)
    exact = reference(h.double(), W.double(), None, ids, w.double())
    found = fused_cross_entropy(h.bfloat16(), W.bfloat16(), None, ids, w)
    # Of each weight and each hidden state eight bits are kept, so that a product is off by twice 2^-9 on average.
    assert found.item() == pytest.approx(exact.item(), rel=0.01)
