"""Whether training made a student better at all: its loss on its first batch, before the first step and at the end."""

from __future__ import annotations

from workers.student.config import LossConfig, TrainConfig

_PART, _NATS = 0.01, 1e-3
"""What a loss may end above the untrained one, as a part of it and in nats: rounding in bfloat16, and a student that
was as good as it gets when it began."""


class NothingLearned(Exception):
    """A student ends worse than it began, on texts that it was trained on."""


def comparable(loss: LossConfig) -> bool:
    """Whether the loss is the same function at the end as at the beginning."""
    return loss.kl_end is None and loss.ce_end is None


DIVERGED = 2.0
"""A mean loss above that of the first step by this factor is far above it: batches differ by less."""


class Diverged(Exception):
    """A student's loss has stayed far above that of its first step."""


def check_course(name: str, first: float, mean: float, above: int, train: TrainConfig) -> int:
    """The number of checks in a row, with this one, at which the mean loss since the last checkpoint was far above that
    of the first step; `above` of them were before. Raises Diverged at the one that is too many."""
    if train.diverged is None or mean <= DIVERGED * first + _NATS:
        return 0
    if above + 1 < train.diverged:
        return above + 1
    raise Diverged(
        f"{name}: its loss is {mean:.4g}, at {train.diverged} checkpoints in a row over {DIVERGED:g} times what it "
        f"was at its first step, {first:.4g}; try a smaller train.lr ({train.lr:g} now) or train.clip"
    )


def check_learned(name: str, before: float, after: float, train: TrainConfig) -> None:
    """Raise NothingLearned if a student's mean loss per target of its first batch rose. A training at far too high a
    rate stays finite with RMS norms and Adam: such a student says the same whatever it reads, and looks done."""
    if after <= before + max(_PART * abs(before), _NATS):
        return
    raise NothingLearned(
        f"{name}: on its first batch the trained student has a loss of {after:.4g}, and the untrained one had "
        f"{before:.4g}: it forgot more than it learned. Try a smaller train.lr ({train.lr:g} now) or more "
        "train.warmup, under another name of the specialist"
    )
