"""Which parts of the prompt sources are read apart: runs of lines of a JSONL file, row groups of a Parquet file, a file
that can only be read from its beginning, or a whole source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.schema import PromptSource, RunConfig
from orchestrator.prompts.reading.files import DataFile, Row, rows_of
from orchestrator.prompts.reading.formats import RowReader
from orchestrator.prompts.reading.tables import parquet_groups
from orchestrator.prompts.sources import RawPrompt, RejectedRow, read_prompt, read_rows, source_files

SHARD_BYTES = 8 << 20
"""Bytes of a file's lines that are read by one process at a time."""
SHARD_ROWS = 16_384
"""Rows of a Parquet file that are."""


@dataclass(frozen=True)
class Shard:
    """A part of a source."""

    number: int
    """Its place among all: sources in the order of the settings, rows in theirs."""
    source: str
    file: int | None = None
    """Which of the source's files; None for all of the source."""
    begin: int = 0
    end: int | None = None
    """Of a file: from which byte (JSONL) or row group (Parquet) to which; None to its end. A line belongs to the shard
    in which it begins."""

    def rows(self, config: RunConfig) -> Iterator[RawPrompt | RejectedRow]:
        """Its rows, each usable or rejected. `RawPrompt.row` is from 0 in the file's shard. Raises ValueError, naming
        the source, where it cannot be read."""
        source = config.prompts[self.source]
        reader = RowReader(source)
        try:
            for row in self._rows(source):
                yield read_prompt(self.source, reader, row, numbered=self.begin == 0)
        except ValueError as error:
            raise ValueError(f"prompts.{self.source}: {error}") from None

    def _rows(self, source: PromptSource) -> Iterator[Row]:
        if self.file is None:
            return read_rows(source)
        files = source_files(source)
        assert files is not None
        several = len(files) > 1
        return rows_of([files[self.file]], part=(self.begin, self.end), named=several)


def shards_of(config: RunConfig) -> list[Shard]:
    """All parts of all sources. Raises ValueError for one that is not there."""
    shards: list[Shard] = []
    for name, source in config.prompts.items():
        try:
            parts = list(_parts(source))
        except (ValueError, OSError) as error:
            raise ValueError(f"prompts.{name}: {error}") from None
        shards += [Shard(len(shards) + n, name, *part) for n, part in enumerate(parts)]
    return shards


def _parts(source: PromptSource) -> Iterator[tuple[int | None, int, int | None]]:
    files = source_files(source) if source.limit is None else None
    if not files or source.dataset_config is not None:  # a dataset of the Hub; the first rows of a source
        yield None, 0, None
        return
    for number, file in enumerate(files):
        for begin, end in _cuts(file):
            yield number, begin, end


def _cuts(file: DataFile) -> Iterator[tuple[int, int | None]]:
    by = file.parts_by
    if by == "lines":
        size = file.size()
        for begin in range(0, max(size, 1), SHARD_BYTES):
            yield begin, begin + SHARD_BYTES if begin + SHARD_BYTES < size else None
    elif by == "groups":
        with file.open() as opened:
            groups = parquet_groups(opened)
        begin, rows = 0, 0
        for number, count in enumerate(groups):
            rows += count
            if rows >= SHARD_ROWS and number + 1 < len(groups):
                yield begin, number + 1
                begin, rows = number + 1, 0
        yield begin, None
    else:
        yield 0, None
