"""What is kept of a chunk of distributions, by the store's scheme: scalars, exact stratum, draws.

In two halves: what needs distributions is done where they are (`keep`), and what is rounded and counted, on the host
(`as_kept`), so that a device never waits to learn how many entries there are.

Legend: n positions, V tokenizer ids, U random numbers of a position, K ids of `topk`, E places of SparseTargets, or
entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from workers.targets.encoding.arrays import Draw
from workers.targets.encoding.scalars import probability_codes, round_unbiased
from workers.targets.heads import as_stored
from workers.teacher.engine import CaptureSpec
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.teacher.sampling.schemes import SparseTargets, multinomial, systematic, take_head, threshold, top_k
from workers.transfers import to_device

_SCALARS = 3
"""Random numbers of a position before those of its draws (CaptureSpec.uniforms)."""

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Kept:
    """Of n positions, in the order in which they came; see UnitTargets for the fields."""

    entropy: np.ndarray
    token_logprob: np.ndarray
    draws: list[Draw] = field(default_factory=list)
    tail: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16))
    always: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16))
    logprobs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    hidden: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def keep(
    probs: BlockedProbs,
    tokens_n: torch.Tensor,
    spec: CaptureSpec,
    uniforms_nU: np.ndarray,
    hidden_nH: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """What the scheme needs of the distributions, of the tokens that stand there and of the hidden states that they
    were made of, on their device; for `as_kept`. Modifies `probs` in place."""
    seen = [probs.entropy(), probs.log_probability(tokens_n)]
    if spec.scheme == "full":
        return [*seen, probs.log_probabilities().to(getattr(torch, spec.precision))]
    if spec.scheme == "hidden":
        if hidden_nH is None:
            raise ValueError("targets: hidden, but this engine does not show hidden states; take another scheme")
        return [*seen, as_stored(hidden_nH, spec.precision)]
    if spec.always:
        seen.append(probs.take_out(to_device(spec.always, tokens_n.device)))
    if spec.scheme == "topk":
        head = top_k(probs, spec.top_k)
        return [*seen, head.ids_BK, head.probability_BK, head.tail_B]
    for draw in _draws(probs, spec, to_device(uniforms_nU[:, _SCALARS:], tokens_n.device)):
        seen += [draw.ids_BE] if draw.counts_BE is None else [draw.ids_BE, draw.counts_BE]
    return seen


def as_kept(seen: Sequence[torch.Tensor], spec: CaptureSpec, uniforms_nU: np.ndarray) -> Kept:
    """What is stored of positions, from what `keep` saw of them, on the host, with the same random numbers."""
    entropy_n, realised_n, *others = (t.numpy() for t in seen)
    if spec.scheme == "full":
        return Kept(entropy_n.astype(np.float32), realised_n.astype(np.float32), logprobs=others[0].flatten())
    if spec.scheme == "hidden":
        return Kept(entropy_n.astype(np.float32), realised_n.astype(np.float32), hidden=others[0].flatten())
    entropy = round_unbiased(entropy_n, "entropy", uniforms_nU[:, 0])
    token_logprob = round_unbiased(realised_n, "token_logprob", uniforms_nU[:, 1])
    always = np.zeros(0, np.uint16)
    if spec.always:
        always = probability_codes(others.pop(0), _spread(uniforms_nU[:, 2], len(spec.always))).reshape(-1)
    if spec.scheme == "topk":
        ids_nK, probability_nK, tail_n = others
        draw, tail = head_and_tail(ids_nK, probability_nK, tail_n, uniforms_nU[:, _SCALARS])
        return Kept(entropy, token_logprob, draws=[draw], tail=tail, always=always)
    each = 2 if spec.scheme == "threshold" else 1
    draws = [as_draw(*others[i : i + each], vocabulary=spec.vocabulary) for i in range(0, len(others), each)]
    return Kept(entropy, token_logprob, draws=draws, always=always)


def _draws(probs: BlockedProbs, spec: CaptureSpec, u_nU: torch.Tensor) -> list[SparseTargets]:
    """The independent draws of a sampled scheme, each with random numbers of its own."""
    each = u_nU.shape[1] // spec.redraws
    shares = [u_nU[:, i * each : (i + 1) * each] for i in range(spec.redraws)]
    if spec.scheme == "threshold":
        head = take_head(probs, spec.draws)
        return [threshold(probs, head, spec.draws, u[:, 0], u[:, 1]) for u in shares]
    if spec.scheme == "multinomial":
        return [multinomial(probs, u) for u in shares]
    return [systematic(probs, spec.draws, u[:, 0]) for u in shares]


def as_draw(ids_nE: np.ndarray, counts_nE: np.ndarray | None = None, *, vocabulary: int) -> Draw:
    """What is stored of SparseTargets: places of one id become one entry."""
    begins_nE = (np.diff(ids_nE, axis=1, prepend=-1) != 0) & (ids_nE < vocabulary)
    first_E = np.flatnonzero(begins_nE)
    counts = np.ones(ids_nE.size, np.int32) if counts_nE is None else counts_nE.ravel()
    counts_E = np.add.reduceat(counts, first_E) if len(first_E) else counts[:0]
    return Draw(begins_nE.sum(1).astype(np.uint16), ids_nE[begins_nE].astype(np.uint32), counts_E.astype(np.uint16))


def head_and_tail(
    ids_nK: np.ndarray, probability_nK: np.ndarray, tail_n: np.ndarray, coin_n: np.ndarray
) -> tuple[Draw, np.ndarray]:
    """What `topk` stores of the most probable ids, and the codes of the tail [n]; `coin_n` are uniform."""
    n, K = ids_nK.shape
    uniforms_nK = _spread(coin_n, K + 1)
    codes_nK = probability_codes(probability_nK, uniforms_nK[:, :K])
    draw = Draw(np.full(n, K, np.uint16), ids_nK.astype(np.uint32).reshape(-1), codes_nK.reshape(-1))
    return draw, probability_codes(tail_n, uniforms_nK[:, K])


def _spread(coin_n: np.ndarray, count: int) -> np.ndarray:
    """Each uniform number as several [n, count], every one uniform, by shifts of the golden ratio."""
    return (coin_n[:, None] + np.arange(count) * _GOLDEN) % 1
