"""Every divergence against numbers worked out by hand, its identities, and through the fused head against autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from support.comparing.tolerances import of_chain, unit_roundoff
from torch import Tensor

from workers.logit_map import LogitMap
from workers.student.losses import divergences as losses
from workers.student.losses.config import LossConfig
from workers.student.losses.fused import HeadTargets, fused_loss, loss_of_logits
from workers.student.losses.objective import divergence_of

Divergence = Callable[[Tensor, Tensor], Tensor]

TEACHER, STUDENT = [6.0, 3.5, 1.0, -1.0], [4.0, 3.0, 0.5, -0.5]
# Worked out apart from the project, by numpy and finite differences.
KNOWN: dict[str, tuple[Divergence, float, list[float] | None]] = {
    "forward KL": (losses.forward_kl, 0.13272258, [-0.20802482, 0.18573249, 0.01524585, 0.00704648]),
    "reverse KL": (losses.reverse_kl, 0.18636113, [-0.3146773, 0.2758239, 0.0226410, 0.0162124]),
    "JSD .5": (partial(losses.generalized_jsd, beta=0.5), 0.03766892, None),
    "JSD .1": (partial(losses.generalized_jsd, beta=0.1), 0.01220529, None),
    "JSD .9": (partial(losses.generalized_jsd, beta=0.9), 0.01586546, None),
    "skew": (partial(losses.skew_kl, alpha=0.1), 0.11230270, [-0.1763527, 0.1573124, 0.0129130, 0.0061274]),
    "reverse skew": (
        *(partial(losses.reverse_skew_kl, alpha=0.1), 0.13555756),
        [-0.2200645, 0.1951839, 0.0160217, 0.0088589],
    ),
    "total variation": (losses.total_variation, 0.20802482, None),
    "alpha-beta": (
        *(partial(losses.alpha_beta, alpha=0.2, beta=0.7), 0.20828059),
        [-0.3304133, 0.2783019, 0.0305051, 0.0216064],
    ),
}
EACH = pytest.mark.parametrize("name", KNOWN)


def value_and_gradient(divergence: Divergence, p_TV: Tensor, z_TV: Tensor) -> tuple[Tensor, Tensor]:
    z_TV = z_TV.clone().requires_grad_()
    value_T = divergence(p_TV, z_TV.log_softmax(-1))
    (grad_TV,) = torch.autograd.grad(value_T.sum(), z_TV)
    return value_T.detach(), grad_TV


def some(T: int, V: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Teacher's probabilities and student's logits, float64."""
    generator = torch.Generator().manual_seed(seed)
    p, z = (2 * torch.randn(T, V, generator=generator, dtype=torch.float64) for _ in range(2))
    return p.softmax(-1), z


@EACH
def test_values_and_gradients_are_those_worked_out_by_hand(name: str) -> None:
    divergence, value, gradient = KNOWN[name]
    p, z = torch.tensor([TEACHER], dtype=torch.float64).softmax(-1), torch.tensor([STUDENT], dtype=torch.float64)
    found, grad = value_and_gradient(divergence, p, z)
    assert found.item() == pytest.approx(value, abs=1e-7)
    if gradient is not None:
        torch.testing.assert_close(grad[0], torch.tensor(gradient, dtype=torch.float64), atol=1e-6, rtol=0)


def test_gradients_are_the_formulas_of_the_docstrings() -> None:
    p, z = some(40, 9)
    q = z.softmax(-1)

    def centred(c: Tensor) -> Tensor:
        return q * (c - (q * c).sum(-1, keepdim=True))

    m, s, r = 0.3 * p + 0.7 * q, 0.1 * p + 0.9 * q, 0.9 * p + 0.1 * q
    w = 0.9 * p * q / s
    expected = {
        "forward": (losses.forward_kl, q - p),
        "reverse": (losses.reverse_kl, centred((q / p).log())),
        "jsd": (partial(losses.generalized_jsd, beta=0.3), 0.7 * centred((q / m).log())),
        "skew": (partial(losses.skew_kl, alpha=0.1), q * w.sum(-1, keepdim=True) - w),
        "reverse skew": (partial(losses.reverse_skew_kl, alpha=0.1), centred((q / r).log() + 1 - 0.1 * q / r)),
        "total variation": (losses.total_variation, centred((q - p).sign()) / 2),
        "alpha-beta": (
            partial(losses.alpha_beta, alpha=0.2, beta=0.7),
            centred(-(p**0.2 * q**-0.3 - q**-0.1) / 0.2),
        ),
    }
    for name, (divergence, gradient) in expected.items():
        _, grad = value_and_gradient(divergence, p, z)
        torch.testing.assert_close(grad, gradient, atol=1e-10, rtol=1e-8, msg=name)


