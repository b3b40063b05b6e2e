"""What of freezing is done apart, by whichever process: a shard made a piece, a manifest shard packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from cluster.storage import open_storage
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.freezing.packing import Packing, pack
from orchestrator.prompts.freezing.pieces import Piece, PieceMaker
from orchestrator.prompts.freezing.shards import Shard
from orchestrator.prompts.sources import Screened
from orchestrator.prompts.tokenizing import TeacherTokenizer
from workers.manifest import UnitPlace


class Work(Protocol):
    """Something to do with items, each apart."""

    done: str
    """What has been done to the items that are, in words."""

    def __call__(self, item: Any, /) -> Any: ...


class Spread(Protocol):
    """Does items of work, in any order and place; yields what came of each as it is done."""

    def __call__(self, work: Work, items: Sequence[Any], /) -> Iterator[Any]: ...


def in_turn(work: Work, items: Sequence[Any], /) -> Iterator[Any]:
    """All of it here."""
    return map(work, items)


def told(spread: Spread, tell: Callable[[str], None]) -> Spread:
    """The same, which tells how far the work is."""

    def telling(work: Work, items: Sequence[Any], /) -> Iterator[Any]:
        tell(f"0 of {len(items):,} {work.done}")
        for count, found in enumerate(spread(work, items), start=1):
            tell(f"{count:,} of {len(items):,} {work.done}")
            yield found

    return telling


def teacher_tokenizers(config: RunConfig) -> dict[str, TeacherTokenizer]:
    """Every teacher's, by name."""
    return {name: TeacherTokenizer.of_transformers(teacher) for name, teacher in config.teachers.items()}


@dataclass
class MakePieces:
    """Shards in, pieces out; their tokens go to `uri`."""

    config: RunConfig
    uri: str
    tokenizers: dict[str, TeacherTokenizer] | None = None
    """Those of all teachers, where they are at hand."""
    screened: Screened | None = None
    """The rows of all sources, where they are: then each shard is a whole source."""
    done: str = "parts of the sources read and tokenized"

    def __call__(self, shard: Shard) -> Piece:
        if self.screened is None:
            return self._maker.make(shard.number, shard.rows(self.config))
        rows = self.screened[shard.source]
        return self._maker.make(shard.number, [*rows.rejected, *rows.prompts])

    @cached_property
    def _maker(self) -> PieceMaker:
        tokenizers = self.tokenizers or teacher_tokenizers(self.config)
        return PieceMaker(self.config, open_storage(self.uri), tokenizers)


@dataclass
class PackShards:
    """Packings in, and where their units lie out."""

    pieces_uri: str
    run_uri: str
    done: str = "parts of the manifest written"

    def __call__(self, packing: Packing) -> dict[int, UnitPlace]:
        return pack(open_storage(self.pieces_uri), open_storage(self.run_uri), packing)
