"""The teacher: which model, how it is split over ranks, and how it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Count, Range, Settings, Text
from workers.targets.config import Precision

CPU_SLOTS, GPU_SLOTS = 32, 128
"""Texts of a rank at once where `batch` is null."""


class SamplingConfig(Settings):
    """How answers are sampled. Distributions are always captured from raw logits at temperature 1, or at that of
    `targets.temperature`, whatever the text is sampled at."""

    temperature: float = Field(default=1.0, ge=0)
    """Temperature of the answers' text; 0 is greedy. Other than the capture's, the text is not a sample of the
    distributions."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus of the answers' text. Below 1, contexts drift from what a student meets in use."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens of one answer, its end token included."""

    min_new_tokens: int = Field(default=0, ge=0)
    """Tokens before which nothing ends an answer. The end is barred in the text only: distributions still hold it."""

    stop: tuple[Text, ...] = ()
    """Strings that end an answer. The text keeps the token that completes one; no end token follows, so students are
    not trained to end there."""

    samples: int = Field(default=1, ge=1, le=65535)
    """Answers per prompt."""

    @model_validator(mode="after")
    def _agrees(self) -> SamplingConfig:
        self.check()
        return self

    def check(self) -> None:
        """Raise ValueError where settings contradict one another."""
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"`min_new_tokens` is {self.min_new_tokens}, more than the {self.max_new_tokens} of `max_new_tokens`"
            )
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"`samples` is {self.samples} at `temperature` 0, which gives the same text each time; take 1 sample, "
                "or a temperature above 0"
            )
        if "" in self.stop:
            raise ValueError("`stop` holds an empty string, which stands in every text; take it out")

    def changed(self, *changes: SamplingChanges | None) -> SamplingConfig:
        """These settings with those of `changes` that are given, the later ones last. Raises ValueError."""
        given = {k: v for c in changes if c is not None for k, v in c.model_dump().items() if v is not None}
        sampling = self.model_copy(update=given)
        sampling.check()
        return sampling


class SamplingChanges(Settings):
    """What is sampled otherwise than the teacher's `sampling` says. Null: as it is there."""

    temperature: float | None = Field(default=None, ge=0)
    """Temperature of the answers' text; 0 is greedy."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus of the answers' text."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of one answer, its end token included."""

    min_new_tokens: int | None = Field(default=None, ge=0)
    """Tokens before which nothing ends an answer."""

    stop: tuple[Text, ...] | None = None
    """Strings that end an answer, instead of the teacher's; an empty list is none."""

    samples: int | None = Field(default=None, ge=1, le=65535)
    """Answers per prompt."""


class AnswersConfig(Settings):
    """Which training answers are kept once they are made. Others are rejected with the reason, and counted. Whatever
    is chosen here, the texts that remain are no longer distributed as the teacher writes; the plan and the report say
    so. Held-out answers are all kept: scores are measured on the teacher's own text."""

    duplicates: Literal["auto", "drop", "keep"] = "auto"
    """Answers to one prompt with the same text. `drop` keeps the first, `keep` all. Of texts sampled as the
    distributions are, frequent answers are frequent because they are probable, and dropping them favours the rare ones
    too often: `auto` keeps those, and drops where temperature, top_p or min_new_tokens bend the text anyway."""

    min_tokens: int = Field(default=0, ge=0)
    """Least tokens of an answer, its end token included. To have the teacher go on instead: `min_new_tokens`."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of an answer, its end token included. Null: any number."""

    min_characters: int = Field(default=0, ge=0)
    """Least characters of an answer, without its end token and the white space around it."""

    max_characters: int | None = Field(default=None, ge=1)
    """Most characters, likewise. Null: any number."""

    unfinished: Literal["keep", "drop"] = "keep"
    """Answers that were cut off at `max_new_tokens`. Their distributions are as good as any; dropped, long answers are
    missing."""

    filter: str | None = None
    """`file.py:function` (relative to the configuration file), called as `function(prompt, answer, about)`: two texts,
    and a dict of id, sample, domains, teacher, tokens, ended and given. True keeps the answer; False, or a string with
    the reason, rejects it, as does an exception. The file's code is sent to the replicas, its hash is recorded; it
    may import what is installed there. The same answer must get the same verdict each time."""

    @model_validator(mode="after")
    def _ranges(self) -> AnswersConfig:
        for least, most in (("min_tokens", "max_tokens"), ("min_characters", "max_characters")):
            low, high = getattr(self, least), getattr(self, most)
            if high is not None and low > high:
                raise ValueError(f"`{least}` is {low}, more than the {high} of `{most}`: no answer could be kept")
        return self


