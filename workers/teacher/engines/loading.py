"""Loading a teacher: one process, or experts sharded over the ranks of a worker group."""

from __future__ import annotations

import os
from typing import Any

from workers.fetching.folder import model_folder
from workers.model_files import torch_dtype
from workers.teacher.config import TeacherConfig
from workers.teacher.engines.quantised import check_quantised, check_still_quantised

_CACHE_SHARE = 0.75
"""Of a GPU's memory that weights leave. The rest is for what a pass computes, for prompts on their way into slots, and
for the distributions that are captured at once."""


def load_teacher(config: TeacherConfig, *, ranks: int = 1, device: str = "cpu") -> Any:
    """The teacher in evaluation mode, its experts over `ranks` processes of the default process group.

    `all_to_all` keeps whole dense weights on every rank, so that each runs texts of its own and nothing but tokens
    travels; `all_reduce` shards them as tensor parallelism does, for texts that all ranks share.
    Raises ValueError where quantised weights would be dequantised.
    """
    from transformers import AutoModelForCausalLM

    folder = model_folder(config.model, config.revision)
    check_quantised(config, folder)
    # A tensor is read from its file into its place on the device: the host holds no copy of the whole.
    layout: dict[str, Any] = {"device_map": {"": device}}
    if ranks > 1:
        from transformers.distributed import DistributedConfig

        from workers.teacher.engines.dispatch import own_texts_layout

        if config.dispatch == "all_to_all":
            laid_out = own_texts_layout(folder, ranks, trust_remote_code=config.trust_remote_code)
        else:
            laid_out = DistributedConfig(tp_size=ranks, tp_plan="auto", ep_size=ranks)
        layout = {"distributed_config": laid_out}  # which puts each rank's shards on its device
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch_dtype(config.dtype, device), trust_remote_code=config.trust_remote_code, **layout
    )
    check_still_quantised(config, folder, model)
    _limit_steps_as_configured(model)
    return model.eval()


def cache_memory(configured: int | None, device: str) -> int | None:
    """Bytes of keys and values that a rank may hold once its weights are loaded: as configured, or of a GPU the share
    of its free memory that passes and capture leave; None on a CPU."""
    import torch

    if configured is not None or torch.device(device).type != "cuda":
        return configured
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0] * _CACHE_SHARE)


def _limit_steps_as_configured(model: Any) -> None:
    """Of Nemotron-H, transformers keeps step sizes above `time_step_min` over a prompt, but not token by token: an
    answer would have other distributions than the same text when it is scored. The limits that it was trained with are
    another setting, `time_step_limit`; as a rule they are none."""
    if model.config.model_type == "nemotron_h":
        for module in model.modules():
            if hasattr(module, "time_step_limit"):
                module.time_step_limit = tuple(model.config.time_step_limit)


def weights_held(model: Any) -> int:
    """Weights of a model that are in this process."""
    return sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())


def join_process_group(rank: int, ranks: int, address: str, port: int, device: str, deadline_s: float = 1800) -> None:
    """Make this process rank `rank` of a worker group (gloo on CPUs, nccl on GPUs). Collectives fail after
    `deadline_s`."""
    from datetime import timedelta

    import torch.distributed as dist

    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_RANK="0" if device == "cuda" else str(rank),
    )
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo", rank=rank, world_size=ranks, timeout=timedelta(seconds=deadline_s)
    )
