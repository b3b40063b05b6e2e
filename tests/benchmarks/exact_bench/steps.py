"""A student's step on hidden states, beside every log-probability and a systematic sample: time and memory.

Student and teacher are random, 4 layers of 256 and 8 of 512, a step is 4 texts of 190 tokens: nearly all of it is
heads, the student's three products and the teacher's one of twice the width, so that a step of a real student, whose
layers are most of it, is nearer to 1 than what is shown here. `full` reads its log-probabilities from Parquet as any
student does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from students_bench.programs import program
from students_bench.work import make_work
from targets_bench.tables import show

VOCABULARIES = {49_152: 16, 151_936: 8}
"""Texts of each: what is to be stored of all log-probabilities is a gigabyte at most."""
KINDS = ["sparse", "full", "hidden", "hidden_bf16"]
LARGEST = max(VOCABULARIES)


def step_figures(rounds: int, steps: int) -> dict[str, Any]:
    """Ratios of the time of a step on hidden states over that on what comes after `over`: more than 1 is slower.
    Medians over rounds, in each of which kinds take turns in one process; the memory is that of a process of its own,
    above what its imports hold. Ratios without a vocabulary are of the largest."""
    figures: dict[str, Any] = {}
    for vocabulary, texts in VOCABULARIES.items():
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as name:
            schemes = ["systematic", "full", "hidden", "hidden_bf16"]
            folder = make_work(Path(name), vocabulary, texts=texts, tokens=190, schemes=schemes)
            found = [program("ours.py", folder, steps, *KINDS) for _ in range(rounds)]
            peaks = {kind: program("ours.py", folder, 1, kind) for kind in KINDS}
        per_cpu_s = {kind: median(r[kind]["tokens"] / r[kind]["cpu_s"] for r in found) for kind in KINDS}
        peak_mb = {kind: (p["peak"] - p["before"]) / 1e6 for kind, p in peaks.items()}
        for kind in KINDS:
            figures[f"{kind}_tokens_per_cpu_s_{vocabulary}"] = round(per_cpu_s[kind], 1)
            figures[f"{kind}_peak_mb_{vocabulary}"] = round(peak_mb[kind])
        for other in ("sparse", "full"):
            for by, end in (("wall_s", ""), ("cpu_s", "_cpu")):
                ratio = round(median(r["hidden"][by] / r[other][by] for r in found), 3)
                figures[f"hidden_over_{other}_step{end}_{vocabulary}"] = ratio
                if vocabulary == LARGEST:
                    figures[f"hidden_over_{other}_step{end}"] = ratio
        wall_s = {kind: median(r[kind]["wall_s"] for r in found) for kind in KINDS}
        rows = [[kind, wall_s[kind], per_cpu_s[kind], peak_mb[kind]] for kind in KINDS]
        show(f"a step of 4 x 190 tokens, {vocabulary:,} ids", ["", "wall s", "tokens/CPU-s", "peak MB"], rows)
    return figures
