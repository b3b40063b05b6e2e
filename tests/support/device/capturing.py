"""The capture of many positions at the size of a real vocabulary, counted."""

from __future__ import annotations

import numpy as np
import torch

from support.device.ledger import DEVICE, Ledger, counting
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.sampling.capture import CaptureBuffer

ROWS, VOCABULARY = 256, 151_936


def capture_rows() -> Ledger:
    """A sample of 21 at each of 256 positions of 151,936 ids, to the end of its text."""
    spec = CaptureSpec("systematic", 21, "answer", "float32", VOCABULARY, 0)
    buffer = CaptureBuffer([TextRequest("text", 0, [1], None, max_new_tokens=ROWS)], spec)
    generator = torch.Generator().manual_seed(0)
    logits_nV = torch.randn(ROWS, VOCABULARY, generator=generator, device=DEVICE)
    tokens_n = torch.randint(VOCABULARY, (ROWS,), generator=generator, device=DEVICE)
    with counting() as ledger:
        buffer.add(np.zeros(ROWS, np.int64), np.arange(1, ROWS + 1), logits_nV, tokens_n)
        buffer.finish([[1, *range(ROWS)]], [1])
    return ledger
