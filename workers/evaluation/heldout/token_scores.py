"""What a model does at the target positions of held-out texts, beside the teacher's exact distributions.

Logits exist for a few positions at a time, both of them: a text of 4,096 tokens and 151,936 ids would be 2.5 GB of
each, and half a dozen such are worked with.

Legend: B texts, S tokens, T target positions, n some of them, H hidden size, V the tokenizer's ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.decoding import padded
from workers.evaluation.heldout.exact import Exact
from workers.evaluation.heldout.sums import TEMPERATURES, TOP, TokenScores
from workers.evaluation.heldout.truth import Truth, truth_kls
from workers.targets.reader import TargetRow
from workers.two_part_model import TwoPartModel

_NOTHING = np.zeros((0, 0))

LogitsAt = Callable[[slice], Tensor]
"""From some target positions of a text to their logits [n, V or more]."""

Logits = Callable[[Sequence[TargetRow]], Iterator[tuple[TargetRow, LogitsAt]]]
"""From texts to each of them with what gives its logits."""


def logits_of(model: TwoPartModel, batch_tokens: int) -> Logits:
    """Those of a model that runs texts of like length together, `batch_tokens` with padding at once."""

    def run(rows: Sequence[TargetRow]) -> Iterator[tuple[TargetRow, LogitsAt]]:
        for row, hidden_TH in hidden_of(model, rows, batch_tokens):
            yield row, partial(_head, model, hidden_TH)

    return run


def hidden_of(model: TwoPartModel, rows: Sequence[TargetRow], batch_tokens: int) -> Iterator[tuple[TargetRow, Tensor]]:
    """Texts, those of like length together, each with what its head is given at its target positions [T, H]."""
    for batch in _batches(rows, batch_tokens):
        hidden_BSH = model.body(*padded([row.tokens for row in batch], left=False))
        for b, row in enumerate(batch):
            yield row, hidden_BSH[b, row.start - 1 : len(row.tokens) - 1]


def unigram_logits(counts_V: np.ndarray, device: str) -> Logits:
    """Those of a model that knows how often each token occurs, and nothing of their order."""
    logu_V = torch.from_numpy(np.log(counts_V / counts_V.sum())).float().to(device)

    def run(rows: Sequence[TargetRow]) -> Iterator[tuple[TargetRow, LogitsAt]]:
        for row in rows:
            yield row, lambda positions: logu_V.expand(positions.stop - positions.start, -1)

    return run


@torch.no_grad()
def score(
    logits: Logits,
    rows: Sequence[TargetRow],
    vocabulary: int,
    exact: Exact,
    truths: dict[str, Truth | None],
    device: str,
) -> Iterator[tuple[TargetRow, dict[str, TokenScores]]]:
    """Each row with its scores by domain, of which there are as many as `truths` has domains; the model and the teacher
    are asked once, whatever their number. Rows come in the order of the model's batches."""
    whole = any(truth is not None for truth in truths.values())
    chunk = max(1, CHUNK_NUMBERS[device] // vocabulary)
    for row, of_row in logits(rows):
        T, parts = row.targets, []
        step = max(T, 1) if whole else chunk  # a truth is asked for a whole text
        for i in range(0, T, step):
            place = slice(i, min(T, i + step))
            q_nV = of_row(place)[:, :vocabulary].float().log_softmax(-1)
            t_nV = exact(row, place).to(q_nV.device)
            compared = compare(q_nV, t_nV, row.tokens[row.start :][place], i)
            q, t = (q_nV.cpu().numpy(), t_nV.cpu().numpy()) if whole else (_NOTHING, _NOTHING)
            parts.append({d: _with_truth(compared, truth, d, row, q, t) for d, truth in truths.items()})
        if parts:
            yield row, {d: TokenScores.join([part[d] for part in parts]) for d in truths}


def compare(q_nV: Tensor, t_nV: Tensor, labels: np.ndarray, first: int) -> TokenScores:
    """Scores at some positions from the log-probabilities of model and teacher, of which the first is the `first` of
    its answer; the truth is left unknown."""
    top_n1 = q_nV.argmax(-1, keepdim=True)
    labels_n1 = torch.from_numpy(labels.astype(np.int64)).to(q_nV.device)[:, None]
    confidence_n, hit_n = q_nV.gather(1, top_n1)[:, 0].exp(), (top_n1 == labels_n1)[:, 0].to(q_nV.dtype)
    overlap_n, mass_n = _overlap(q_nV, t_nV)
    values = {
        **_divergences(q_nV, t_nV),
        "agree": (t_nV.argmax(-1, keepdim=True) == top_n1)[:, 0].to(q_nV.dtype),
        "overlap": overlap_n,
        "overlap_mass": mass_n,
        "nll": -q_nV.gather(1, labels_n1)[:, 0],
        "confidence": confidence_n,
        "teacher_at_top": t_nV.gather(1, top_n1)[:, 0].exp(),
        "hit": hit_n,
        "brier": (confidence_n - hit_n) ** 2,
    }
    tempered_nK = _tempered(q_nV, values["kl"], values["entropy"])
    columns = torch.cat([torch.stack(list(values.values()), 1), tempered_nK], 1)
    table = columns.double().cpu().numpy().T  # one copy from the device
    unknown = np.full(len(labels), np.nan)
    return TokenScores(
        **dict(zip(values, table, strict=False)),
        tempered_kl=table[len(values) :].T,
        position=np.arange(first, first + len(labels)),
        truth_kl=unknown,
        truth_teacher_kl=unknown,
    )


def _divergences(q_nV: Tensor, t_nV: Tensor) -> dict[str, Tensor]:
    """[n] both KLs, the total variation and both entropies."""
    p_nV = t_nV.exp()
    kl_n, entropy_n = (p_nV * (t_nV - q_nV)).sum(-1), -(p_nV * t_nV).sum(-1)
    r_nV = q_nV.exp()
    return {
        "kl": kl_n,
        "reverse_kl": (r_nV * (q_nV - t_nV)).sum(-1),
        "entropy": entropy_n,
        "model_entropy": -(r_nV * q_nV).sum(-1),
        "tv": p_nV.sub_(r_nV).abs_().sum(-1) / 2,
    }


def _overlap(q_nV: Tensor, t_nV: Tensor) -> tuple[Tensor, Tensor]:
    """[n] the share of the teacher's TOP ids that are among the model's, and the teacher's mass on them."""
    k = min(TOP, q_nV.shape[-1])
    logp_nk, ids_nk = t_nV.topk(k)
    shared_nk = (ids_nk[:, :, None] == q_nV.topk(k).indices[:, None, :]).any(-1)
    return shared_nk.to(q_nV.dtype).mean(-1), (logp_nk.exp() * shared_nk).sum(-1)


def _tempered(q_nV: Tensor, kl_n: Tensor, entropy_n: Tensor) -> Tensor:
    """[n, K] KL(t || softmax(q's logits / T)) for each of TEMPERATURES: with the log-probabilities l of q as its
    logits it is log sum exp(l / T) - E_t[l] / T - H(t), and E_t[l] = -KL(t || q) - H(t)."""
    columns = [
        (q_nV / temperature).logsumexp(-1) + (kl_n + entropy_n) / temperature - entropy_n
        for temperature in TEMPERATURES
    ]
    return torch.stack(columns, 1)


@torch.no_grad()
def answer_rank(model: TwoPartModel, tokens: np.ndarray, start: int, vocabulary: int) -> dict[str, float]:
    """Rank (1 is the most probable) and probability that a model gives the token at `start`."""
    ids_1S = torch.from_numpy(tokens[:start].astype(np.int64))[None]
    hidden_1SH = model.body(ids_1S, torch.ones_like(ids_1S))
    q_V = model.head(hidden_1SH[0, -1:])[0, :vocabulary].float().softmax(-1)
    answer = int(tokens[start])
    return {"rank": int((q_V > q_V[answer]).sum()) + 1, "probability": float(q_V[answer])}


def stored_rank(row: TargetRow) -> dict[str, float]:
    """Rank and probability that the teacher itself gives a probe's answer."""
    assert row.logprobs is not None
    logp_V, answer = row.logprobs[0], int(row.tokens[row.start])
    return {"rank": int((logp_V > logp_V[answer]).sum()) + 1, "probability": float(np.exp(logp_V[answer]))}


def _with_truth(
    scores: TokenScores, truth: Truth | None, domain: str, row: TargetRow, q_TV: np.ndarray, t_TV: np.ndarray
) -> TokenScores:
    """The scores of a whole row with what is known of them in a domain."""
    if truth is None:
        return scores
    student, teacher = truth_kls(truth, domain, row, q_TV, t_TV)
    return replace(scores, truth_kl=student, truth_teacher_kl=teacher)


def _head(model: TwoPartModel, hidden_TH: Tensor, positions: slice) -> Tensor:
    return model.head(hidden_TH[positions])


def _batches(rows: Sequence[TargetRow], batch_tokens: int) -> Iterator[list[TargetRow]]:
    """Texts of like length together."""
    ordered = sorted(rows, key=lambda r: (-len(r.tokens), r.prompt_uid))
    while ordered:
        n = max(1, min(len(ordered), batch_tokens // len(ordered[0].tokens)))
        yield ordered[:n]
        ordered = ordered[n:]
