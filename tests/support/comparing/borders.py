"""Choices that follow from rounded numbers, made twice: equal, but where a border is nearer than rounding.

A token or a drawn id is the owner of a point of the running sum of a distribution, and a stored scalar is one of two
steps of a grid. Two right computations (see tolerances.py) may choose differently only where the point lies within
their difference of the border, and then they choose neighbours. Each function here asserts exactly that.

Legend: R texts, T target positions, V vocabulary, N draws.
"""

from __future__ import annotations

import numpy as np

from workers.randomness import position_uniforms
from workers.targets.encoding.arrays import Draw, UnitTargets
from workers.targets.encoding.scalars import GRIDS, PROBABILITIES
from workers.teacher.engine import CaptureSpec, TextRequest

CODE = 1 / 2048
"""One step of the logarithm of a stored probability (scalars.py)."""

_FEW = 8
"""At most one in so many (and one at least) may lie at a border: far more than do, far fewer than a fault makes."""


def few(all_of_them: int) -> int:
    """How many of so many choices may fall otherwise."""
    return max(1, all_of_them // _FEW)


def probabilities(targets: UnitTargets, vocabulary: int) -> np.ndarray:
    """The distributions of a `full` capture [T, V], float64."""
    return np.exp(targets.logprobs.reshape(-1, vocabulary).astype(np.float64))


def same_texts(
    mine: UnitTargets, other: UnitTargets, requests: list[TextRequest], spec: CaptureSpec, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Assert that texts are the same up to a token that lay at a border, if any. `other` is a `full` capture at
    temperature 1; `tolerance` is of log-probabilities. Returns which positions of either had the same text before them.
    """
    if not requests:
        assert mine.rows == other.rows == 0
        return np.zeros(0, bool), np.zeros(0, bool)
    assert mine.prompt_uids == other.prompt_uids == [r.prompt_uid for r in requests]
    assert mine.samples.tolist() == other.samples.tolist() and mine.starts.tolist() == other.starts.tolist()
    p_TV, at, parted = probabilities(other, spec.vocabulary), 0, 0
    seen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    (ids, ends), (other_ids, other_ends) = (_rows(t) for t in (mine, other))
    for row, (request, start) in enumerate(zip(requests, other.starts.tolist(), strict=True)):
        text, usual = ids[row], other_ids[row]
        first = _first_difference(text, usual)
        if first is not None:
            assert min(len(text), len(usual)) > first >= len(request.prompt_token_ids), (
                "one text is the other's beginning"
            )
            number = position_uniforms(spec.seed, "token", request.prompt_uid, request.sample, first + 1)[first]
            choices = (int(text[first]), int(usual[first]))
            p_V = p_TV[at + first - start]
            assert all(may_choose(p_V, c, number, request, tolerance) for c in choices), (request.prompt_uid, first)
            parted += 1
        else:
            assert mine.texts[row] == other.texts[row] and ends[row].tolist() == other_ends[row].tolist()
        for positions, length in zip(seen, (len(text), len(usual)), strict=True):
            positions.append(np.arange(start, length) <= (length if first is None else first))
        at += len(usual) - start
    assert parted <= few(len(requests)), f"{parted} of {len(requests)} texts are others"
    return np.concatenate(seen[0]), np.concatenate(seen[1])


def may_choose(p_V: np.ndarray, token: int, number: float, request: TextRequest, tolerance: float) -> bool:
    """Whether a token may be chosen at a uniform number, by next_token.py, of a distribution whose log-probabilities
    are off by at most `tolerance`."""
    if request.temperature == 0:
        return bool(np.log(p_V.max() / p_V[token]) <= 2 * tolerance)
    tolerance = tolerance / request.temperature
    heated_V = p_V ** (1 / request.temperature)
    heated_V /= heated_V.sum()
    for top_p in {request.top_p - tolerance, request.top_p + tolerance} if request.top_p < 1 else {1.0}:
        order = np.argsort(-heated_V, kind="stable")
        before_V = np.cumsum(heated_V[order]) - heated_V[order]
        kept_V = np.where(np.isin(np.arange(len(p_V)), order[before_V < top_p]), heated_V, 0)
        end_V = kept_V.cumsum() / kept_V.sum()
        start = end_V[token] - kept_V[token] / kept_V.sum()
        if kept_V[token] > 0 and start - tolerance <= number <= end_V[token] + tolerance:
            return True
    return False


def same_head(draw: Draw, tail_T: np.ndarray, p_TV: np.ndarray, k: int, tolerance: float) -> None:
    """Assert that what `topk` keeps, and the codes of its tail, are those of distributions. Of ids that are as probable
    as the last one kept, but for `tolerance`, any may be it."""
    ids_TK = draw.ids.reshape(-1, k).astype(np.int64)
    assert all(len(set(ids)) == k for ids in ids_TK.tolist())
    p_TK, least_T = np.take_along_axis(p_TV, ids_TK, 1), np.sort(p_TV, 1)[:, -k]
    assert (np.log(p_TK) >= np.log(least_T)[:, None] - 2 * tolerance).all()
    same_codes(draw.counts.reshape(-1, k), p_TK, tolerance)
    # A tail may be what the head leaves, whose error is then the head's.
    np.testing.assert_allclose(PROBABILITIES[tail_T], 1 - p_TK.sum(1), rtol=CODE, atol=tolerance)


def same_codes(codes: np.ndarray, p: np.ndarray, tolerance: float) -> None:
    """Assert that codes of probabilities are those of `p`, or the next ones."""
    np.testing.assert_allclose(np.log(PROBABILITIES[codes]), np.log(p), rtol=0, atol=CODE + tolerance)


def at_positions(draw: Draw, keep_T: np.ndarray) -> Draw:
    """The entries of some positions."""
    kept = np.repeat(keep_T, draw.num_kept)
    return Draw(draw.num_kept[keep_T], draw.ids[kept], draw.counts[kept])


def same_draws(mine: Draw, other: Draw, p_TV: np.ndarray, offset_T: np.ndarray, draws: int, tolerance: float) -> float:
    """Assert that two systematic samples of distributions are one, but for points within `tolerance` of a border of the
    running sum: there, one count of the id before it may be one of the id after it. `p_TV` are the distributions they
    were drawn of. Returns the share of positions at which they are the same."""
    V = p_TV.shape[1]
    # So many of the points (i + offset) / N are below the end of each id's part of the running sum.
    place_TV = draws * p_TV.cumsum(1) / p_TV.sum(1, keepdims=True) - offset_T[:, None]
    at_border_TV = np.abs(place_TV - np.round(place_TV)) <= draws * tolerance
    moved_TV = np.abs(_below(mine, V) - _below(other, V))
    assert (moved_TV[~at_border_TV] == 0).all(), "a point is another id's, and far from the border"
    assert moved_TV.max(initial=0) <= 1, "more than one point went over a border"
    return float((moved_TV == 0).all(1).mean())


def draw_offsets(requests: list[TextRequest], targets: UnitTargets, spec: CaptureSpec) -> np.ndarray:
    """The uniform numbers of the systematic draws of each target position [T, redraws], as sampling/capture.py takes
    them."""
    numbers = []
    for request, start, length in zip(requests, targets.starts.tolist(), targets.lengths.tolist(), strict=True):
        key = (spec.seed, "draw", request.prompt_uid, request.sample)
        numbers.append(position_uniforms(*key, length, spec.uniforms)[start:length, 3:])
    return np.concatenate(numbers)


def same_on_grid(mine: np.ndarray, other: np.ndarray, kind: str) -> None:
    """Assert that scalars rounded to a grid of scalars.py are the same, or a few of them its next step."""
    grid = np.abs(GRIDS[kind])
    steps = [np.searchsorted(grid, np.abs(x)) for x in (mine, other)]
    for place, values in zip(steps, (mine, other), strict=True):
        np.testing.assert_array_equal(grid[place], np.abs(values), "not on the grid")
    apart = np.abs(steps[0] - steps[1])
    assert apart.max(initial=0) <= 1 and (apart > 0).sum() <= few(len(apart)), apart


def _below(draw: Draw, vocabulary: int) -> np.ndarray:
    """How many points are those of each id or a lower one [T, V]."""
    counts_TV = np.zeros((len(draw.num_kept), vocabulary), np.int64)
    np.add.at(counts_TV, (np.repeat(np.arange(len(draw.num_kept)), draw.num_kept), draw.ids), draw.counts)
    return counts_TV.cumsum(1)


def _rows(targets: UnitTargets) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ids and ends of each text."""
    cuts = np.cumsum(targets.lengths)[:-1]
    return np.split(targets.tokens, cuts), np.split(targets.ends, cuts)


def _first_difference(one: np.ndarray, other: np.ndarray) -> int | None:
    """The first place at which two texts differ; None where they are the same."""
    n = min(len(one), len(other))
    different = np.flatnonzero(one[:n] != other[:n])
    if len(different):
        return int(different[0])
    return None if len(one) == len(other) else n
