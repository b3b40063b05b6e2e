"""Scores against a known truth: a generated language whose next-token distribution is a table.

Legend: T target positions, V the tokenizer's ids.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

from cluster.storage import Storage
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.targets.reader import TargetRow
from workers.targets.store import TargetStore

Truth = Callable[[str, list[int], int], np.ndarray]
"""(domain, token_ids, start) -> true distributions [len(token_ids) - start, V]; NaN rows where it is not known."""


def load_truth(spec: str | None) -> Truth | None:
    """The function that `file.py:function` names. Raises ValueError, with what its code raised, where it cannot be
    loaded."""
    if spec is None:
        return None
    path, _, name = spec.rpartition(":")
    module_spec = importlib.util.spec_from_file_location("stillhouse_truth", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        return getattr(module, name)
    except (Exception, SystemExit) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"evaluate.truth: {spec} cannot be loaded here: {why}") from error


def truth_kls(
    truth: Truth | None, domain: str, row: TargetRow, q_TV: np.ndarray, t_TV: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """KL(truth || student) and KL(truth || teacher) by position, from log-probabilities; NaN where it is not known."""
    if truth is None:
        return np.full(row.targets, np.nan), np.full(row.targets, np.nan)
    p_TV = np.asarray(truth(domain, row.tokens.tolist(), row.start), np.float64)
    own_T = _negative_entropy(p_TV)
    return own_T - _cross(p_TV, q_TV), own_T - _cross(p_TV, t_TV)


def unigram_counts(storage: Storage, domain: str, vocabulary: int) -> np.ndarray:
    """How often each token occurs in a domain's training targets, plus one [V]: what a model knows that knows the
    domain's words and nothing of their order."""
    counts_V = np.ones(vocabulary)
    store = TargetStore(storage, TRAIN)
    for unit in read_plan(storage, TRAIN).of_domain(domain):
        if (entry := store.log.entry(unit)) is not None:
            targets = store.read_or_mark(entry, "evaluate", "stillhouse evaluate CONFIG")
            starts, ends = np.cumsum(targets.lengths) - targets.lengths + targets.starts, np.cumsum(targets.lengths)
            for start, end in zip(starts, ends, strict=True):
                counts_V += np.bincount(targets.tokens[start:end], minlength=vocabulary)
    return counts_V


def _cross(p_TV: np.ndarray, logq_TV: np.ndarray) -> np.ndarray:
    """Sum of p log q; what p rules out costs nothing, whatever q says of it. NaN where p is not known."""
    with np.errstate(invalid="ignore"):
        return np.where(p_TV == 0, 0.0, p_TV * logq_TV).sum(-1)


def _negative_entropy(p_TV: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p_TV > 0, p_TV * np.log(p_TV), np.where(np.isnan(p_TV), np.nan, 0.0)).sum(-1)
