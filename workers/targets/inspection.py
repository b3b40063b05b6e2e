"""Whether a unit's targets can be what a teacher said. Pure: every check that needs nothing but the decoded unit.

A checksum says that bytes are those that were written; this says that what was written makes sense.
Legend (see schema.py): R rows (texts), S tokens, T target positions, E kept entries, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from workers.targets.encoding.arrays import Draw, UnitTargets
from workers.targets.encoding.scalars import PROBABILITIES, round_unbiased
from workers.targets.encoding.schema import EXACT_STEPS, StoreHeader
from workers.targets.encoding.segments import segment_sums

_CHUNK = 256
"""Positions whose distributions are dense at once."""

_SLACK = {"float16": 1e-3, "float32": 1e-5}
"""How far the mass of a stored full distribution may be from 1."""

_HALF_STEP = {"float16": 2.0**-11, "float32": 2.0**-24}
"""Largest relative error of a rounded log-probability: where all round one way, mass moves by this times entropy."""

_CODE_STEP = 1 / 2000
"""Largest relative error of a probability that is stored as a code (scalars.py), a little more than 1/2048."""


def find_problems(unit: UnitTargets, header: StoreHeader, prompt_uids: Collection[str]) -> list[str]:
    """What is wrong with a decoded unit, one reason each; `prompt_uids` are those that the plan gives it."""
    if unit.rows == 0:
        return []
    if (problem := _misshapen(unit, header)) is not None:
        return [problem]  # the other checks would trip over it
    problems = [*_texts(unit, prompt_uids), *_ranges(unit, header)]
    if not header.sampled:
        return [*problems, *(_full(unit, header) if header.scheme == "full" else _hidden(unit, header))]
    return problems + [problem for draw in unit.draws for problem in _kept(unit, draw, header)]


def _misshapen(unit: UnitTargets, header: StoreHeader) -> str | None:
    """The first array that is not as long as the texts say."""
    outside = (unit.starts < 1) | (unit.starts > unit.lengths)
    if outside.any():
        return f"the first target position of {_first(outside, unit.prompt_uids)} lies outside the text"
    S, T, A = int(unit.lengths.sum()), int(unit.target_lengths.sum()), len(header.always)
    needed = {"tokens": S, "ends": S, "entropy": T, "token_logprob": T, "always": T * A}
    needed |= {"tail": T if header.scheme == "topk" else 0}
    needed |= {"logprobs": T * header.vocabulary if header.scheme == "full" else 0}
    # Of hidden states every position has equally many numbers, and nothing here says how many.
    needed |= {"hidden": max(len(unit.hidden) // max(T, 1), 1) * T if header.scheme == "hidden" else 0}
    lengths = [(name, len(getattr(unit, name)), length) for name, length in needed.items()]
    for draw in unit.draws if header.sampled else []:
        E = int(draw.num_kept.sum())
        lengths += [("num_kept", len(draw.num_kept), T), ("ids", len(draw.ids), E), ("counts", len(draw.counts), E)]
    lengths.append(("draws", len(unit.draws), header.redraws))
    for name, held, length in lengths:
        if held != length:
            return f"{name}: {held:,} where its texts need {length:,}"
    return None


def _texts(unit: UnitTargets, prompt_uids: Collection[str]) -> Iterator[str]:
    strange = np.array([p not in prompt_uids for p in unit.prompt_uids], bool)
    if strange.any():
        yield f"{_first(strange, unit.prompt_uids)} answers a prompt that the plan does not give to this unit"
    last = np.cumsum(unit.lengths) - 1
    size = np.array([len(text.encode()) for text in unit.texts], np.int64)
    wrong = unit.ends[last] != size
    if wrong.any():
        yield f"the tokens of {_first(wrong, unit.prompt_uids)} do not end where the text's bytes end"
    backwards = np.diff(unit.ends.astype(np.int64), prepend=0) < 0
    backwards[np.concatenate([[0], last[:-1] + 1])[: unit.rows]] = False
    if backwards.any():
        yield f"a token of {_first(backwards, unit.prompt_uids, unit.lengths)} ends before the one before it"


def _ranges(unit: UnitTargets, header: StoreHeader) -> Iterator[str]:
    T = unit.target_lengths
    yield from _beyond("a token", unit.tokens, unit.lengths, unit, header)
    for draw in unit.draws if header.sampled else []:
        yield from _beyond("a kept id", draw.ids, segment_sums(draw.num_kept, T), unit, header)
    # Entropies on the grid may be rounded up beyond the largest possible one.
    most = np.log(header.vocabulary) * (1 + 1e-6)
    if header.sampled:
        most = float(round_unbiased(np.array([most]), "entropy", np.zeros(1))[0])
    outside = ~((unit.entropy >= 0) & (unit.entropy <= most))
    if outside.any():
        yield (
            f"an entropy of {_first(outside, unit.prompt_uids, T)} is {unit.entropy[outside][0]:.3f}: "
            f"outside 0 ... ln {header.vocabulary:,}"
        )
    above = ~(unit.token_logprob <= 0)
    if above.any():
        yield (
            f"a token's log-probability in {_first(above, unit.prompt_uids, T)} is {unit.token_logprob[above][0]:.3f}: "
            "not 0 or less"
        )


def _beyond(what: str, ids: np.ndarray, lengths: np.ndarray, unit: UnitTargets, header: StoreHeader) -> Iterator[str]:
    beyond = ids >= header.vocabulary
    if beyond.any():
        yield (
            f"{what} of {_first(beyond, unit.prompt_uids, lengths)} is {int(ids[beyond][0])}: "
            f"not below the vocabulary of {header.vocabulary:,}"
        )


def _kept(unit: UnitTargets, draw: Draw, header: StoreHeader) -> Iterator[str]:
    """What is wrong with the entries of one draw."""
    T, codes = unit.target_lengths, header.scheme == "topk"
    none = draw.counts == 0
    if none.any() and not codes:
        yield f"a kept id of {_first(none, unit.prompt_uids, segment_sums(draw.num_kept, T))} has a count of 0"
    if header.fixed_sum:
        sums = segment_sums(draw.counts, draw.num_kept)
        wrong = sums != header.draws
        if wrong.any():
            yield (
                f"the counts of {_first(wrong, unit.prompt_uids, T)} sum to {sums[wrong][0]}: "
                f"not to the {header.draws} draws"
            )
    mass = position_masses(unit, draw, header)
    yield from _wrong_mass(mass, _weight_slack(draw, header), unit)


def position_masses(unit: UnitTargets, draw: Draw, header: StoreHeader) -> np.ndarray:
    """What everything that is kept at a position weighs together [T]: ids of a draw, always-kept ids, tail."""
    entries = draw.num_kept.astype(np.int64)
    always_TA = unit.always.reshape(len(entries), len(header.always))
    weights_E = header.weights(entries, draw.counts, always_TA)
    mass = np.bincount(np.repeat(np.arange(len(entries)), entries), weights_E, minlength=len(entries))
    mass += PROBABILITIES[always_TA].sum(-1)
    return mass + PROBABILITIES[unit.tail] if len(unit.tail) else mass


def _weight_slack(draw: Draw, header: StoreHeader) -> np.ndarray:
    """How far from 1 the mass of a position may be [T].

    That of `threshold` is off by less than one draw for the tail, and a step for each id of the head.
    """
    slack = np.full(len(draw.num_kept), 1e-5)
    if header.scheme == "topk" or header.always:
        slack += _CODE_STEP
    if header.scheme == "threshold":
        slack += (1 + draw.num_kept / EXACT_STEPS) / header.draws
    return slack


def _full(unit: UnitTargets, header: StoreHeader) -> Iterator[str]:
    logp_TV = unit.logprobs.reshape(-1, header.vocabulary)
    mass = np.zeros(len(logp_TV))
    for i in range(0, len(logp_TV), _CHUNK):
        mass[i : i + _CHUNK] = np.exp(logp_TV[i : i + _CHUNK].astype(np.float32)).sum(-1, dtype=np.float64)
    slack = np.maximum(_SLACK[header.precision], unit.entropy * _HALF_STEP[header.precision])
    yield from _wrong_mass(mass, slack, unit)


def _hidden(unit: UnitTargets, header: StoreHeader) -> Iterator[str]:
    """Hidden states that are no numbers. (What they and the head give is the head's to say.)"""
    if header.precision == "float32":
        wrong = ~np.isfinite(unit.hidden)
    else:  # all bits of the exponent are ones
        exponent = np.uint16(0x7F80 if header.precision == "bfloat16" else 0x7C00)
        wrong = (unit.hidden & exponent) == exponent
    wrong_T = wrong.reshape(len(unit.entropy), -1).any(-1)
    if wrong_T.any():
        first = _first(wrong_T, unit.prompt_uids, unit.target_lengths)
        yield f"the hidden state of {int(wrong_T.sum()):,} positions is NaN or Inf, first in {first}"


def _wrong_mass(mass: np.ndarray, slack: np.ndarray, unit: UnitTargets) -> Iterator[str]:
    wrong = ~(np.abs(mass - 1) <= slack)
    if wrong.any():
        yield (
            f"the mass of {int(wrong.sum()):,} positions is not 1, first in "
            f"{_first(wrong, unit.prompt_uids, unit.target_lengths)}: {mass[wrong][0]:.6f}"
        )


def _first(flags: np.ndarray, names: list[str], lengths: np.ndarray | None = None) -> str:
    """The text of the first flag: one flag a text, or `lengths` of them a text."""
    at = int(np.argmax(flags))
    row = at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))
    return f"text {names[row]!r}"
