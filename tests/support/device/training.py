"""An optimiser step of a student's worker, counted."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from support.device.ledger import DEVICE, Ledger, counting
from workers.student.config import LossConfig, TrainConfig
from workers.targets.reader import TargetRow

V, K = 300, 9


def train_step(layers: int) -> Ledger:
    """The second step of a random student of so many layers, by this process group, in bfloat16 with ZeRO-2, as it is
    on GPUs; its texts ready ahead. A collective."""
    import deepspeed
    import torch.distributed as dist
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from workers.student.models.student_model import DistillationModel
    from workers.student.training.engine import engine_over
    from workers.student.training.step import Optimiser

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(vocab_size=V, num_hidden_layers=layers, tie_word_embeddings=True, **sizes, **heads)
    train = TrainConfig(tokens=10_000, batch_tokens=200, micro_tokens=64, workers=dist.get_world_size())
    model = DistillationModel(Qwen3ForCausalLM(config).bfloat16().train())
    optimiser = Optimiser(engine_over(model, train, "bfloat16"), DEVICE, LossConfig(), train)
    rows = [_row(i) for i in range(8)]
    optimiser.step(rows, 0, optimiser.share_ahead(rows, 0))
    share = optimiser.share_ahead(rows, 200)
    accelerator = deepspeed.get_accelerator()  # its "cpu" is the device
    with patch.object(accelerator, "current_device_name", lambda: DEVICE), counting() as ledger:
        optimiser.step(rows, 200, share)
    return ledger


def _row(number: int) -> TargetRow:
    """A text of 20 to 27 tokens with random sparse targets at all but the first."""
    rng = np.random.default_rng(number)
    T = 19 + number
    zeros: Any = np.zeros(T, np.float32)
    ids = np.concatenate([rng.choice(V, K, replace=False) for _ in range(T)]).astype(np.uint32)
    weights, kept = np.full(T * K, 1 / K, np.float32), np.full(T, K, np.uint16)
    tokens = rng.integers(0, V, T + 1).astype(np.uint32)
    return TargetRow(f"p{number}", tokens, 1, kept, ids, weights, zeros[:0], None, zeros, zeros)
