"""Counter-based randomness: every number is a pure function of (run seed, purpose, key, position).

No state travels between processes, so a unit that is recomputed by the same kind of worker group is the same unit, and
neither the number of replicas nor the order of work can change a draw.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *key: str | int) -> np.random.Generator:
    """A Philox generator of its own for each (seed, purpose, key)."""
    text = "\x1f".join([str(seed), purpose, *map(str, key)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def position_uniforms(
    seed: int, purpose: str, prompt_uid: str, sample: int, positions: int, each: int = 1
) -> np.ndarray:
    """Uniform float64 numbers in [0, 1), `each` of them a position [positions, each] ([positions] where it is one).

    The p-th row belongs to position p whatever `positions` is.
    """
    numbers = generator(seed, purpose, prompt_uid, sample).random((positions, each))
    return numbers[:, 0] if each == 1 else numbers
