"""From a teacher's configuration to vLLM's arguments and environment, and what of it vLLM cannot do. Imports neither
vLLM nor torch."""

from __future__ import annotations

import os
from typing import Any

from workers.model_files import torch_dtype
from workers.teacher.config import TeacherConfig, VllmConfig
from workers.teacher.engines.vllm_arguments import check_arguments

_CPU_CACHE_BYTES = 1 << 30
"""Of keys and values on a CPU, where vLLM would else take most of the machine's memory."""


def check_vllm(key: str, config: TeacherConfig, experts: int) -> None:
    """Raise ValueError if vLLM cannot run a teacher of so many experts (0: dense) as its configuration says; `key` is
    how messages name it."""
    if config.engine != "vllm":
        if config.vllm != VllmConfig():
            raise ValueError(
                f"{key}.vllm: given, but {key}.engine is {config.engine!r}; set it to vllm, or leave this out"
            )
        return
    check_arguments(key, config.vllm)
    if config.ep_size > 1:
        raise ValueError(
            f"{key}.ep_size: {config.ep_size}, but several engines of vLLM that share experts were never tested: ranks "
            "that end at different times may hang, or answer wrongly; take ep_size 1 with "
            f"{key}.vllm.tensor_parallel and {key}.gpus_per_rank, which share them within one engine, and "
            f"{key}.replicas for more; or engine transformers"
        )
    if config.dispatch == "all_reduce":
        raise ValueError(f"{key}.dispatch: all_reduce, but a rank of vLLM has texts of its own; leave it at all_to_all")
    if config.gpus_per_rank:
        _check_gpus(key, config)
    else:
        _check_cpus(key, config, experts)


def _check_gpus(key: str, config: TeacherConfig) -> None:
    if config.gpus_per_rank != config.vllm.tensor_parallel:
        raise ValueError(
            f"{key}.vllm.tensor_parallel: {config.vllm.tensor_parallel}, but {key}.gpus_per_rank is "
            f"{config.gpus_per_rank:g}; they must be the same: a rank's GPUs are those that each layer is cut over"
        )


def _check_cpus(key: str, config: TeacherConfig, experts: int) -> None:
    if experts and config.vllm.tensor_parallel > 1 and config.vllm.enable_expert_parallel:
        raise ValueError(
            f"{key}.vllm.enable_expert_parallel: true, but vLLM's kernels for CPUs crash on a part of the experts; set "
            "it to false, which cuts every expert"
        )


def engine_arguments(config: TeacherConfig, folder: str, *, device: str, experts: int) -> dict[str, Any]:
    """Arguments of vLLM's engine."""
    shared = experts > 0 and config.vllm.tensor_parallel > 1
    own: dict[str, Any] = {
        "model": folder,
        "skip_tokenizer_init": True,
        "trust_remote_code": config.trust_remote_code,
        "dtype": str(torch_dtype(config.dtype, device)).removeprefix("torch."),
        "max_num_seqs": config.slots,
        "max_num_batched_tokens": max(config.score_tokens, config.slots),
        "tensor_parallel_size": config.vllm.tensor_parallel,
        "enable_expert_parallel": shared and config.vllm.enable_expert_parallel,
        "distributed_executor_backend": "mp" if config.vllm.tensor_parallel > 1 else "uni",
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": -1,
        "async_scheduling": False,
        "disable_log_stats": True,
        "logits_processors": ["workers.teacher.engines.vllm_capture:CaptureProcessor"],
    }
    if device == "cpu" or config.kv_cache_memory is not None:
        own["kv_cache_memory_bytes"] = config.kv_cache_memory or _CPU_CACHE_BYTES
    return own | config.vllm.engine_kwargs


def set_environment(config: TeacherConfig) -> None:
    """What vLLM takes from the environment, before it is imported."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the engine's own process is the rank
        VLLM_USE_V2_MODEL_RUNNER="0",  # the second one has other logits processors, and does not run on CPUs
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # several ranks share a machine
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
        VLLM_NO_USAGE_STATS="1",
        OMP_NUM_THREADS=str(config.threads_per_rank),
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
