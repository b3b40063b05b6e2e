"""Arithmetic on flat arrays that are cut into consecutive segments of given lengths: rows, positions, entries."""

from __future__ import annotations

import numpy as np


def segment_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of each segment (int64)."""
    cumulative = np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return cumulative[bounds[1:]] - cumulative[bounds[:-1]]


def firsts(lengths: np.ndarray) -> np.ndarray:
    """Index of the first element of each segment; that of an empty one is where it would be."""
    return np.cumsum(lengths) - lengths


def within(lengths: np.ndarray) -> np.ndarray:
    """Place of each element in its segment, from 0."""
    return np.arange(int(lengths.sum())) - np.repeat(firsts(lengths), lengths)


def is_first(lengths: np.ndarray) -> np.ndarray:
    """Whether each element is the first of its segment."""
    mark = np.zeros(int(lengths.sum()), bool)
    mark[firsts(lengths)[lengths > 0]] = True
    return mark


def spans(lengths: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Indices into the flat array of the elements of the chosen segments, one segment after another."""
    sizes = lengths[chosen]
    return np.repeat(firsts(lengths)[chosen] - firsts(sizes), sizes) + np.arange(int(sizes.sum()))


def differences(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Differences of neighbours (int64); the first of a segment as it is."""
    found = np.diff(values.astype(np.int64), prepend=0)
    at = firsts(lengths)[lengths > 0]
    found[at] = values[at]
    return found


def running(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Running sums that start anew in each segment (int64): the inverse of `differences`."""
    total = np.cumsum(values.astype(np.int64))
    at = firsts(lengths)[lengths > 0]
    return total - np.repeat(total[at] - values[at].astype(np.int64), lengths[lengths > 0])
