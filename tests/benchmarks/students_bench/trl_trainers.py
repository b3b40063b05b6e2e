"""Steps of TRL's trainers with a live teacher on the same token ids, by the forward KL. In TRL's environment.

python tests/benchmarks/students_bench/trl_trainers.py FOLDER STEPS KIND

    gkd            GKDTrainer, off-policy (lmbda 0), forward KL (beta 0)
    distillation   DistillationTrainer, forward KL (beta 0). It writes its own texts; here it is given them, so that
                   what is timed is its step alone: both bodies, and its chunked loss

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
from transformers import TrainerCallback

THREADS, WARM_UP = 2, 3


def memory(name: str) -> int:
    """A line of this process's status in bytes, as teacher_bench/rank.py reads it."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


class Clock(TrainerCallback):
    """Wall and CPU-seconds of each step, from its beginning to the end of the optimiser's."""

    def __init__(self) -> None:
        self.took: list[tuple[float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.took.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wall, cpu = self.took[-1]
        self.took[-1] = (time.perf_counter() - wall, time.process_time() - cpu)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The first token is the prompt, so that all others are trained on, as ours are."""
    ids = torch.tensor([r["input_ids"] for r in rows])
    labels = ids.clone()
    labels[:, 0] = -100
    ones = torch.ones_like(ids)
    given = {"input_ids": ids, "attention_mask": ones, "labels": labels}
    return given | {"prompts": ids[:, :1], "prompt_attention_mask": ones[:, :1]}


def gkd(common: dict[str, Any], shared: dict[str, Any]) -> Any:
    """GKDTrainer on the texts."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    config = GKDConfig(lmbda=0.0, beta=0.0, temperature=1.0, dataset_kwargs={"skip_prepare_dataset": True}, **common)
    trainer = GKDTrainer(args=config, data_collator=collate, **shared)
    trainer.data_collator = collate
    return trainer


def distillation(common: dict[str, Any], shared: dict[str, Any]) -> Any:
    """DistillationTrainer, whose completions are the texts."""
    from trl import DistillationConfig, DistillationTrainer

    class Given(DistillationTrainer):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            ids = torch.tensor([r["input_ids"] for r in inputs])
            prompt, answer = ids[:, :1], ids[:, 1:]
            found = {"prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt)}
            found |= {"completion_ids": answer, "completion_mask": torch.ones_like(answer)}
            return found | {"num_items_in_batch": torch.tensor(answer.numel())}

    return Given(args=DistillationConfig(beta=0.0, temperature=1.0, **common), **shared)


def main() -> None:
    """Train, and time each step."""
    folder, steps, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(THREADS)
    import trl  # noqa: F401
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    make = {"gkd": gkd, "distillation": distillation}[kind]
    before, clock = memory("VmHWM"), Clock()
    texts = json.loads((folder / "texts.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<eos>": 1, "<pad>": 0, "<unk>": 2}, unk_token="<unk>")),
        eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="left",
    )  # fmt: skip
    load = {"dtype": torch.float32}
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder / n, **load) for n in ("student", "teacher"))
    with tempfile.TemporaryDirectory() as out:
        common = {
            "output_dir": out, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "bf16": False,
            "max_steps": WARM_UP + steps, "learning_rate": 1e-4, "lr_scheduler_type": "constant", "use_cpu": True,
            "gradient_checkpointing": False, "save_strategy": "no", "report_to": [], "logging_strategy": "no",
            "disable_tqdm": True, "remove_unused_columns": False, "dataloader_pin_memory": False,
        }  # fmt: skip
        rows = Dataset.from_dict({"input_ids": texts, "prompt": [""] * len(texts)})
        shared = {"model": student, "teacher_model": teacher, "processing_class": tokenizer, "train_dataset": rows}
        make(common, {**shared, "callbacks": [clock]}).train()
    walls, cpus = zip(*clock.took[WARM_UP:], strict=True)
    tokens = 4 * (len(texts[0]) - 1)
    figures = {"tokens": tokens, "wall_s": median(walls), "cpu_s": median(cpus)}
    print(json.dumps({kind: figures, "peak": memory("VmHWM"), "before": before}))


if __name__ == "__main__":
    main()
