"""Whole numbers of very different sizes as a small bucket number and a few plain bits.

Bucket numbers grow by four with each doubling: small ones are common, and a general compressor codes them near their
entropy. What tells the numbers of one bucket apart is nearly uniform, and is packed as plain bits. On frequency ranks
of kept ids this takes 9.7 bits where bytes split into planes take 10.5: a low byte cannot know its high byte there.

Number n is kept as m = n + 1, of b bits. Its bucket is 4 (b - 1) + the two bits after the leading one (as if zeros
followed, where m has fewer), and the b - 3 bits after those are written as they are.
"""

from __future__ import annotations

import numpy as np

from workers.targets.encoding.segments import firsts

_BUCKETS = 4 * 32


def _widths_and_bases() -> tuple[np.ndarray, np.ndarray]:
    octave, quarter = np.divmod(np.arange(_BUCKETS, dtype=np.int64), 4)
    widths = np.maximum(octave - 2, 0)
    return widths, np.where(octave >= 2, (4 + quarter) << widths, (4 + quarter) >> np.maximum(2 - octave, 0))


WIDTHS, _BASES = _widths_and_bases()
"""Plain bits of a number of each bucket."""


def to_buckets(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each number (uint8), and its plain bits as a number (int64)."""
    m = numbers.astype(np.int64) + 1
    octave = np.frexp(m.astype(np.float64))[1].astype(np.int64) - 1
    quarter = np.where(octave >= 2, m >> np.maximum(octave - 2, 0), m << np.maximum(2 - octave, 0)) & 3
    buckets = 4 * octave + quarter
    return buckets.astype(np.uint8), m - _BASES[buckets]


def from_buckets(buckets: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The inverse of `to_buckets` (int64)."""
    return _BASES[buckets] + rest - 1


def pack(rest: np.ndarray, widths: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest `widths` bits of each number, lowest first, one after another in each segment of `lengths` numbers.

    Returns bytes, and how many each segment takes: it begins at a whole byte.
    """
    start, byte_R = _places(widths, lengths)
    size = int(byte_R.sum())
    word, shifted = start >> 5, rest << (start & 31)
    # Bits of a word do not overlap, so that their sum is the word; float64 holds it exactly.
    words = np.bincount(word, shifted & 0xFFFFFFFF, size // 4 + 2) + np.bincount(word + 1, shifted >> 32, size // 4 + 2)
    return words.astype("<u4").view(np.uint8)[:size], byte_R


def unpack(data: np.ndarray, widths: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The inverse of `pack`: the numbers (int64)."""
    start, _ = _places(widths, lengths)
    at = start >> 3
    padded = np.concatenate([data, np.zeros(4, np.uint8)]).astype(np.uint32)
    # Thirty-two bits from the byte in which a number begins hold it: none is wider than 25.
    window = padded[at] | padded[at + 1] << 8 | padded[at + 2] << 16 | padded[at + 3] << 24
    return ((window >> (start & 7).astype(np.uint32)) & ((1 << widths) - 1)).astype(np.int64)


def _places(widths: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bit at which each number begins, and the whole bytes of each segment."""
    ends = np.concatenate([[0], np.cumsum(widths)])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    byte_R = (ends[bounds[1:]] - ends[bounds[:-1]] + 7) // 8
    return ends[:-1] + np.repeat(8 * firsts(byte_R) - ends[bounds[:-1]], lengths), byte_R
