"""How the teacher's distributions are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.settings import Count, Settings

Scheme = Literal["systematic", "threshold", "multinomial", "topk", "full", "hidden"]
"""What a store keeps of each distribution."""

Precision = Literal["float16", "bfloat16", "float32"]
"""Types that stores keep numbers in."""


class TargetsConfig(Settings):
    """The training store. The held-out store is exact (`evaluate.targets`): scores need whole distributions."""

    scheme: Scheme = "systematic"
    """`systematic`: an unbiased sample of each distribution, about half as many entries as draws. `threshold`: ids of
    probability 1/draws and more exactly, a sample of the others. `multinomial`: independent draws (RS-KD; noisier).
    `topk`: the most probable ids exactly, and the mass of all others as one (what an API gives; biased in the tail,
    and trained as that). `full`: every log-probability (small vocabularies, controls). `hidden`: all of a distribution
    too, as what the teacher's LM head is given (hidden size x 2 or 4 bytes a token), and the head once; students hold
    the head, in its own type, and make distributions with it in each step, so that every loss is exact. Engine
    transformers only."""

    draws: int = Field(default=21, ge=1, le=65535)
    """Draws per position (N): the grain of the sample. More draws are less noise and more bytes."""

    top_k: int = Field(default=64, ge=1, le=65535)
    """Ids that `topk` keeps. The sampled schemes have `draws`."""

    redraws: int = Field(default=1, ge=1, le=64)
    """Independent draws of each position: epoch e trains on draw e modulo this. Each takes its own bytes; noise falls
    as if there were so many times more draws, once so many epochs are over."""

    always_keep: list[str] = []
    """Tokens whose exact probability is kept at every position, beside the sample (two bytes each): the end of text,
    the opener of a tool call. Written as the tokenizer writes them, for example `<|im_end|>`."""

    temperature: float | dict[str, float] = 1.0
    """Temperature of the softmax that is captured and trained on: one for all domains, or by domain (1 for those not
    named). It has nothing to do with the temperature at which the text is sampled."""

    positions: Literal["answer", "all"] = "answer"
    """`answer`: targets at the answer's tokens. `all`: at the prompt's own tokens too (one prefill pays for them)."""

    precision: Literal["float16", "float32"] = "float32"
    """Precision of the log-probabilities that a `full` store keeps. Hidden states are kept in the type that they
    have."""

    prompts_per_unit: int | None = Field(default=None, ge=1)
    """Most prompts in one unit: the grain of commit, and of what a fault can cost. Null: any number
    where `unit_tokens` is given; else 16 for a teacher on CPUs, and for one on GPUs as many as give each of its slots
    four texts (`batch` x `ep_size` of them in a replica), fewer where a domain is so small that replicas would have
    nothing to share."""

    unit_tokens: Count | None = Field(default=None, ge=1)
    """Most target tokens that the answers of one unit may have (a prompt of more is a unit alone). Null: any number for
    a teacher on CPUs; for one on GPUs 1M, which the slowest replica that is worth its price makes in six minutes: what
    a fault can cost. Fewer where their targets would take more than 4 GB: 4,096 of `full`, 262,144 of `hidden`,
    700,000 of `topk` with `top_k: 1024`."""

    withhold: dict[str, list[str]] = {}
    """Per domain: words that no training text may contain. A text with one is rejected, so that specialists meet
    the word only as a runner-up in the distributions."""

    @model_validator(mode="after")
    def _scheme_can(self) -> TargetsConfig:
        if self.redraws > 1 and self.scheme in ("topk", "full", "hidden"):
            raise ValueError(f"`redraws` is {self.redraws}, but `{self.scheme}` draws nothing; leave it at 1")
        if self.always_keep and self.scheme in ("full", "hidden"):
            raise ValueError(f"`always_keep` is for schemes that drop ids; `{self.scheme}` keeps every one")
        if len(set(self.always_keep)) < len(self.always_keep):
            raise ValueError("`always_keep` names a token twice")
        for domain, temperature in self.temperatures.items():
            if not 0 < temperature <= 100:
                raise ValueError(f"`temperature` of {domain} is {temperature}; give one above 0, to 100 (1: unchanged)")
        return self

    @property
    def temperatures(self) -> dict[str, float]:
        """Capture temperatures by domain; `*` is for the domains that are not named."""
        return {"*": 1.0, **self.temperature} if isinstance(self.temperature, dict) else {"*": self.temperature}
