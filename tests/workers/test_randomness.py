"""Numbers that depend on what they are for, and on nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import workers
from workers.randomness import generator, position_uniforms

CHECKOUT = Path(workers.__file__).parents[1]
KEY = (7, "draw", "prompt-1", 0)


@pytest.mark.parametrize("positions", [0, 1, 2, 3, 5, 8, 63, 64, 65, 999])
def test_the_number_of_a_position_does_not_depend_on_how_many_are_asked(positions: int) -> None:
    assert np.array_equal(position_uniforms(*KEY, positions), position_uniforms(*KEY, 1000)[:positions])


@pytest.mark.parametrize(
    "other",
    [
        (8, "draw", "prompt-1", 0),
        (7, "token", "prompt-1", 0),
        (7, "draw", "prompt-2", 0),
        (7, "draw", "prompt-1", 1),
        (7, "draw", "prompt-", 10),
        (7, "draw", "prompt-1\x1f0", 0),
    ],
)
def test_different_keys_give_unrelated_numbers(other: tuple[int, str, str, int]) -> None:
    mine, theirs = position_uniforms(*KEY, 4000), position_uniforms(*other, 4000)
    assert not np.isin(mine, theirs).any()
    assert abs(np.corrcoef(mine, theirs)[0, 1]) < 4.5 / np.sqrt(4000)


def test_numbers_are_uniform_in_the_unit_interval() -> None:
    u = np.concatenate([position_uniforms(0, "draw", f"p{i}", 0, 20) for i in range(1000)])
    assert u.min() >= 0 and u.max() < 1
    seen = np.histogram(u, 20, (0, 1))[0]
    assert ((seen - 1000) ** 2 / 1000).sum() < 60  # chi-square, 19 degrees of freedom
    first = np.array([position_uniforms(0, "draw", f"p{i}", 0, 1)[0] for i in range(2000)])
    assert abs(first.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / 2000)


def test_generators_are_independent_of_each_other() -> None:
    one, two = generator(1, "plan", "a"), generator(1, "plan", "a")
    one.random(10)
    assert np.array_equal(two.random(3), generator(1, "plan", "a").random(3))


def test_another_process_has_the_same_numbers() -> None:
    program = f"from workers.randomness import position_uniforms as u; print(u(*{KEY!r}, 3).tolist())"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(CHECKOUT)}
        out = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == str(position_uniforms(*KEY, 3).tolist())