@EACH
def test_a_divergence_is_0_where_both_agree_and_positive_elsewhere(name: str) -> None:
    divergence, _, _ = KNOWN[name]
    p, z = some(50, 12)
    same, flat = value_and_gradient(divergence, p, p.log())
    assert same.abs().max() < 1e-12
    if name != "total variation":  # which has a corner there
        assert flat.abs().max() < 1e-9
    found, grad = value_and_gradient(divergence, p, z)
    assert (found > 0).all() and grad.sum(-1).abs().max() < 1e-12


@EACH
def test_outcomes_as_one_never_tell_more_than_apart(name: str) -> None:
    """Data processing: the value on K ids and the rest is at most the whole one, and grows with K."""
    divergence, _, _ = KNOWN[name]
    if name == "alpha-beta":
        return  # it is no f-divergence
    p, z = some(60, 12)
    q, last = z.softmax(-1), torch.zeros(60, dtype=torch.float64)
    order = p.argsort(-1, descending=True)
    for K in (1, 3, 8, 12):
        ids = order[:, :K]
        coarse = [torch.cat([x.gather(1, ids), x.scatter(1, ids, 0).sum(-1, keepdim=True)], 1) for x in (p, q)]
        value = divergence(coarse[0], coarse[1].clamp_min(1e-300).log())
        assert (value >= last - 1e-12).all()
        last = value
    assert torch.allclose(last, divergence(p, z.log_softmax(-1)))


def test_the_ends_of_each_family_are_the_two_kls() -> None:
    p, z = some(30, 9)
    forward, reverse = (value_and_gradient(d, p, z) for d in (losses.forward_kl, losses.reverse_kl))
    tiny = 1e-7
    ends: list[tuple[Divergence, tuple[Tensor, Tensor]]] = [
        (partial(losses.generalized_jsd, beta=tiny, normalised=True), forward),
        (partial(losses.generalized_jsd, beta=1 - tiny, normalised=True), reverse),
        (partial(losses.generalized_jsd, beta=0, normalised=True), forward),
        (partial(losses.generalized_jsd, beta=1, normalised=True), reverse),
        (partial(losses.skew_kl, alpha=0), forward),
        (partial(losses.reverse_skew_kl, alpha=0), reverse),
        (partial(losses.alpha_beta, alpha=1, beta=0), forward),
        (partial(losses.alpha_beta, alpha=1, beta=1e-6), forward),
        (partial(losses.alpha_beta, alpha=0, beta=1), reverse),
        (partial(losses.alpha_beta, alpha=1e-6, beta=1), reverse),
    ]
    for divergence, expected in ends:
        for found, exact in zip(value_and_gradient(divergence, p, z), expected, strict=True):
            torch.testing.assert_close(found, exact, atol=1e-3, rtol=1e-3, msg=str(divergence))


@EACH
def test_probabilities_of_0_are_finite(name: str) -> None:
    divergence, _, _ = KNOWN[name]
    p = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])
    for z in ([0.0, 0, 0], [80.0, 0, -80], [-1e4, 0, 0]):
        value, grad = value_and_gradient(divergence, p, torch.tensor([z, z]))
        assert torch.isfinite(value).all() and torch.isfinite(grad).all(), z


# Through the fused head -------------------------------------------------------------------------------------


def coarse_loss(z: Tensor, t: HeadTargets, divergence: Divergence | None) -> Tensor:
    """The loss as fused.py describes it, position by position, with whole matrices and torch's own gradient."""
    total = z.new_zeros(())
    assert t.weights_TK is not None and t.soft_T is not None
    for i in range(len(z)):
        total = total - t.hard_T[i] * z[i].log_softmax(-1)[t.labels_T[i]]
        q = (z[i] / (t.temperature_T[i] if t.temperature_T is not None else 1)).softmax(-1)
        p = t.weights_TK[i]
        if t.ids_TK is not None:
            kept = t.ids_TK[i] if t.padding_TK is None else t.ids_TK[i][~t.padding_TK[i]]
            p = p if t.padding_TK is None else p[~t.padding_TK[i]]
            beyond = torch.ones(len(q), dtype=torch.bool).scatter(0, kept, False)
            rest, q = q[beyond].sum(), q[kept]
            if t.tail_T is not None:
                p, q = torch.cat([p, t.tail_T[i : i + 1]]), torch.cat([q, rest[None]])
        elif divergence is not None:
            p = torch.nn.functional.pad(p, (0, len(q) - len(p)))
        else:
            q = q[: len(p)]
        total = total + t.soft_T[i] * (divergence or losses.cross_entropy)(p[None], q.log()[None])[0]
    return total


