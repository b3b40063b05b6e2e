"""What a student minimises, as a person writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Settings, Share

_CPU_NUMBERS = 1 << 22
"""Logits that exist at once on a CPU: few enough to stay in its cache."""

_LEAST_GPU_NUMBERS, _MOST_GPU_NUMBERS = 1 << 25, 1 << 28
"""Likewise on a GPU. Each chunk reads the head and its gradient once, which takes as long as the products of a few
hundred tokens: 1 << 28 are 1,766 tokens of 151,936 ids."""

_GPU_PART = 36
"""Of a GPU's memory, an array of a chunk's logits takes at most one part in so many: 40 GB have room for the most."""

_LEAST_TOKENS, _MOST_TOKENS = 64, 4096
"""Of a chunk: fewer would read the whole head for too little work."""

SAMPLED = ("systematic", "threshold", "multinomial")
"""Schemes that keep a sample of each distribution."""

PRESETS: dict[str, dict[str, Any]] = {
    "pretrain": {"divergence": "forward_kl", "kl": 1.0, "ce": 0.0, "weighting": "constant"},
    "sft": {"divergence": "forward_kl", "kl": 1.0, "ce": 1.0, "weighting": "entropy"},
}

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "reverse_skew_kl", "total_variation", "alpha_beta"]


def chunk_tokens(vocabulary: int, gpu_memory: float, *, by_autograd: bool = False) -> int:
    """Tokens whose logits the fused loss makes at once, with so many bytes of a GPU; 0: on a CPU. `by_autograd`: with a
    gradient over all ids that is not written out, for which about four times as many arrays are kept.

    All of a GPU's memory counts, not what is free: so workers on GPUs of one kind sum up in one order, as does a
    training that goes on later, and a plan knows it.
    """
    if not gpu_memory:
        numbers = _CPU_NUMBERS
    else:
        fit = 1 << max(int(gpu_memory / (4 * _GPU_PART)).bit_length() - 1, 0)
        numbers = min(max(fit, _LEAST_GPU_NUMBERS), _MOST_GPU_NUMBERS) // (4 if by_autograd else 1)
    return min(max(numbers // vocabulary, _LEAST_TOKENS), _MOST_TOKENS)


@dataclass(frozen=True)
class Chunk:
    """Logits that the fused loss makes at once."""

    vocabulary: int
    arrays: int
    """Of float32, as many numbers as logits, that are held at most: these, their gradient, what they are made of."""
    by_autograd: bool

    def bytes_on(self, gpu_memory: float) -> int:
        """With so many bytes of a GPU; 0: on a CPU."""
        tokens = chunk_tokens(self.vocabulary, gpu_memory, by_autograd=self.by_autograd)
        return 4 * self.arrays * tokens * self.vocabulary


class LossConfig(Settings):
    """What is minimised, per target token: kl * divergence(teacher, student) + ce * cross-entropy of the token that
    stands there."""

    preset: Literal["pretrain", "sft"] | None = None
    """Values for the settings that are not given here. `pretrain`: forward KL alone, best where there are many tokens
    (every mix with labels was worse for Ministral 3 and in arXiv 2502.08606). `sft`: forward KL where the teacher
    hesitates, its own token where it is sure, best where tokens are few (arXiv 2605.26246). Null: no preset."""

    divergence: Divergence = "forward_kl"
    """Between the teacher's distribution and the student's. Only the forward KL is unbiased on sampled targets; the
    others want `topk`, `hidden` or `full` ones."""

    kl: float = Field(default=1.0, ge=0)
    """Weight of the divergence."""

    ce: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy. On text sampled at temperature 1 it is a noisy version of the same target."""

    weighting: Literal["constant", "entropy", "confidence"] = "constant"
    """How both weights vary with the position: `kl` is multiplied by s and `ce` by 1 - s. `entropy`: s is the teacher's
    entropy over `entropy_scale`, at most 1. `confidence`: s is 1 less the teacher's largest probability. `constant`:
    both stay as they are."""

    entropy_scale: float = Field(default=2.0, gt=0)
    """Nats of the teacher's entropy at which `weighting: entropy` gives the divergence all its weight."""

    kl_end: float | None = Field(default=None, ge=0)
    """Weight of the divergence at the end of the budget, which it nears linearly over the last `fade` of it. Null: it
    stays `kl`."""

    ce_end: float | None = Field(default=None, ge=0)
    """The same for the cross-entropy. Null: it stays `ce`."""

    fade: Share = Field(default=0.2, gt=0, le=1)
    """Last part of the budget in which weights go to `kl_end` and `ce_end`."""

    beta: float = Field(default=0.5, ge=0, le=1)
    """For `jsd`: the teacher's part in the mixture that both are compared with."""

    normalised: bool = False
    """For `jsd`: divide by beta * (1 - beta), so that the learning rate need not follow beta."""

    skew: float = Field(default=0.1, ge=0, lt=1)
    """For `skew_kl` and `reverse_skew_kl`: the part that is mixed into the distribution compared with."""

    alpha_beta: tuple[float, float] = (0.2, 0.7)
    """For `alpha_beta`: its two powers. (1, 0) is the forward KL, (0, 1) the reverse."""

    temperature_squared: bool = True
    """Multiply the divergence by the square of the capture's temperature, so that the size of its gradient, and with it
    the learning rate, does not depend on it. TRL and Liger do not."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("preset") in PRESETS:
            return {**PRESETS[value["preset"]], **value}
        return value

    @model_validator(mode="after")
    def _something(self) -> LossConfig:
        if self.kl + self.ce <= 0:
            raise ValueError("kl and ce are both 0: nothing would be learned")
        if self.weighting != "constant" and not (self.kl and self.ce):
            raise ValueError(
                f"`weighting: {self.weighting}` shares each position out between `kl` and `ce`, but one of them is 0: "
                "positions would be dropped; give both a weight (1 and 1), or take `weighting: constant`"
            )
        if self.divergence == "jsd" and self.beta in (0, 1) and not self.normalised:
            ends = {0: "forward_kl", 1: "reverse_kl"}
            raise ValueError(
                f"`beta` is {self.beta:g}, where jsd is 0 whatever the student says; take `divergence: "
                f"{ends[int(self.beta)]}`, which it nears when divided by its size, or `normalised: true`"
            )
        if min(self.alpha_beta) < 0 or sum(self.alpha_beta) <= 0:
            raise ValueError(f"`alpha_beta` is {list(self.alpha_beta)}; give two powers from 0, not both 0")
        return self

    def weights_at(self, spent: float) -> tuple[float, float]:
        """`kl` and `ce` when a part of the budget (0 ... 1) is spent."""
        faded = min(max((spent - (1 - self.fade)) / self.fade, 0.0), 1.0)
        ends = (self.kl if self.kl_end is None else self.kl_end, self.ce if self.ce_end is None else self.ce_end)
        return self.kl + faded * (ends[0] - self.kl), self.ce + faded * (ends[1] - self.ce)

    @property
    def soft(self) -> bool:
        """Whether the distributions matter at all."""
        return bool(self.kl or self.kl_end)

    def chunk(self, scheme: str, vocabulary: int) -> Chunk:
        """What the fused loss makes at once of targets of a scheme."""
        by_autograd = self.soft and self.divergence != "forward_kl" and scheme in ("hidden", "full")
        sampled = scheme in SAMPLED or not self.soft
        return Chunk(vocabulary, 14 if by_autograd else 4 if sampled else 6, by_autograd)

    def check_scheme(self, scheme: str) -> None:
        """Raise ValueError if what is kept of a distribution would make this loss another one, on average too."""
        if scheme not in SAMPLED or not self.soft:
            return
        remedy = "capture the targets with `targets.scheme: topk` (with its tail), `hidden` or `full`"
        if self.divergence != "forward_kl":
            raise ValueError(
                f"loss.divergence: {self.divergence} is not linear in the teacher's distribution, so that a sample of "
                f"it (targets.scheme: {scheme}) would be biased; take forward_kl, or {remedy}"
            )
        if self.weighting == "confidence":
            raise ValueError(
                f"loss.weighting: confidence needs the teacher's largest probability, which a sample (targets.scheme: "
                f"{scheme}) does not tell: weights from the sample itself would bias it; take `entropy`, which is kept "
                f"exactly, or {remedy}"
            )
