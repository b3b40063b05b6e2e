"""What a capture of 256 rows of 151,936 ids takes by scheme, beside the head's product that makes their logits."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch

from gpu_bench.work import TEACHER_WIDTH, VOCABULARY, seconds
from workers.targets.config import Scheme
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.sampling.capture import CaptureBuffer

ROWS = 256


def measure(args: Any) -> dict[str, float]:
    """Milliseconds for 256 rows: `head`, and of each scheme with all of its reads, to the end of the text."""
    vocabulary = args.vocabulary or VOCABULARY
    hidden_nH = torch.randn(ROWS, TEACHER_WIDTH, device=args.device).bfloat16()
    W_VH = torch.randn(vocabulary, TEACHER_WIDTH, device=args.device).bfloat16() * 0.05
    logits_nV = torch.nn.functional.linear(hidden_nH, W_VH).float()
    tokens_n = torch.randint(vocabulary, (ROWS,), device=args.device)
    found = {"head": 1e3 * seconds(lambda _: torch.nn.functional.linear(hidden_nH, W_VH), args.device, args.steps)}
    for scheme in get_args(Scheme):
        top_k = 64 if scheme == "topk" else 0
        spec = CaptureSpec(scheme, 21, "answer", "bfloat16" if scheme == "hidden" else "float32", vocabulary, 0)
        spec = CaptureSpec(**{**vars(spec), "top_k": top_k})

        def capture(i: int, spec: CaptureSpec = spec) -> None:
            buffer = CaptureBuffer([TextRequest(f"text {i}", 0, [1], None, max_new_tokens=ROWS)], spec)
            buffer.add(np.zeros(ROWS, np.int64), np.arange(1, ROWS + 1), logits_nV, tokens_n, hidden_nH)
            buffer.finish([[1, *range(ROWS)]], [1])

        found[scheme] = 1e3 * seconds(capture, args.device, args.steps)
    return found
