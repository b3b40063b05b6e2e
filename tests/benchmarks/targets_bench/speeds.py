"""Tokens per CPU-second on one thread: from logits to targets, to Parquet, and back to a student's tensors."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from targets_bench.distributions import Distributions
from workers.student.batches.batching import micro_batches
from workers.student.config import LossConfig, TrainConfig
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.codec import decode, encode
from workers.targets.encoding.schema import StoreHeader
from workers.targets.encoding.vocab_order import VocabOrder
from workers.targets.reader import rows_of
from workers.targets.store import to_parquet
from workers.teacher.engine import CaptureSpec
from workers.teacher.sampling.capture import CaptureBuffer

_LOGITS = 2048
"""Positions whose logits are held: 400 MB at 49,152 ids, far more than a cache."""

_TEXT = pa.list_(pa.list_(pa.int32()))
_PROBABILITIES = pa.list_(pa.list_(pa.float32()))


def cpu_seconds(work: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median CPU-seconds of each piece of work (all threads of the process); the pieces take turns."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for repetition in range(repetitions + 1):
        for name, run in work.items():
            started = time.process_time()
            run()
            if repetition:  # the first one warms up
                spent[name].append(time.process_time() - started)
    return {name: statistics.median(s) for name, s in spent.items()}


def capture_speeds(
    distributions: Distributions, specs: Mapping[str, CaptureSpec], repetitions: int
) -> dict[str, float]:
    """From a forward pass's logits to a unit's targets, softmax included, text after text as the engine does it."""
    texts, held = [], 0
    for text in distributions.texts:
        if held and held + len(text.prompt_token_ids) - 1 > _LOGITS:
            break
        texts.append(text)
        held += len(text.prompt_token_ids) - 1
    ends = accumulate(len(t.prompt_token_ids) - 1 for t in texts)
    spans = [slice(end - len(t.prompt_token_ids) + 1, end) for t, end in zip(texts, ends, strict=True)]
    logits_TV = torch.cat([distributions.teacher_logits(s) for s in spans])

    def run(spec: CaptureSpec) -> UnitTargets:
        buffer = CaptureBuffer(texts, spec)
        for row, s in enumerate(spans):
            positions = np.arange(1, 1 + s.stop - s.start)
            buffer.add(np.full(len(positions), row), positions, logits_TV[s], distributions.tokens_T[s])
        return buffer.finish([t.prompt_token_ids for t in texts], [1] * len(texts))

    work = {name: lambda spec=spec: run(spec) for name, spec in specs.items()}
    work["softmax alone"] = lambda: [float(logits_TV[i : i + 64].softmax(-1)[0, 0]) for i in range(0, held, 64)]
    return {name: held / seconds for name, seconds in cpu_seconds(work, repetitions).items()}


def encode_speeds(
    units: list[UnitTargets], header: StoreHeader, vocab_order: VocabOrder, repetitions: int
) -> tuple[dict[str, float], list[bytes], float]:
    """A unit's arrays to Parquet, and the same targets as lists of lists. Also our files, and the lists' bytes a token.

    "list schema" begins with the lists ready made, as an inference server hands them over.
    """
    about = {"unit": 0, "temperature": 1.0}
    lists = [_as_lists(unit, header) for unit in units]
    tables = [encode(unit, header, vocab_order) for unit in units]
    seconds = cpu_seconds(
        {
            "encode": lambda: [to_parquet(encode(unit, header, vocab_order), header, about) for unit in units],
            "of it, arrays to Arrow": lambda: [encode(unit, header, vocab_order) for unit in units],
            "of it, Arrow to Parquet": lambda: [to_parquet(table, header, about) for table in tables],
            "list schema": lambda: [_list_schema(*made) for made in lists],
            "list schema, lists made": lambda: [_list_schema(*_as_lists(u, header)) for u in units],
        },
        repetitions,
    )
    tokens = _tokens(units)
    files = [to_parquet(table, header, about) for table in tables]
    size = sum(len(_list_schema(*made)) for made in lists) / tokens
    return {name: tokens / s for name, s in seconds.items()}, files, size


def decode_speeds(
    files: list[bytes], header: StoreHeader, vocab_order: VocabOrder, tokens: int, repetitions: int
) -> dict[str, float]:
    """Parquet bytes in memory to a student's micro-batches, and each step of the way by itself."""
    loss, most = LossConfig(), TrainConfig().micro_tokens
    tables = [pq.ParquetFile(io.BytesIO(data)).read() for data in files]
    units = [decode(table, header, vocab_order) for table in tables]
    rows = [rows_of(unit, header) for unit in units]

    def whole() -> None:
        for data in files:
            unit = decode(pq.ParquetFile(io.BytesIO(data)).read(), header, vocab_order)
            micro_batches(rows_of(unit, header), loss, most)

    seconds = cpu_seconds(
        {
            "bytes to tensors": whole,
            "of it, Parquet to Arrow": lambda: [pq.ParquetFile(io.BytesIO(data)).read() for data in files],
            "of it, decode": lambda: [decode(table, header, vocab_order) for table in tables],
            "of it, rows": lambda: [rows_of(unit, header) for unit in units],
            "of it, micro-batches": lambda: [micro_batches(r, loss, most) for r in rows],
        },
        repetitions,
    )
    return {name: tokens / s for name, s in seconds.items()}


def _tokens(units: list[UnitTargets]) -> int:
    return sum(int(unit.target_lengths.sum()) for unit in units)


def _as_lists(unit: UnitTargets, header: StoreHeader) -> tuple[list, list, list]:
    """Tokens, kept ids and weights of every text as Python lists, one a position."""
    entry_at = np.concatenate([[0], np.cumsum(unit.num_kept.astype(np.int64))])
    weights_E = header.weights(unit.num_kept, unit.counts, np.zeros((len(unit.num_kept), 0), np.uint16))
    tokens, ids, weights = [], [], []
    t = s = 0
    for length, targets in zip(unit.lengths, unit.target_lengths, strict=True):
        spans = [slice(entry_at[i], entry_at[i + 1]) for i in range(t, t + targets)]
        tokens.append(unit.tokens[s : s + length].tolist())
        ids.append([unit.ids[e].tolist() for e in spans])
        weights.append([weights_E[e].tolist() for e in spans])
        t, s = t + targets, s + length
    return tokens, ids, weights


def _list_schema(tokens: list, ids: list, weights: list) -> bytes:
    """The usual schema: a row a text, with a list a position."""
    table = pa.table(
        {
            "input_ids": pa.array(tokens, pa.list_(pa.int32())),
            "ids": pa.array(ids, _TEXT),
            "probabilities": pa.array(weights, _PROBABILITIES),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
