"""How long work takes at least by what its hardware can do, times the part of that which real systems reach. Pure.

A roofline (Williams et al. 2009): what computes takes FLOPs over FLOP/s, what reads memory takes bytes over bandwidth,
and the slower of both is the time. Left out: attention over earlier tokens but for reading their keys and values, the
network between GPUs, loading, and what keeps a GPU waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.config import EfficiencyConfig

Bound = Literal["compute", "bandwidth", "launches"]
"""What the time goes to: arithmetic, reading memory, or starting kernels one by one."""


@dataclass(frozen=True)
class Gpu:
    """What one GPU can do at most."""

    flops: float
    """FLOP/s in bfloat16, dense."""
    bandwidth: float
    """Bytes a second of its memory."""

    def part(self, of_it: float) -> Gpu:
        """A part of a GPU, or several as one."""
        return Gpu(self.flops * of_it, self.bandwidth * of_it)


@dataclass(frozen=True)
class Took:
    """Seconds, and what bounds most of them."""

    seconds: float
    bound: Bound

    @staticmethod
    def slower(*, compute: float, bandwidth: float, launches: float = 0.0) -> Took:
        """The longest of what goes on at once."""
        each: dict[Bound, float] = {"compute": compute, "bandwidth": bandwidth, "launches": launches}
        bound = max(each, key=lambda name: each[name])
        return Took(each[bound], bound)

    def __add__(self, other: Took) -> Took:
        longer = self if self.seconds >= other.seconds else other
        return Took(self.seconds + other.seconds, longer.bound)

    def times(self, number: float) -> Took:
        """So many of it, one after another."""
        return Took(self.seconds * number, self.bound)


@dataclass(frozen=True)
class Mixture:
    """The sizes of a teacher: numbers of weights, experts of a layer."""

    dense: int
    """Weights that every token meets."""
    experts: int
    """Those of all experts of all layers."""
    count: int
    """Experts of a layer; 0 of a dense model."""
    active: int
    """Of them, those that a token is sent to."""
    layers: int
    cache_bytes: int
    """Of the keys and values of one token."""
    width: int
    """Bytes of a weight."""

    def touched(self, texts: float) -> float:
        """Weights of experts that one step of so many texts meets, where each sends its token to any experts with the
        same probability: of E experts E (1 - (1 - k/E)^texts)."""
        if not self.count:
            return 0.0
        return self.experts * (1 - (1 - self.active / self.count) ** texts)

    @property
    def active_experts(self) -> float:
        """Weights of experts that one token meets."""
        return self.experts * self.active / self.count if self.count else 0.0


@dataclass(frozen=True)
class Ranks:
    """How a replica of a teacher is spread over processes."""

    count: int
    gpu: Gpu
    """Of one of them; several GPUs (tensor parallel) count as one that can do as much as all."""
    share_texts: bool = False
    """Whether each of them runs all texts (`dispatch: all_reduce`), not its part."""
    layer_s: float = 0.0
    """Seconds that a layer takes for its kernels to be started."""

    def of_texts(self, number: float) -> float:
        """How many of a replica's texts, or tokens, one rank runs through what is no expert."""
        return number if self.share_texts else number / self.count


def prefill(model: Mixture, ranks: Ranks, tokens: float, efficiency: EfficiencyConfig) -> Took:
    """One replica reads so many tokens: two FLOPs for each weight that a token meets."""
    flops = 2 * (model.dense * ranks.of_texts(tokens) + model.active_experts * tokens / ranks.count)
    return Took(flops / (ranks.gpu.flops * efficiency.prefill), "compute")


def decode_step(model: Mixture, ranks: Ranks, texts: float, context: float, efficiency: EfficiencyConfig) -> Took:
    """One replica adds a token to each of so many texts, behind `context` tokens on average. A rank reads its dense
    weights, those of its experts that any text is sent to, and the keys and values of its texts."""
    own = ranks.of_texts(texts)
    read = (model.dense + model.touched(texts) / ranks.count) * model.width + own * context * model.cache_bytes
    flops = 2 * (model.dense * own + model.active_experts * texts / ranks.count)
    return Took.slower(
        compute=flops / (ranks.gpu.flops * efficiency.prefill),
        bandwidth=read / (ranks.gpu.bandwidth * efficiency.bandwidth),
        launches=model.layers * ranks.layer_s,
    )


@dataclass(frozen=True)
class Trained:
    """A student, and how it is trained."""

    body: int
    """Weights without embeddings and head."""
    head: int
    """Those of the head: vocabulary x hidden size."""
    trained: int
    """Weights that the optimiser changes: all, or those of adapters."""
    width: int
    """Bytes of a weight as it computes."""
    recomputed: float
    """Part of the layers whose activations are computed again for the backward pass."""
    adapters: bool
    teacher_head: int
    """Weights of the teacher's head, of hidden states; 0 without."""
    workers: int
    shares_state: bool
    """Whether workers share out the optimiser's state (ZeRO)."""
    batch_tokens: int
    """Target tokens of an optimiser step."""
    micro_tokens: int
    """Tokens of a pass of one worker."""


def training(student: Trained, gpu: Gpu, targets: float, tokens: float, efficiency: EfficiencyConfig) -> Took:
    """Training on so many target tokens, in texts of `tokens` in all: passes, and the optimiser's steps after them.

    Of a token and weight two FLOPs forward and four backward, of adapters two (no gradients of what stays), and two
    more where activations are computed again. Logits are made of target tokens alone.
    """
    passes = (4 if student.adapters else 6) + 2 * student.recomputed
    flops = passes * student.body * tokens + (4 if student.adapters else 6) * student.head * targets
    flops += 2 * student.teacher_head * targets
    whole = student.body + student.head
    runs = max(tokens / (student.workers * student.micro_tokens), targets / student.batch_tokens)
    read = runs * (whole * student.width * (2 + student.recomputed) + 8 * student.trained)
    work = Took.slower(
        compute=flops / (student.workers * gpu.flops * efficiency.training),
        bandwidth=read / (gpu.bandwidth * efficiency.bandwidth),
    )
    # AdamW: the gradient is read; master and two moments are read and written, float32 each; then the weight.
    moved = (4 + 3 * 8 + (student.width if student.shares_state else 0)) * student.trained
    steps = targets / student.batch_tokens
    shared = student.workers if student.shares_state else 1
    return work + Took(steps * moved / shared / (gpu.bandwidth * efficiency.bandwidth), "bandwidth")


def scoring(weights: float, width: int, tokens: float, batch: int, gpu: Gpu, efficiency: EfficiencyConfig) -> Took:
    """A model reads so many tokens, `batch` at once."""
    return Took.slower(
        compute=2 * weights * tokens / (gpu.flops * efficiency.prefill),
        bandwidth=tokens / batch * weights * width / (gpu.bandwidth * efficiency.bandwidth),
    )
