"""How a student does at its teacher's bridges, with intervals over texts. Pure NumPy.

Legend: B texts, K sums of each, W of them that the student has wrong and that have a bridge, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.evaluation.bridges.texts import BridgeFindings
from workers.evaluation.metrics.resampling import Estimate, ratio, resampled_sums

_UNKNOWN = Estimate(*[float("nan")] * 3)


@dataclass(frozen=True)
class BridgeRates:
    """Of tokens that the teacher is sure of and that were changed, `at` its bridges and `elsewhere`."""

    asked: int
    """Items that the teacher was asked."""
    texts: int
    """Those that it answered rightly, and whose tokens were changed."""
    tokens: int
    bridges: int
    kl_at: Estimate
    """Mean KL(teacher ‖ student), nats; not a number where there is no such token, and without bounds where all are of
    one text."""
    kl_elsewhere: Estimate
    agree_at: Estimate
    """Share at which both find the same token most probable."""
    agree_elsewhere: Estimate
    wrong: int
    """Texts whose question the student answers wrong."""
    tried: int
    """W"""
    repaired: Estimate | None
    """Share of W that it answers rightly from the teacher's answer up to and with the token of its worst bridge; None
    where W is 0."""
    repaired_without: Estimate | None
    """The same from the teacher's answer up to that token and without it."""
    by_token: Estimate | None
    """The first less the second, paired: what the token itself repairs."""


def bridge_rates(findings: Sequence[BridgeFindings], resamples: int, seed: int) -> BridgeRates:
    """From what was found of a student, domain by domain. Texts are drawn again; W by themselves."""
    bridge_n = np.concatenate([np.array(f.bridge, bool) for f in findings])
    pairs = [
        (float(one), float(other))
        for f in findings
        for one, other in zip(f.repaired, f.repaired_without, strict=True)
        if one is not None and other is not None
    ]
    repaired, without, by_token = _repairs(np.array(pairs, np.float64).reshape(-1, 2), resamples, seed)
    at, elsewhere = _means(findings, bridge_n, resamples, seed), _means(findings, ~bridge_n, resamples, seed)
    return BridgeRates(
        asked=sum(f.asked for f in findings),
        texts=sum(f.texts for f in findings),
        tokens=len(bridge_n),
        bridges=int(bridge_n.sum()),
        kl_at=at[0],
        kl_elsewhere=elsewhere[0],
        agree_at=at[1],
        agree_elsewhere=elsewhere[1],
        wrong=sum(not correct for f in findings for correct in f.correct),
        tried=len(pairs),
        repaired=repaired,
        repaired_without=without,
        by_token=by_token,
    )


def _means(
    findings: Sequence[BridgeFindings], mine_n: np.ndarray, resamples: int, seed: int
) -> tuple[Estimate, Estimate]:
    """Mean KL and share of agreement over some of the tokens."""
    texts = np.array([f.texts for f in findings], np.int64)
    first = np.cumsum(texts) - texts
    text_n = np.concatenate([np.array(f.text, np.int64) + i for f, i in zip(findings, first.tolist(), strict=True)])
    kl_n = np.concatenate([np.array(f.kl, np.float64) for f in findings])
    agree_n = np.concatenate([np.array(f.agree, np.float64) for f in findings])
    if not mine_n.any():
        return _UNKNOWN, _UNKNOWN
    columns = [np.bincount(text_n, values * mine_n, int(texts.sum())) for values in (np.ones(len(kl_n)), kl_n, agree_n)]
    sums_BK = np.stack(columns, 1)
    draws_RK, whole_K = resampled_sums(sums_BK, resamples, seed), sums_BK.sum(0)
    kl, agree = (Estimate.of(whole_K[i] / whole_K[0], ratio(draws_RK[:, i], draws_RK[:, 0])) for i in (1, 2))
    having = int((sums_BK[:, 0] > 0).sum())
    if having < 2:  # drawn again it is the same, which says nothing of others
        kl = Estimate(kl.value, float("nan"), float("nan"))
    return kl, agree.at_least_of_three(having, 0, 1)


def _repairs(pairs_W2: np.ndarray, resamples: int, seed: int) -> tuple[Estimate | None, ...]:
    """Shares that are repaired with and without the token, and their difference."""
    W = len(pairs_W2)
    if not W:
        return None, None, None
    means_R2, (one, other) = resampled_sums(pairs_W2, resamples, seed) / W, pairs_W2.mean(0).tolist()
    return (
        Estimate.of(one, means_R2[:, 0]).at_least_of_three(W, 0, 1),
        Estimate.of(other, means_R2[:, 1]).at_least_of_three(W, 0, 1),
        Estimate.of(one - other, means_R2[:, 0] - means_R2[:, 1]).at_least_of_three(W, -1, 1),
    )
