"""Ids by frequency rank: the more often an id is expected, the smaller the number that stands for it.

Ranks instead of ids make deltas small, which is worth about a byte and a half a token. A store has one table, made
from the teacher's distributions on a few held-out texts; of two writers that make one, who comes second takes the
first's.
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.targets.encoding.schema import id_type


class VocabOrder:
    """A permutation of the vocabulary's ids."""

    def __init__(self, id_of_order: np.ndarray) -> None:
        """From the ids in order of rank [V]. Raises ValueError if they are no permutation."""
        vocabulary = len(id_of_order)
        self.id_of_order = id_of_order.astype(np.uint32)
        self.order_of_id = np.full(vocabulary, vocabulary, np.uint32)
        if vocabulary and int(self.id_of_order.max()) < vocabulary:
            self.order_of_id[self.id_of_order] = np.arange(vocabulary, dtype=np.uint32)
        if (self.order_of_id == vocabulary).any():
            raise ValueError("targets: the vocabulary order is not a permutation of the vocabulary's ids")

    @staticmethod
    def identity(vocabulary: int) -> VocabOrder:
        return VocabOrder(np.arange(vocabulary))

    @staticmethod
    def by_frequency(expected_V: np.ndarray) -> VocabOrder:
        """From how often each id is expected; equals go by id, which in a BPE vocabulary is by frequency too."""
        return VocabOrder(np.argsort(-expected_V, kind="stable"))

    def to_bytes(self) -> bytes:
        """A Parquet file of one column, `id`."""
        sink = io.BytesIO()
        column = pa.array(self.id_of_order).cast(id_type(len(self.id_of_order)))
        pq.write_table(
            pa.table({"id": column}),
            sink,
            compression="zstd",
            compression_level=9,
            use_dictionary=False,
            column_encoding={"id": "BYTE_STREAM_SPLIT"},
        )
        return sink.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> VocabOrder:
        return VocabOrder(pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)["id"].to_numpy())
