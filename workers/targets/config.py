"""How the teacher's distributions are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.settings import Settings

Scheme = Literal["systematic", "threshold", "multinomial", "full"]


class TargetsConfig(Settings):
    """The training store. The held-out store is always `full`: scores need exact distributions."""

    scheme: Scheme = "systematic"
    """`systematic`: an unbiased sample of each distribution, about half as many entries as draws. `threshold`: ids of
    probability 1/draws and more exactly, a sample of the others. `multinomial`: independent draws (RS-KD; noisier).
    `full`: every log-probability (small vocabularies, controls)."""

    draws: int = Field(default=21, ge=1, le=65535)
    """Draws per position (N): the grain of the sample. More draws are less noise and more bytes."""

    positions: Literal["answer", "all"] = "answer"
    """`answer`: targets at the answer's tokens. `all`: at the prompt's own tokens too (one prefill pays for them)."""

    precision: Literal["float16", "float32"] = "float32"
    """Of the log-probabilities that a `full` store keeps."""

    prompts_per_unit: int = Field(default=16, ge=1)
    """Prompts in one unit: the grain of commit, and of what a fault can cost."""

    withhold: dict[str, list[str]] = {}
    """Per domain: words that no training text may contain. A text with one is set aside, so that specialists meet
    the word only as a runner-up in the distributions."""
