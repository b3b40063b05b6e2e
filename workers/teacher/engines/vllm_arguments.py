"""What may be said in `vllm.engine_kwargs`: names that vLLM's engine has, and values of their types.

vLLM is in an environment of its own as a rule. Where that is on this machine, its source is read, and nothing of it is
run; elsewhere only what is well known is checked.
"""

from __future__ import annotations

import ast
import difflib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from workers.sources import annotated_fields, classes, in_words, package_folder, plain_types
from workers.teacher.config import VllmConfig

_SET_ELSEWHERE = {
    "model": "teacher.model",
    "tokenizer": "teacher.model",
    "revision": "teacher.revision",
    "tokenizer_revision": "teacher.revision",
    "dtype": "teacher.dtype",
    "trust_remote_code": "teacher.trust_remote_code",
    "max_num_seqs": "teacher.batch",
    "max_num_batched_tokens": "teacher.score_tokens",
    "kv_cache_memory_bytes": "teacher.kv_cache_memory",
    "tensor_parallel_size": "teacher.vllm.tensor_parallel",
    "enable_expert_parallel": "teacher.vllm.enable_expert_parallel",
    "generation_config": "teacher.sampling",
}
_IMPOSSIBLE = {
    "pipeline_parallel_size": "the stages of a pipeline do not see the logits; raise vllm.tensor_parallel",
    "nnodes": "a rank's GPUs are on one node; a model that needs more is for engine transformers, with ep_size",
    "speculative_config": "drafted tokens are not seen one by one, and targets are captured from each",
    "logits_processors": "another one would change the logits that are captured",
    "logprobs_mode": "targets are made of raw log-probabilities",
    "max_logprobs": "targets may need those of the whole vocabulary",
    "async_scheduling": "an answer must be complete before its next step is planned",
    "distributed_executor_backend": "each rank is an actor of its own already",
    "skip_tokenizer_init": "text is made outside vLLM",
    "runner": "a teacher generates",
    "enable_lora": "a teacher is a whole model; merge the adapters into it",
}
_SEVERAL = "data_parallel_"
"""Begins what vLLM is told of several engines that share experts."""

_WELL_KNOWN: dict[str, tuple[type, ...]] = {
    "max_model_len": (int, type(None)),
    "gpu_memory_utilization": (float, int),
    "enforce_eager": (bool,),
    "quantization": (str, type(None)),
    "kv_cache_dtype": (str,),
    "load_format": (str,),
    "enable_prefix_caching": (bool, type(None)),
    "enable_chunked_prefill": (bool, type(None)),
    "seed": (int, type(None)),
    "block_size": (int, type(None)),
    "hf_overrides": (dict,),
}


def check_arguments(key: str, vllm: VllmConfig) -> None:
    """Raise ValueError for the first argument that is set elsewhere, cannot be set, is unknown, or is of a wrong type;
    `key` is how messages name the teacher."""
    fields = engine_fields(vllm.python)
    for name, value in vllm.engine_kwargs.items():
        where = f"{key}.vllm.engine_kwargs"
        if name in _SET_ELSEWHERE:
            setting = _SET_ELSEWHERE[name].replace("teacher", key, 1)
            raise ValueError(f"{where}: {name} is what {setting} says; set that")
        if name in _IMPOSSIBLE:
            raise ValueError(f"{where}: {name} cannot be set: {_IMPOSSIBLE[name]}")
        if name.startswith(_SEVERAL):
            raise ValueError(
                f"{where}: {name} cannot be set: several engines that share experts were never tested; raise "
                f"{key}.vllm.tensor_parallel or {key}.replicas"
            )
        if fields is not None and name not in fields:
            near = difflib.get_close_matches(name, sorted(fields), 1, 0.6)
            raise ValueError(
                f"{where}.{name}: vLLM's engine has no such argument"
                + (f"; did you mean {near[0]!r}?" if near else "; take it out")
            )
        _check_value(f"{where}.{name}", name, value, (fields or {}).get(name))


def _check_value(where: str, name: str, value: Any, written: tuple[type, ...] | None) -> None:
    allowed = _WELL_KNOWN.get(name, written)
    truth_for_number = isinstance(value, bool) and allowed is not None and bool not in allowed
    if allowed is not None and (truth_for_number or not isinstance(value, allowed)):
        raise ValueError(f"{where}: {value!r}; vLLM takes {in_words(allowed)}")
    if name == "gpu_memory_utilization" and not (math.isfinite(value) and 0 < value <= 1):
        raise ValueError(f"{where}: {value!r}; give a part of each GPU's memory, above 0 and at most 1")
    if name == "max_model_len" and value is not None and value < 1:
        raise ValueError(f"{where}: {value!r}; give the most tokens of a text, or leave it out")
    if name == "load_format" and value == "dummy":
        raise ValueError(f"{where}: dummy weights are random ones, and no teacher; take it out")


@lru_cache
def engine_fields(python: str | None) -> dict[str, tuple[type, ...] | None] | None:
    """Arguments of vLLM's engine in the environment of a Python (None: this one), each with the types that it takes
    where those are plain. None where there is no vLLM to read."""
    for folder in _packages(python):
        source = folder / "engine" / "arg_utils.py"
        if not source.exists():
            continue
        try:
            [engine] = [c for c in classes(source) if c.name == "EngineArgs"]
        except (ValueError, SyntaxError):  # another vLLM than is known: nothing is said of it
            return None
        if all(isinstance(base, ast.Name) and base.id == "object" for base in engine.bases):
            return {name: plain_types(annotation) for name, annotation, _ in annotated_fields(engine)}
    return None


def _packages(python: str | None) -> list[Path]:
    if python is None:
        return [folder] if (folder := package_folder("vllm")) is not None else []
    return sorted(Path(python).parent.parent.glob("lib*/python3*/site-packages/vllm"))