def head_targets(kind: str, T: int, V: int) -> HeadTargets:
    generator = torch.Generator().manual_seed(5)
    p = (2 * torch.randn(T, V, generator=generator, dtype=torch.float64)).softmax(-1)
    labels, hard, soft = torch.randint(0, V, (T,), generator=generator), torch.rand(T), torch.rand(T) + 0.1
    temperature = torch.tensor([1.0, 2.0, 0.5]).repeat(T)[:T] if "temperature" in kind else None
    if "full" in kind:
        weights = p[:, : V - 3] / p[:, : V - 3].sum(-1, keepdim=True)
        return HeadTargets(labels, hard, soft, None, weights, temperature_T=temperature)
    ids = p.argsort(-1, descending=True)[:, :4].contiguous()
    weights, padding = p.gather(1, ids), None
    if "padding" in kind:
        padding = torch.zeros(T, 4, dtype=torch.bool)
        padding[::2, 2:] = True
        ids[padding], weights[padding] = ids[:, :1].expand(-1, 4)[padding], 0
    tail = 1 - weights.sum(-1)
    return HeadTargets(labels, hard, soft, ids, weights, tail, padding, temperature)


@pytest.mark.parametrize("kind", ["full", "full, temperature", "topk", "topk, temperature", "topk, padding"])
@pytest.mark.parametrize("logits", [LogitMap(), LogitMap(scale=0.3), LogitMap(scale=2.0, cap=1.5)], ids=str)
@pytest.mark.parametrize("name", ["linear", *KNOWN])
def test_every_loss_through_the_fused_head_is_that_of_whole_logits(name: str, logits: LogitMap, kind: str) -> None:
    T, D, V = 7, 6, 13
    generator = torch.Generator().manual_seed(1)
    divergence = KNOWN[name][0] if name in KNOWN else None
    targets = head_targets(kind, T, V)
    leaves = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((T, D), (V, D), (V,))]
    found = []
    for fused in (True, False):
        h, W, b = (x.clone().requires_grad_() for x in leaves)
        if fused:
            loss = fused_loss(h, W, b, targets, divergence, logits)
        else:
            z = logits.scale * torch.nn.functional.linear(h, W, b)
            z = z if logits.cap is None else logits.cap * (z / logits.cap).tanh()
            loss = coarse_loss(z, targets, divergence)
        (loss * 0.37).backward()
        found.append([loss.detach(), h.grad, W.grad, b.grad])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("kind", ["full", "topk", "topk, temperature"])
