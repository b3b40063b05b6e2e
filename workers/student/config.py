"""One specialist: its model, its diet, its loss, its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Count, Range, Settings, Share

_SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size"}

Beta = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(Settings):
    """Where a student's initial weights come from. A plain string means `base`."""

    base: str | None = None
    """Hugging Face id, or a folder, of a dense model to start from."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""

    config: dict[str, Any] | None = None
    """A transformers configuration (`model_type` and its sizes) to start from random weights. The vocabulary is the
    teacher's tokenizer."""

    drop_layers: int | list[int] = 0
    """Decoder layers of `base` to leave out: a list of indices, or how many (those whose removal raises the KL to
    `base` least, measured greedily on the domain's prompts)."""

    trust_remote_code: bool = False
    """Run code that comes with the model."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"base": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.base is None) == (self.config is None):
            raise ValueError("give either `base` (a model to start from) or `config` (sizes of a new one)")
        if self.config is not None and self.drop_layers:
            raise ValueError("`drop_layers` goes with `base`")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs a `model_type`, for example qwen3 or llama")
        for name in _SIZES & (self.config or {}).keys():
            value = (self.config or {})[name]
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`config.{name}` is {value!r}; expected a whole number from 1")
        return self


class LossConfig(Settings):
    """What is minimised, per target token: kl * KL(teacher || student) + ce * cross-entropy of the realised token."""

    kl: float = Field(default=1.0, ge=0)
    """Weight of the forward KL, the only divergence that sampled targets leave unbiased."""

    ce: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy. On text sampled at temperature 1 it is a noisy version of the same target."""

    @model_validator(mode="after")
    def _something(self) -> LossConfig:
        if self.kl + self.ce <= 0:
            raise ValueError("kl and ce are both 0: nothing would be learned")
        return self


class TrainConfig(Settings):
    """How a student is trained."""

    tokens: Count = Field(default=20_000_000, ge=1)
    """Budget in target tokens. A domain whose targets end begins again in another order."""

    batch_tokens: Count = Field(default=16_384, ge=1)
    """Target tokens of one optimiser step, over all workers."""

    micro_tokens: Count = Field(default=8_192, ge=1)
    """Tokens, padding included, that one worker runs at once. More steps accumulate."""

    lr: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""

    schedule: Literal["constant", "linear", "cosine", "wsd"] = "wsd"
    """Of the learning rate over the token budget. `wsd` is warm-up, stable, then linear decay to 0."""

    warmup: Share = Field(default=0.05, ge=0, lt=1)
    """Part of the budget in which the learning rate rises linearly."""

    decay: Share = Field(default=0.2, gt=0, le=1)
    """Last part of the budget in which `wsd` decays."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Of AdamW."""

    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 turns clipping off."""

    workers: Range = (1, 1)
    """Data-parallel workers of this specialist: a number, or `[min, max]`. With a range it starts as soon as the least
    have room, grows when there is more, and goes on with fewer where nodes were lost, each time from its last
    checkpoint. `batch_tokens` is over all workers, so that their number changes nothing but the last bits."""

    zero: Literal[1, 2, 3] = 1
    """DeepSpeed ZeRO stage."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of computation; `auto` is bfloat16 on a GPU and float32 on a CPU."""

    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs that Ray reserves for a worker."""

    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for a worker. 0 trains on the CPU with gloo."""

    label_selector: dict[str, str] = {}
    """Ray labels that a worker's node must have, for example {stillhouse-role: student}. Empty: any node."""

    threads_per_worker: int = Field(default=1, ge=1)
    """Threads of a worker's computation on a CPU."""

    checkpoint_steps: int | None = Field(default=200, ge=1)
    """Steps between checkpoints. Null: none by steps. One after the last step is always written."""

    checkpoint_s: float | None = Field(default=None, gt=0)
    """Seconds after which a checkpoint is written, beside those of `checkpoint_steps`. Null: none by the clock."""

    keep: Literal["last", "best"] = "last"
    """Which weights become the final model: those after the last step, or those of the checkpoint whose mean training
    loss since the checkpoint before was least. In the first epoch texts are new, so that loss is close to a held-out
    one; later it is not. The last two checkpoints and the best one are kept."""

    max_failures: int = Field(default=0, ge=0)
    """Times the specialist is started again, from its last checkpoint, after a worker died. With a range of `workers`
    a worker whose node is lost counts too; growing, and an attempt to start that finds no room, do not."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, less memory."""


class SpecialistConfig(Settings):
    """One student model."""

    model: ModelConfig
    """What it starts from."""

    mix: dict[str, float] = {}
    """Share of target tokens by domain. Empty: the domain of the specialist's own name."""

    loss: LossConfig = LossConfig()
    """What it minimises."""

    train: TrainConfig = TrainConfig()
    """How it is trained."""
