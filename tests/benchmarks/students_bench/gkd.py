"""Steps of TRL's GKDTrainer on the same token ids: off-policy (lmbda 0), forward KL (beta 0). In TRL's environment.

python tests/benchmarks/students_bench/gkd.py FOLDER STEPS

Prints one JSON object like ours.py's. Everything that only costs (logging, checkpointing of activations, bfloat16 on a
CPU) is off.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch

THREADS, WARM_UP = 2, 3


def memory(name: str) -> int:
    """A line of this process's status in bytes, as teacher_bench/rank.py reads it."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The first token is the prompt, so that all others are trained on, as ours are."""
    ids = torch.tensor([r["input_ids"] for r in rows])
    labels = ids.clone()
    labels[:, 0] = -100
    ones = torch.ones_like(ids)
    given = {"input_ids": ids, "attention_mask": ones, "labels": labels}
    return given | {"prompts": ids[:, :1], "prompt_attention_mask": ones[:, :1]}


def main() -> None:
    """Train, and time each step from its beginning to the end of the optimiser's."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(THREADS)
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    before = memory("VmHWM")
    took: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            took.append((time.perf_counter(), time.process_time()))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = took[-1]
            took[-1] = (time.perf_counter() - wall, time.process_time() - cpu)

    texts = json.loads((folder / "texts.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<eos>": 1, "<pad>": 0, "<unk>": 2}, unk_token="<unk>")),
        eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    load = {"dtype": torch.float32}
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder / n, **load) for n in ("student", "teacher"))
    with tempfile.TemporaryDirectory() as out:
        config = GKDConfig(
            out, lmbda=0.0, beta=0.0, temperature=1.0, per_device_train_batch_size=4, gradient_accumulation_steps=1,
            max_steps=WARM_UP + steps, learning_rate=1e-4, lr_scheduler_type="constant", use_cpu=True, bf16=False,
            gradient_checkpointing=False, save_strategy="no", report_to=[], logging_strategy="no", disable_tqdm=True,
            remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = GKDTrainer(
            model=student, teacher_model=teacher, args=config, data_collator=collate, processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"input_ids": texts}), callbacks=[Clock()],
        )  # fmt: skip
        trainer.data_collator = collate
        trainer.train()
    walls, cpus = zip(*took[WARM_UP:], strict=True)
    tokens = 4 * (len(texts[0]) - 1)
    figures = {"tokens": tokens, "wall_s": median(walls), "cpu_s": median(cpus)}
    print(json.dumps({"gkd": figures, "peak": memory("VmHWM"), "before": before}))


if __name__ == "__main__":
    main()
