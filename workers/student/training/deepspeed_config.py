"""From a specialist's training settings to DeepSpeed's dictionary. Pure."""

from __future__ import annotations

from typing import Any

from workers.student.config import TrainConfig

BUCKET_NUMBERS = 50_000_000
"""Of gradients that workers add up at once; on a GPU the room for them is taken whole. DeepSpeed takes ten times as
many where nothing is said: as much again as the gradients of all but the largest students."""

LIVE_NUMBERS = 1_000_000_000
"""Of weights that a worker holds gathered under ZeRO-3 at most, beside its part of them; DeepSpeed's own."""


def deepspeed_config(train: TrainConfig, dtype: str, workers: int) -> dict[str, Any]:
    """Accumulation is 1 here: the train loop marks the last micro-batch of a step itself, since steps hold as many
    micro-batches as their texts need. Losses are scaled by the loop, so nothing is averaged twice.

    Stage 0 has an optimiser of its own, which clips too (adamw.py).
    """
    stage = train.zero_stage(workers, dtype)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": BUCKET_NUMBERS,
            "stage3_max_live_parameters": LIVE_NUMBERS,
        },
        "gradient_clipping": train.clip if stage else 0.0,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if stage:
        config |= {
            "zero_allow_untested_optimizer": True,
            "optimizer": {
                "type": "AdamW",
                # Fused: one pass over weights, gradients and moments.
                "params": {**adamw_settings(train), "torch_adam": True, "fused": True},
            },
        }
    if dtype == "bfloat16":
        # Gradients are not searched for NaN and Inf: their norm, which the loop looks at, tells as much.
        config["bf16"] = {"enabled": True, "check_grad_overflow": False}
        if stage >= 2:  # at 1 DeepSpeed has another optimiser for it, whose checkpoints are its own
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def adamw_settings(train: TrainConfig) -> dict[str, Any]:
    """AdamW's, as torch names them."""
    return {"lr": train.lr, "betas": list(train.betas), "weight_decay": train.weight_decay}
