"""What is kept of a chunk of distributions, by the store's scheme: scalars, exact stratum, draws.

Legend: n positions, V tokenizer ids, U random numbers of a position, A always-kept ids, K ids of `topk`, E entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from workers.targets.encoding.arrays import Draw
from workers.targets.encoding.scalars import probability_codes, round_unbiased
from workers.targets.heads import as_stored
from workers.teacher.engine import CaptureSpec
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.teacher.sampling.schemes import SparseTargets, multinomial, systematic, take_head, threshold, top_k

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
) -> Kept:
    """What the scheme keeps of the distributions, of the tokens that stand there and of the hidden states that they
    were made of. Modifies `probs` in place."""
    entropy_n, realised_n = _array(probs.entropy()), _array(probs.log_probability(tokens_n))
    if spec.scheme == "full":
        logprobs = _array(probs.log_probabilities()).astype(spec.precision).reshape(-1)
        return Kept(entropy_n.astype(np.float32), realised_n.astype(np.float32), logprobs=logprobs)
    if spec.scheme == "hidden":
        if hidden_nH is None:
            raise ValueError("targets: hidden, but this engine does not show hidden states; take another scheme")
        hidden = as_stored(hidden_nH, spec.precision).reshape(-1)
        return Kept(entropy_n.astype(np.float32), realised_n.astype(np.float32), hidden=hidden)
    entropy = round_unbiased(entropy_n, "entropy", uniforms_nU[:, 0])
    token_logprob = round_unbiased(realised_n, "token_logprob", uniforms_nU[:, 1])
    coin_n, drawn_nU = uniforms_nU[:, 2], uniforms_nU[:, 3:]
    always = np.zeros(0, np.uint16)
    if spec.always:
        taken_nA = _array(probs.take_out(torch.tensor(spec.always, device=tokens_n.device)))
        always = probability_codes(taken_nA, _spread(coin_n, len(spec.always))).reshape(-1)
    if spec.scheme == "topk":
        draw, tail = _top_k(probs, spec.top_k, drawn_nU[:, 0])
        return Kept(entropy, token_logprob, draws=[draw], tail=tail, always=always)
    return Kept(entropy, token_logprob, draws=_draws(probs, spec, drawn_nU), always=always)


def _draws(probs: BlockedProbs, spec: CaptureSpec, uniforms_nU: np.ndarray) -> list[Draw]:
    """The independent draws of a sampled scheme, each with random numbers of its own."""
    u_nU = torch.from_numpy(uniforms_nU).to(probs.total_B.device)
    each = u_nU.shape[1] // spec.redraws
    shares = [u_nU[:, i * each : (i + 1) * each] for i in range(spec.redraws)]
    if spec.scheme == "threshold":
        head = take_head(probs, spec.draws)
        return [_draw(threshold(probs, head, spec.draws, u[:, 0], u[:, 1])) for u in shares]
    if spec.scheme == "multinomial":
        return [_draw(multinomial(probs, u)) for u in shares]
    return [_draw(systematic(probs, spec.draws, u[:, 0])) for u in shares]


def _top_k(probs: BlockedProbs, k: int, coin_n: np.ndarray) -> tuple[Draw, np.ndarray]:
    kept = top_k(probs, k)
    return head_and_tail(_array(kept.ids_BK), _array(kept.probability_BK), _array(kept.tail_B), coin_n)


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


def _draw(kept: SparseTargets) -> Draw:
    return Draw(
        _array(kept.entries_B).astype(np.uint16),
        _array(kept.ids_E).astype(np.uint32),
        _array(kept.counts_E).astype(np.uint16),
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
