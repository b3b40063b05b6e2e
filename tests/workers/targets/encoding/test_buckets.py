"""Numbers as buckets and plain bits: nothing lost, and no more bits than a number has."""

from __future__ import annotations

import numpy as np
import pytest

from workers.targets.encoding.buckets import WIDTHS, from_buckets, pack, to_buckets, unpack


def numbers(n: int = 4000, most: int = 262_144) -> np.ndarray:
    """Small and large ones alike, with the powers of two and their neighbours."""
    powers = 2 ** np.arange(19)
    drawn = np.exp(np.random.default_rng(0).uniform(0, np.log(most), n)).astype(np.int64)
    return np.unique(np.concatenate([drawn, powers, powers - 1, powers + 1, np.arange(300)]))


def test_every_number_comes_back() -> None:
    buckets, rest = to_buckets(numbers())
    assert buckets.dtype == np.uint8
    assert (from_buckets(buckets, rest) == numbers()).all()


def test_a_bucket_is_a_quarter_of_a_doubling() -> None:
    """By plain loops, as FORMAT.md says it."""
    for n, bucket, rest in zip(numbers(), *to_buckets(numbers()), strict=True):
        bits = f"{n + 1:b}"
        assert bucket == 4 * (len(bits) - 1) + int((bits[1:3] + "00")[:2], 2)
        assert WIDTHS[bucket] == max(len(bits) - 3, 0)
        assert rest == int(bits[3:] or "0", 2)


@pytest.mark.parametrize("lengths", [[0], [1], [0, 3, 0, 0, 5], [7] * 300, [0, 2000, 1]])
def test_packed_bits_come_back_and_each_segment_begins_at_a_byte(lengths: list[int]) -> None:
    rng, total = np.random.default_rng(1), sum(lengths)
    widths = rng.integers(0, 17, total)
    rest = (rng.random(total) * (1 << widths)).astype(np.int64)
    data, sizes = pack(rest, widths, np.array(lengths))
    assert len(data) == sizes.sum()
    assert (unpack(data, widths, np.array(lengths)) == rest).all()
    at = byte = 0
    for length, size in zip(lengths, sizes, strict=True):
        own = slice(at, at + length)
        assert size == -(-int(widths[own].sum()) // 8)
        value = int.from_bytes(data[byte : byte + size].tobytes(), "little")
        for number, width in zip(rest[own].tolist(), widths[own].tolist(), strict=True):
            assert value & ((1 << width) - 1) == number
            value >>= width
        at, byte = at + length, byte + size
