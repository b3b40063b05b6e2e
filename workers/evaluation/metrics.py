"""Scores of a student against its teacher from per-token numbers, with intervals over prompts. Pure numpy.

Legend: T target positions, P prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BINS = 15
"""Equal-mass bins of the calibration error (Guo et al. 2017 with adaptive bins)."""


@dataclass
class TokenScores:
    """What one model did at each held-out target position of one domain, flat [T]."""

    prompt: np.ndarray
    """Index of the position's prompt."""
    kl: np.ndarray
    """KL(t || q) in nats, t exact."""
    agree: np.ndarray
    """1 where argmax t = argmax q."""
    nll: np.ndarray
    """-log q of the token that stands there."""
    confidence: np.ndarray
    """max q."""
    teacher_at_top: np.ndarray
    """t at argmax q."""
    truth_kl: np.ndarray
    """KL(truth || q), NaN where the truth is not known."""
    truth_teacher_kl: np.ndarray
    """KL(truth || t), NaN likewise."""


def summarise(scores: TokenScores, resamples: int, seed: int) -> dict[str, float]:
    """All scores of one model on one domain; `kl_low` and `kl_high` bound the 95 % bootstrap interval over prompts."""
    kl_P, tokens_P = per_prompt(scores.kl, scores.prompt)
    low, high = bootstrap_interval(kl_P, tokens_P, resamples, seed)
    result = {
        "kl": float(scores.kl.mean()),
        "kl_low": low,
        "kl_high": high,
        "top1_agreement": float(scores.agree.mean()),
        "perplexity": float(np.exp(scores.nll.mean())),
        "ece_teacher": calibration_error(scores.confidence, scores.teacher_at_top),
        "overconfidence_gap": float((scores.confidence - scores.teacher_at_top).mean()),
        "tokens": len(scores.kl),
        "prompts": len(kl_P),
    }
    known = ~np.isnan(scores.truth_kl)
    if known.any():
        result["truth_excess_kl"] = float((scores.truth_kl - scores.truth_teacher_kl)[known].mean())
        result["truth_tokens_skipped"] = int((~known).sum())
    return result


def paired_difference(a: TokenScores, b: TokenScores, resamples: int, seed: int) -> dict[str, float]:
    """Mean KL of a minus that of b on the same positions, with its paired 95 % interval over prompts."""
    if len(a.kl) != len(b.kl) or not np.array_equal(a.prompt, b.prompt):
        raise ValueError("paired scores must be of the same positions")
    difference_P, tokens_P = per_prompt(a.kl - b.kl, a.prompt)
    low, high = bootstrap_interval(difference_P, tokens_P, resamples, seed)
    return {"kl": float((a.kl - b.kl).mean()), "low": low, "high": high}


def per_prompt(values_T: np.ndarray, prompt_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values, and numbers of positions, by prompt [P]."""
    _, index_T = np.unique(prompt_T, return_inverse=True)
    return np.bincount(index_T, values_T.astype(np.float64)), np.bincount(index_T).astype(np.float64)


def bootstrap_interval(sums_P: np.ndarray, tokens_P: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of sum(sums) / sum(tokens) when prompts are drawn again with replacement."""
    rng = np.random.default_rng(seed)
    P = len(sums_P)
    drawn = rng.multinomial(P, np.full(P, 1 / P), size=resamples)
    means = (drawn @ sums_P) / np.maximum(drawn @ tokens_P, 1e-9)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(confidence: np.ndarray, target: np.ndarray, bins: int = _BINS) -> float:
    """Expected calibration error of confidences against the teacher's probability of that token, equal-mass bins."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    return float(sum(len(p) * abs(confidence[p].mean() - target[p].mean()) for p in parts) / len(confidence))
