"""A checkpoint that one number of ranks wrote at one ZeRO stage, resumed by others at others: each reads what its own
optimiser holds, and nothing is rounded. That training goes on to the same bits is in test_killed_students.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.programs.saving_ranks import Counted, Found, Group, run

from workers.student.checkpoints import parts
from workers.student.checkpoints.parts import read_slices, write_part
from workers.student.checkpoints.slices import KINDS, Slice

GROUPS = [
    Group(2, 1, steps=2),
    Group(4, 3),
    Group(2, 2, dtype="bfloat16"),
    Group(1, "auto"),
    Group(3, 3, dtype="bfloat16"),
    Group(2, 1, dtype="bfloat16"),
]
"""The first trains, each other one resumes from the one before, and saves. Masters are the same whatever is computed
in."""

WIDTH = 96
"""At which headers are next to nothing beside numbers."""


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return run(tmp_path_factory.mktemp("run"), GROUPS, WIDTH)


@pytest.mark.parametrize("at", range(1, len(GROUPS)))
def test_masters_and_moments_are_the_same_to_the_bit(at: int, groups: list[Found]) -> None:
    written, found = groups[0].state, groups[at].state
    assert found.keys() == written.keys() and {key.split(".")[0] for key in found} == set(KINDS)
    for key, numbers in written.items():
        assert numbers.dtype == torch.float32 and torch.equal(found[key], numbers), key
    assert len(written["exp_avg_sq.layers.0.weight"].unique()) > WIDTH


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_computed_with_is_the_same_to_the_bit(dtype: str, groups: list[Found]) -> None:
    made = [m for group, found in zip(GROUPS, groups, strict=True) if group.dtype == dtype for m in found.made]
    assert len(made) == 7 and all(torch.equal(m, made[0]) for m in made)


@pytest.mark.parametrize("at", range(1, len(GROUPS)))
def test_resuming_reads_the_state_once_over_all_ranks(at: int, groups: list[Found]) -> None:
    state = sum(4 * numbers.numel() for numbers in groups[at].state.values())
    assert state <= groups[at].read <= 1.1 * state


def test_pieces_that_touch_are_one_request_up_to_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices of one file, whose kinds lie end to end; the blocks hold ten numbers."""
    storage = Counted(tmp_path)

    def slices(*numbers: torch.Tensor) -> list[Slice]:
        return [Slice(n, 3, {kind: t + i for i, kind in enumerate(KINDS)}) for n, t in zip("ab", numbers, strict=True)]

    written, found = slices(torch.randn(7), torch.randn(25)), slices(torch.zeros(7), torch.zeros(25))
    (tmp_path / "c").mkdir()
    header = write_part(written, tmp_path / "c" / "part-00000.safetensors")
    read_slices(storage, "c", [header], found)
    assert all(torch.equal(a.tensors[k], b.tensors[k]) for a, b in zip(written, found, strict=True) for k in KINDS)
    assert storage.lengths == [4 * 32 * 3]
    storage.lengths.clear()
    monkeypatch.setattr(parts, "_BLOCK_BYTES", 40)
    read_slices(storage, "c", [header], found)
    assert sum(storage.lengths) == 4 * 32 * 3 and max(storage.lengths) <= 40


def test_a_checkpoint_that_lacks_numbers_is_refused(tmp_path: Path) -> None:
    held = [Slice("w", 0, {kind: torch.ones(4) for kind in KINDS})]
    wanted = [Slice("w", 2, {kind: torch.ones(4) for kind in KINDS})]
    (tmp_path / "c").mkdir()
    header = write_part(held, tmp_path / "c" / "part-00000.safetensors")
    with pytest.raises(OSError, match=r"lacks the numbers 4 to 5 of fp32\.w"):
        read_slices(Counted(tmp_path), "c", [header], wanted)
