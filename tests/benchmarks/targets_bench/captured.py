"""Targets drawn for real, by the teacher's own capture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from targets_bench.distributions import Distributions, Scored
from workers.targets.config import Scheme
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.detokenize import texts_and_ends
from workers.teacher.sampling.capture import CaptureBuffer

_CHUNK = 512
"""Positions whose logits exist at once."""


def spec_of(scheme: Scheme, draws: int, vocabulary: int, *, top_k: int = 0, marginal: bool = False) -> CaptureSpec:
    """What a run with this scheme captures at every position."""
    return CaptureSpec(scheme, draws, "all", "float32", vocabulary, seed=0, top_k=top_k, marginal=marginal)


def capture(
    distributions: Distributions, specs: list[CaptureSpec], tokenizer: Any, texts_per_unit: int
) -> list[list[UnitTargets]]:
    """The units of each spec, all from the same logits; positions stand in the order of the distributions."""
    units: list[list[UnitTargets]] = [[] for _ in specs]
    for texts, first in _units(distributions.texts, texts_per_unit):
        sequences = [t.prompt_token_ids for t in texts]
        buffers = [CaptureBuffer(texts, spec) for spec in specs]
        rows = np.repeat(np.arange(len(texts)), [len(s) - 1 for s in sequences])
        positions = np.concatenate([np.arange(1, len(s)) for s in sequences])
        for i in range(0, len(rows), _CHUNK):
            s = slice(i, min(i + _CHUNK, len(rows)))
            here = slice(first + s.start, first + s.stop)
            logits_nV = distributions.teacher_logits(here)
            hidden_nD = distributions.teacher_TD[here] if isinstance(distributions, Scored) else None
            for buffer in buffers:
                buffer.add(rows[s], positions[s], logits_nV, distributions.tokens_T[here], hidden_nD)
        strings, ends = texts_and_ends(tokenizer, sequences)
        for buffer, made in zip(buffers, units, strict=True):
            unit = buffer.finish(sequences, [1] * len(sequences))
            unit.texts, unit.ends = strings, ends
            made.append(unit)
    return units


def _units(texts: list[TextRequest], texts_per_unit: int) -> Iterator[tuple[list[TextRequest], int]]:
    """Blocks of texts, each with the place of its first position among all."""
    first = 0
    for i in range(0, len(texts), texts_per_unit):
        block = texts[i : i + texts_per_unit]
        yield block, first
        first += sum(len(t.prompt_token_ids) - 1 for t in block)
