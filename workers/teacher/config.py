"""The teacher: which model, how it is split over ranks, and how it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cluster.settings import Range, Settings


class SamplingConfig(Settings):
    """How answers are sampled. Distributions are always captured from raw logits at temperature 1."""

    temperature: float = Field(default=1.0, ge=0)
    """Of the answers' text; 0 is greedy. Other than 1, the text is not a sample of the captured distributions."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus of the answers' text. Below 1, contexts drift from what a student meets in use."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens of one answer, its end token included."""

    samples: int = Field(default=1, ge=1)
    """Answers per prompt."""


class VllmConfig(Settings):
    """How vLLM runs the model, with `engine: vllm`. A rank is one of its data-parallel ranks, so `ep_size` is its
    data-parallel size."""

    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one rank, over which vLLM cuts each layer; `gpus_per_rank` must be the same. They are on one node."""

    enable_expert_parallel: bool = True
    """Of a mixture of experts over several GPUs: each holds whole experts. False cuts every expert instead."""

    python: str | None = None
    """Python of an environment that has vLLM (from 0.32, tested with 0.32), this package and the same Ray, on every
    node of the ranks: vLLM wants another torch than the rest. Null is the Python of the run."""

    engine_kwargs: dict[str, Any] = {}
    """Further arguments of vLLM's engine by its own names, for example {max_model_len: 8192, quantization: fp8}."""


class TeacherConfig(Settings):
    """One teacher pool."""

    model: str
    """Hugging Face id, or a folder (relative to the configuration file)."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id. Null is its default branch."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model. `vllm` is for answers that it makes: through given text it walks token by token, unless
    `targets.scheme` is `topk`, which it reads off a whole text."""

    vllm: VllmConfig = VllmConfig()
    """How vLLM runs it; only with `engine: vllm`."""

    ep_size: int = Field(default=1, ge=1)
    """Ranks that share one replica's experts. Must divide the number of experts; a dense teacher takes 1."""

    dispatch: Literal["all_to_all", "all_reduce"] = "all_to_all"
    """`all_to_all`: every rank has texts of its own and sends tokens to the experts. `all_reduce`: the ranks share
    each text and add up their experts' outputs."""

    replicas: Range = (1, 1)
    """Least and most replicas, each a full copy of the model over `ep_size` ranks. The least must find a place; more
    are added while units are queued and the cluster has room."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and computation. `auto` is bfloat16 on a GPU and float32 on a CPU."""

    batch: int = Field(default=32, ge=1)
    """Texts that one rank runs at once."""

    units_at_once: int = Field(default=1, ge=1)
    """Units that a replica takes at once, so that texts of one fill the slots that those of another leave: worth it
    where a unit has hardly more texts than `batch` and answers differ in length. Above 1 the last bits of a text depend
    on the units it was made with, so one taught again may differ in them; and a fault costs more."""

    score_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward pass of given text or of prompts, padding included, on one rank."""

    cpus_per_rank: float = Field(default=1, gt=0)
    """CPUs that Ray reserves for a rank."""

    gpus_per_rank: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for a rank. 0 runs on the CPU with gloo."""

    threads_per_rank: int = Field(default=1, ge=1)
    """Threads of a rank's computation on a CPU."""

    placement: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    """Ray's strategy for one replica's ranks."""

    label_selector: dict[str, str] = {}
    """Ray labels that a rank's node must have, for example {stillhouse-role: teacher}. Empty: any node."""

    accelerator_type: str | None = None
    """Ray's name of the accelerator that a rank's node must have, for example A100 or H100. Null: any."""

    start_deadline_s: float = Field(default=3600, gt=0)
    """Seconds in which a replica's ranks must have loaded the model."""

    hang_deadline_s: float = Field(default=900, gt=0)
    """Seconds without a forward pass or an answer after which a rank at work counts as hung. More than the longest
    forward pass takes (`score_tokens` of text, on a CPU perhaps minutes)."""

    sampling: SamplingConfig = SamplingConfig()
    """How prompts without a given answer are answered."""

    trust_remote_code: bool = False
    """Run code that comes with the model."""
