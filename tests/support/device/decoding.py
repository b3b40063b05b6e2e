"""A decode step of a teacher's rank, counted, with what it captures on the way."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from support.device.ledger import DEVICE, counting
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest

SHORT, LONG = 4, 12
"""New tokens of the texts of two runs, whose difference is steps and nothing else."""


def decode_step(model: Path, rank: int, ranks: int) -> Fraction:
    """How often a rank of this process group stops in a step of four texts. A collective."""
    from workers.teacher.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine(TeacherConfig(model=str(model), ep_size=ranks), rank=rank, ranks=ranks, device=DEVICE)
    engine.stop_ids = set()  # all texts are as long as they may be
    spec = CaptureSpec("systematic", 21, "answer", "float32", len(engine.tokenizer), 0)

    def counted(tokens: int) -> int:
        asked = [TextRequest(f"{rank}.{i}", 0, [5, 6, 7 + i], None, max_new_tokens=tokens) for i in range(4)]
        with counting() as ledger:
            engine.run(asked, spec, texts=False)
        return ledger.stops

    counted(SHORT)
    return Fraction(counted(LONG) - counted(SHORT), LONG - SHORT)