def test_logits_of_the_models_own_making_give_the_same_loss(kind: str) -> None:
    targets, T, V = head_targets(kind, 7, 13), 7, 13
    z = torch.randn(T, V, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    before = z.detach().clone()
    loss_of_logits(z, targets, losses.reverse_kl).backward()
    assert torch.equal(z.detach(), before), "the model's logits are not spent"
    given, z.grad = z.grad, None
    coarse_loss(z, targets, losses.reverse_kl).backward()
    torch.testing.assert_close(given, z.grad)


def test_a_frozen_head_has_no_gradient() -> None:
    h, W = torch.randn(4, 3, requires_grad=True), torch.randn(9, 3)
    fused_loss(h, W, None, HeadTargets(torch.tensor([1, 2, 3, 4]), torch.ones(4))).backward()
    assert h.grad is not None and W.grad is None


def test_gradients_add_up_over_micro_batches() -> None:
    W, h = torch.randn(20, 5, requires_grad=True), torch.randn(60, 5)
    targets = HeadTargets(torch.randint(0, 20, (60,)), torch.ones(60))
    whole = torch.autograd.grad(fused_loss(h, W, None, targets), W)[0]
    for part in (slice(0, 7), slice(7, 60)):
        fused_loss(h[part], W, None, targets.part(part, torch.float32)).backward()
    torch.testing.assert_close(W.grad, whole, rtol=0, atol=of_chain(4, 60) * float(whole.abs().max()))


def test_bfloat16_adds_up_in_float32() -> None:
    """Many chunks: each too small beside the sum to be seen by a bfloat16."""
    T, V = 512 * 30, 8
    h, W = torch.ones(T, 1, dtype=torch.bfloat16), torch.zeros(V, 1, dtype=torch.bfloat16, requires_grad=True)
    fused_loss(h, W, None, HeadTargets(torch.zeros(T, dtype=torch.long), torch.ones(T))).backward()
    assert W.grad is not None and W.grad.dtype == torch.bfloat16
    # One rounding of the sum to eight bits.
    assert W.grad[1:, 0].float().tolist() == pytest.approx([T / V] * (V - 1), rel=unit_roundoff(torch.bfloat16) * 1.01)


# Settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reverse_kl", "jsd", "skew_kl", "reverse_skew_kl", "total_variation", "alpha_beta"])
def test_a_sample_of_the_distribution_biases_all_but_the_forward_kl(name: str) -> None:
    """The refusal of LossConfig is true: on average over samples, only the linear loss has the gradient it should."""
    p, z = some(1, 5, seed=3)
    sampled = torch.distributions.Multinomial(4, p[0]).sample((4000,)) / 4

    def mean_gap(divergence: Divergence) -> float:
        _, exact = value_and_gradient(divergence, p, z)
        _, each = value_and_gradient(divergence, sampled, z.expand(4000, -1))
        return float(((each.mean(0) - exact[0]).abs() / (each.std(0) / 4000**0.5 + 1e-12)).max())

    divergence = divergence_of(LossConfig(divergence=name))  # type: ignore[arg-type]
    assert divergence is not None and mean_gap(divergence) > 8 and mean_gap(losses.forward_kl) < 5
    for scheme in ("systematic", "threshold", "multinomial"):
        with pytest.raises(ValueError, match=f"loss.divergence: {name} .* {scheme}"):
            LossConfig(divergence=name).check_scheme(scheme)  # type: ignore[arg-type]
    for scheme in ("topk", "full", "hidden"):
        LossConfig(divergence=name).check_scheme(scheme)  # type: ignore[arg-type]


def test_presets_fill_what_is_not_given() -> None:
    assert LossConfig(preset="pretrain") == LossConfig(preset="pretrain", kl=1, ce=0, weighting="constant")
    sft = LossConfig(preset="sft")
    assert (sft.kl, sft.ce, sft.weighting) == (1, 1, "entropy")
    assert LossConfig(preset="sft", ce=0.5).ce == 0.5
    assert LossConfig.model_validate(sft.model_dump()) == sft


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl": 0, "ce": 0}, "nothing would be learned"),
        ({"weighting": "entropy"}, "shares each position out"),
        ({"divergence": "jsd", "beta": 0}, "divergence: forward_kl"),
        ({"divergence": "jsd", "beta": 1}, "divergence: reverse_kl"),
        ({"divergence": "alpha_beta", "alpha_beta": (0, 0)}, "not both 0"),
        ({"divergence": "alpha_beta", "alpha_beta": (-1, 2)}, "two powers from 0"),
    ],
)
def test_losses_that_capture_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig.model_validate(settings)


def test_confidence_of_a_sample_is_refused() -> None:
    loss = LossConfig(ce=1, weighting="confidence")
    with pytest.raises(ValueError, match="largest probability"):
        loss.check_scheme("systematic")
    for scheme in ("topk", "full", "hidden"):
        loss.check_scheme(scheme)
    LossConfig(ce=1, weighting="entropy").check_scheme("systematic")
    LossConfig(kl=0, ce=1, divergence="reverse_kl").check_scheme("systematic")  # hard labels alone


def test_weights_fade_over_the_last_part_of_the_budget() -> None:
    loss = LossConfig(kl=1, ce=0.2, kl_end=0, ce_end=1, fade=0.5)
    assert loss.weights_at(0) == loss.weights_at(0.5) == (1, 0.2)
    assert loss.weights_at(0.75) == pytest.approx((0.5, 0.6))
    assert loss.weights_at(1) == loss.weights_at(1.2) == pytest.approx((0, 1))
    assert LossConfig(kl=1, ce=0.2).weights_at(1) == (1, 0.2)
