"""Targets from the log-probabilities that vLLM gives of a prompt: the k most probable ids and the token that is there.

Nothing else of a distribution is known, so the mass of all other ids is what is missing from 1, and the entropy is
that of the k ids and the rest as one: a lower bound. Pure.

Legend: n positions, K ids kept, U random numbers of a position, V tokenizer ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workers.targets.encoding.scalars import round_unbiased
from workers.teacher.engine import CaptureSpec
from workers.teacher.sampling.drawing import Kept, head_and_tail


def scores_suffice(spec: CaptureSpec, vocabulary: int) -> bool:
    """Whether the k most probable ids at temperature 1 over `vocabulary` ids are what the spec captures."""
    return spec.scheme == "topk" and spec.temperature == 1 and not spec.always and spec.vocabulary >= vocabulary


def kept_ids(spec: CaptureSpec) -> int:
    """Ids to ask for."""
    return min(spec.top_k, spec.vocabulary)


def scores(ids: Sequence[int], log_probabilities: Sequence[float], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities [n, 1 + k] from vLLM's flat lists: of each position its token, then the k."""
    return np.array(ids, np.int64).reshape(-1, 1 + k), np.array(log_probabilities, np.float64).reshape(-1, 1 + k)


def kept_of_scores(ids_nK1: np.ndarray, logp_nK1: np.ndarray, uniforms_nU: np.ndarray) -> Kept:
    """What `topk` stores of positions, of which the first column is the token and the others are the head."""
    p_nK = np.exp(logp_nK1[:, 1:])
    tail_n = tails(p_nK)
    draw, codes_n = head_and_tail(ids_nK1[:, 1:], p_nK, tail_n, uniforms_nU[:, 3])
    return Kept(
        round_unbiased(_entropy(logp_nK1[:, 1:], p_nK, tail_n), "entropy", uniforms_nU[:, 0]),
        round_unbiased(np.minimum(logp_nK1[:, 0], 0), "token_logprob", uniforms_nU[:, 1]),
        [draw],
        codes_n,
    )


def tails(p_nK: np.ndarray) -> np.ndarray:
    """What the head leaves to all other ids [n]. vLLM's float32 makes it noise below 1e-6."""
    return (1 - p_nK.sum(-1)).clip(0, 1)


def expected(ids_nK1: np.ndarray, logp_nK1: np.ndarray, vocabulary: int) -> np.ndarray:
    """Sum of the distributions [V], float32, as far as their heads go; ids that were in none get nothing."""
    return np.bincount(ids_nK1[:, 1:].ravel(), np.exp(logp_nK1[:, 1:]).ravel(), minlength=vocabulary).astype(np.float32)


def _entropy(logp_nK: np.ndarray, p_nK: np.ndarray, tail_n: np.ndarray) -> np.ndarray:
    logs_n = np.log(tail_n, out=np.zeros_like(tail_n), where=tail_n > 0)
    return -(p_nK * np.where(p_nK > 0, logp_nK, 0)).sum(-1) - tail_n * logs_n
