"""Samples of large sources: rows are counted exactly, and those that are read are spread over all of them."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.project import Project

from orchestrator.config.schema import PromptSource
from orchestrator.prompts.reading.places import PLACES
from orchestrator.prompts.reading.sample import EvenSample
from orchestrator.prompts.sources import SourceRows, screen

ROWS, MOST = 5000, 200


def drawn(rows: int, most: int, expected: int = 0) -> list[int]:
    sample = EvenSample(most)
    sample.expect(expected)
    for number in range(rows):
        if sample.wants():
            sample.keep(number, number)
    return sample.kept


# Which rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, MOST - 1, MOST])
def test_a_small_source_is_read_whole(rows: int) -> None:
    assert drawn(rows, MOST) == list(range(rows))


@pytest.mark.parametrize("rows", [MOST + 1, 3 * MOST, 1000, 4097, 50_000])
def test_of_a_large_one_about_half_of_the_most_or_more_are_read(rows: int) -> None:
    kept = drawn(rows, MOST)
    # Halving leaves half of what there was, but for the few by which multiples of the golden ratio are uneven.
    assert MOST / 2 - 10 <= len(kept) <= MOST and kept == sorted(kept)


@pytest.mark.parametrize("rows", [1000, 50_000])
def test_a_length_that_is_known_before_changes_nothing(rows: int) -> None:
    assert drawn(rows, MOST, expected=rows) == drawn(rows, MOST)


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8, 16, 20, 32, 64])
def test_rows_that_repeat_a_pattern_are_read_in_their_shares(period: int) -> None:
    kept = drawn(64_000, 2048)
    counts = Counter(number % period for number in kept)
    even = len(kept) / period
    assert all(abs(counts[phase] - even) <= 0.25 * even + 2 for phase in range(period))


def test_rows_are_read_from_every_part() -> None:
    kept = drawn(64_000, 2048)
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert max(gaps) <= 4 * 64_000 / len(kept) and kept[0] == 0


# Of which files -------------------------------------------------------------------------------------------------


def texts(rows: int = ROWS) -> list[dict[str, Any]]:
    return [{"id": i, "prompt": f"the fever\nis {i}"} for i in range(rows)]


def jsonl(path: Path) -> Path:
    """Blank lines are no rows."""
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + ("\n \n" if i % 7 == 0 else "\n") for i, row in enumerate(texts())))
    return path


def array(path: Path) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(texts()))
    return path


def lines_of_an_array(path: Path) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(texts(), indent=1))
    return path


def csv(path: Path) -> Path:
    """Rows over two lines each."""
    path = path.with_suffix(".csv")
    path.write_text("id,prompt\n" + "".join(f'{row["id"]},"{row["prompt"]}"\n' for row in texts()))
    return path


def compressed(path: Path) -> Path:
    plain = jsonl(path)
    packed = plain.with_name("rows.jsonl.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    return packed


def parquet(path: Path) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(texts()), path, row_group_size=1300)
    return path


def parquet_in_a_folder(path: Path) -> Path:
    path.mkdir()
    for part in range(2):
        pq.write_table(pa.Table.from_pylist(texts()[part * 2500 : (part + 1) * 2500]), path / f"{part}.parquet")
    return path


def sampled(path: Path, **source: Any) -> SourceRows:
    return screen("med", PromptSource(path=str(path), **source), "few")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.prompts.sources.FEW_ROWS", MOST)


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.prompts.reading.places.LARGE_BYTES", 1000)


@pytest.mark.parametrize("write", [jsonl, array, lines_of_an_array, csv, compressed, parquet, parquet_in_a_folder])
def test_rows_are_counted_exactly_and_read_as_they_are(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "rows")
    found = sampled(path)
    assert (found.rows, found.read) == (ROWS, len(found.prompts)) and 90 <= found.read <= MOST
    whole = screen("med", PromptSource(path=str(path)))
    assert (whole.rows, whole.read) == (ROWS, ROWS) and not whole.rejected
    by_id = {prompt.id: prompt for prompt in whole.prompts}
    assert all(prompt == by_id[prompt.id] for prompt in found.prompts)
    assert [p.row for p in found.prompts] == [by_id[p.id].row for p in found.prompts]
    numbers = [int(prompt.id.removeprefix("med/")) for prompt in found.prompts]
    assert numbers == drawn(ROWS, MOST), "whatever the format"


def test_a_limit_is_a_limit_of_the_rows_that_are_counted(tmp_path: Path) -> None:
    for write in (jsonl, parquet):
        found = sampled(write(tmp_path / "rows"), limit=1000)
        assert found.rows == 1000 and 90 <= found.read <= MOST and max(p.row for p in found.prompts) < 1000


def test_broken_rows_are_counted_too(project: Project) -> None:
    path = project.rows("rows.jsonl", *(row if i % 2 else "{" for i, row in enumerate(texts(1000))))
    found = sampled(path)
    assert found.rows == 1000 and found.read == len(found.prompts) + len(found.rejected)
    assert abs(len(found.rejected) - found.read / 2) <= 2


def test_row_groups_of_which_no_row_is_read_are_not_decoded(tmp_path: Path) -> None:
    """One that nobody reads may hold anything."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(texts()), path, row_group_size=5, compression="none", use_dictionary=False)
    chosen = {number // 5 for number in drawn(ROWS, MOST)}
    column = pq.read_metadata(path).row_group(next(g for g in range(ROWS // 5) if g not in chosen)).column(1)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    assert sampled(path).rows == ROWS
    with pytest.raises(ValueError, match=r"rows\.parquet"):
        screen("med", PromptSource(path=str(path)))


# Of large files -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("reading", ["few", "most"])
@pytest.mark.parametrize("write", [jsonl, array, lines_of_an_array, csv, compressed, parquet, parquet_in_a_folder])
def test_of_large_files_some_rows_are_read_as_they_are(
    write: Callable[[Path], Path], reading: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.prompts.sources.LARGE_SAMPLE", MOST)
    source = PromptSource(path=str(write(tmp_path / "rows")))
    found, whole = screen("med", source, reading), screen("med", source)
    assert found.placed and not whole.placed and whole.read == ROWS
    assert found.read == len(found.prompts) <= MOST + PLACES
    by_id = {prompt.id: prompt for prompt in whole.prompts}
    assert all(prompt == by_id[prompt.id] and prompt.row in (-1, by_id[prompt.id].row) for prompt in found.prompts)
    assert len({prompt.id for prompt in found.prompts}) == found.read, "no row twice"
    if write is jsonl:  # rows have 32 to 35 bytes, and some two more
        assert not found.exact and found.rows == pytest.approx(ROWS, rel=0.12)
    else:
        assert (found.rows, found.exact) == (ROWS, True)
    if write in (jsonl, parquet_in_a_folder):
        numbers = sorted(int(prompt.id.removeprefix("med/")) for prompt in found.prompts)
        assert numbers[0] == 0 and max(b - a for a, b in itertools.pairwise(numbers)) < ROWS / 2


@pytest.mark.usefixtures("all_is_large")
def test_broken_rows_of_large_files_are_told_without_a_number(project: Project) -> None:
    path = project.rows("rows.jsonl", *(row if i % 2 else "{" for i, row in enumerate(texts(1000))))
    found = sampled(path)
    assert found.read == len(found.prompts) + len(found.rejected) and found.rejected
    assert "a row: is not JSON" in str(found.rejected[-1])


@pytest.mark.usefixtures("all_is_large")
def test_a_source_with_a_limit_is_read_from_its_beginning(tmp_path: Path) -> None:
    found = screen("med", PromptSource(path=str(jsonl(tmp_path / "rows")), limit=30), "most")
    assert [prompt.row for prompt in found.prompts] == list(range(30)) and not found.placed
