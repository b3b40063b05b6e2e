"""The vocabulary order outlives the loss or damage of either of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.storage import LocalStorage
from workers.targets.commits.damage import DamagedStore
from workers.targets.encoding.vocab_order import VocabOrder
from workers.targets.vocab_order_files import VocabOrderFiles

V = 300


@pytest.fixture
def files(local: LocalStorage) -> VocabOrderFiles:
    files = VocabOrderFiles(local, "targets/train", V)
    assert not files.exist()
    files.create(np.random.default_rng(0).random(V))
    return files


def path(files: VocabOrderFiles, local: LocalStorage, which: int) -> Path:
    return local.root / files.keys[which]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "a flipped bit":
        data[len(data) // 3] ^= 4
        path.write_bytes(data)
    elif how == "another vocabulary":
        path.write_bytes(VocabOrder.identity(V + 1).to_bytes())
    else:
        path.write_bytes({"truncated": data[:-9], "empty": b""}[how])


def test_the_first_writers_table_is_the_stores(files: VocabOrderFiles, local: LocalStorage) -> None:
    table = files.read().id_of_order
    expected = np.random.default_rng(0).random(V)
    assert (np.diff(expected[table]) <= 0).all()
    files.create(np.random.default_rng(1).random(V))
    assert (VocabOrderFiles(local, "targets/train", V).read().id_of_order == table).all()
    assert files.problems() == [] and files.fix() == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["missing", "truncated", "a flipped bit", "empty", "another vocabulary"])
def test_either_file_serves_and_fixs_the_other(
    how: str, which: int, files: VocabOrderFiles, local: LocalStorage
) -> None:
    table, whole = files.read().id_of_order, path(files, local, which).read_bytes()
    damage(path(files, local, which), how)
    assert (files.read().id_of_order == table).all()
    (problem,) = files.problems()
    assert problem.startswith(files.keys[which])
    assert files.fix() == [problem]
    assert path(files, local, which).read_bytes() == whole and files.problems() == []


def test_the_loss_of_both_is_an_error_that_says_what_to_do(files: VocabOrderFiles, local: LocalStorage) -> None:
    damage(path(files, local, 0), "missing")
    damage(path(files, local, 1), "truncated")
    assert len(files.fix()) == 2
    with pytest.raises(DamagedStore, match=r"vocab_order.parquet is missing and .*vocab_order.copy.parquet is damaged"):
        files.read()


def test_frequencies_of_another_vocabulary_are_refused(local: LocalStorage) -> None:
    with pytest.raises(ValueError, match="300"):
        VocabOrderFiles(local, "targets/train", V).create(np.zeros(0))


@pytest.mark.parametrize("ids", [[0, 1, 1], [0, 1, 3], [0, 1, 5]])
def test_a_table_is_a_permutation_or_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="permutation"):
        VocabOrder(np.array(ids))
