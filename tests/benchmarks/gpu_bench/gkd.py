"""Steps of TRL's GKDTrainer with a live dense teacher, on a device.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m gpu_bench.gkd
    STUDENT TEACHER DEVICE TOKENS LONGEST STEPS VOCABULARY

By the forward KL, on given texts (lmbda 0, beta 0). Prints one JSON object: seconds of a step, tokens, peak bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from statistics import median
from typing import Any

import torch
from students_bench.trl_trainers import WARM_UP, Clock, gkd

from gpu_bench.work import dense_model, peak, start_peak, wait


class _DeviceClock(Clock):
    """Waits for the device at both ends of a step."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        wait(self._device)
        super().on_step_begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wait(self._device)
        super().on_step_end()


def main() -> None:
    """Train, and time each step."""
    student, teacher, device = sys.argv[1:4]
    tokens, longest, steps, vocabulary = map(int, sys.argv[4:8])
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    start_peak(device)
    texts = torch.randint(3, vocabulary, (max(tokens // longest, 1), longest + 1)).tolist()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<eos>": 1, "<pad>": 0, "<unk>": 2}, unk_token="<unk>")),
        eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="left",
    )  # fmt: skip
    clock = _DeviceClock(device)
    with tempfile.TemporaryDirectory() as out:
        common = {
            "output_dir": out, "per_device_train_batch_size": len(texts), "gradient_accumulation_steps": 1,
            "bf16": device == "cuda", "max_steps": WARM_UP + steps, "learning_rate": 1e-4, "report_to": [],
            "lr_scheduler_type": "constant", "use_cpu": device == "cpu", "gradient_checkpointing": False,
            "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False,
        }  # fmt: skip
        rows = Dataset.from_dict({"input_ids": texts, "prompt": [""] * len(texts)})
        shared = {
            "model": dense_model(student, vocabulary, device).float(), "processing_class": tokenizer,
            "teacher_model": dense_model(teacher, vocabulary, device).eval(), "train_dataset": rows,
        }  # fmt: skip
        gkd(common, {**shared, "callbacks": [clock]}).train()
    took = median(wall for wall, _ in clock.took[WARM_UP:])
    print(json.dumps({"ms": took * 1e3, "tokens_per_s": len(texts) * longest / took, "peak_bytes": peak(device)}))


if __name__ == "__main__":
    main()
