"""Peak memory of scoring 8 x 512 tokens at 151,936 ids, above that of the same forward pass without its head.

python tests/benchmarks/teacher_bench/memory.py MODEL SCHEME

Prints one JSON object, in bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from teacher_bench.models import random_ids
from teacher_bench.rank import memory
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine


def main() -> None:
    """Both twice, so that what is made once is there already."""
    model, scheme = sys.argv[1:3]
    torch.set_num_threads(2)
    engine = TransformersEngine(TeacherConfig(model=model, score_tokens=8 * 512))
    spec = CaptureSpec(scheme, 21, "all", "float32", len(engine.tokenizer), 0, top_k=64)  # type: ignore[arg-type]
    texts = random_ids([512] * 8, len(engine.tokenizer))
    requests = [TextRequest(f"t{i}", 0, t[:1], t[1:]) for i, t in enumerate(texts)]
    ids = torch.tensor(texts)
    peaks = {}
    for _ in range(2):
        reset_peak()
        engine.model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        peaks["body"] = memory("VmHWM")
        reset_peak()
        engine.run(requests, spec)
        peaks["whole"] = memory("VmHWM")
    print(json.dumps(peaks | {"above": peaks["whole"] - peaks["body"]}))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    with torch.no_grad():
        main()