class VllmConfig(Settings):
    """How vLLM runs the model, with `engine: vllm`. A replica is one engine, so `ep_size` is 1."""

    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one engine, over which vLLM cuts each layer; `gpus_per_rank` must be the same. They are on one node."""

    enable_expert_parallel: bool = True
    """True: of a mixture of experts over several GPUs, each holds whole experts. False cuts every expert instead."""

    python: str | None = None
    """Python of an environment that has vLLM (from 0.32, tested with 0.32), this package and the same Ray, on every
    node of the ranks: vLLM wants another torch than the rest. Null is the Python of the run."""

    engine_kwargs: dict[str, Any] = {}
    """Further arguments of vLLM's engine by its own names, for example {max_model_len: 8192, quantization: fp8}."""


class TeacherConfig(Settings):
    """One teacher pool."""

    model: str
    """Hugging Face id, a folder (relative to the configuration file), or s3://bucket/folder."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id. Null is its default branch."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model. `vllm` is for answers that it makes: through given text it walks token by token, unless
    `targets.scheme` is `topk`, which it reads off a whole text."""

    vllm: VllmConfig = VllmConfig()
    """How vLLM runs it; only with `engine: vllm`."""

    ep_size: int = Field(default=1, ge=1)
    """Ranks that share one replica's experts. Must divide the number of experts; a dense teacher takes 1, and so does
    the engine vllm, which shares experts over the GPUs of one rank (`vllm.tensor_parallel`)."""

    dispatch: Literal["all_to_all", "all_reduce"] = "all_to_all"
    """`all_to_all`: every rank has texts of its own and sends tokens to the experts. `all_reduce`: the ranks share
    each text and add up their experts' outputs."""

    replicas: Range = (1, 1)
    """Least and most replicas, each a full copy of the model over `ep_size` ranks. The least must find a place; more
    are added while units are queued and the cluster has room."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and computation. `auto` is bfloat16 on a GPU and float32 on a CPU."""

    batch: int | None = Field(default=None, ge=1)
    """Texts that one rank runs at once: its slots. Null: 128 on a GPU, whose step takes hardly longer for many texts
    than for few; 32 on a CPU. For a run that exists, what it was begun with."""

    units_at_once: int | None = Field(default=None, ge=1)
    """Units that a replica makes together, so that texts of one fill the slots that those of another leave: worth it
    where a unit has hardly more texts than slots. Above 1 the engine transformers begins the next ones, too, as slots
    become free. The last bits of a text then depend on the units it was made with, so one recomputed may differ in
    them; and a fault costs all of them. Null: 1 on a CPU, and nothing is begun before its turn; on GPUs as many as give
    every slot four texts (eight with vLLM), and no more than 4M target tokens or 4 GB of targets (`plan` says how many
    that are), and the next ones are begun."""

    kv_cache_memory: Count | None = Field(default=None, ge=1)
    """Bytes of keys and values that one rank holds at once, for example 40G. Prompts wait for a slot until all texts at
    work would fit at their longest. Null: on a GPU three quarters of what is free once weights are loaded (with vLLM,
    what vLLM takes); on a CPU any number. A text that would not fit alone is rejected."""

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

    @property
    def slots(self) -> int:
        """Texts that one rank runs at once, resolved."""
        return self.batch or (GPU_SLOTS if self.gpus_per_rank else CPU_SLOTS)

    @property
    def replica_slots(self) -> int:
        """Texts that a replica runs at once: ranks have their own, or share them all."""
        return self.slots * (1 if self.dispatch == "all_reduce" else self.ep_size)

    @property
    def begins_next(self) -> bool:
        """Whether texts of the next units are begun in slots that the last texts of units leave: where last bits may
        depend on neighbours, and the engine can."""
        many = self.units_at_once > 1 if self.units_at_once is not None else bool(self.gpus_per_rank)
        return many and self.engine == "transformers"

    @property
    def precision(self) -> Precision:
        """The type that it computes in, `auto` resolved."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.gpus_per_rank else "float32"
