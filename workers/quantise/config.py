"""Which weights of a student are computed with on a lattice, and on which, as a person writes it. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Count, CountOrShare, Settings, Share

GROUP = 32
"""Weights that share a scale."""

QUANTISED_FILE = "quantised.json"
"""In a model's folder: which of its weights are on a lattice. A folder without it has none."""


class RoundingConfig(Settings):
    """What is rounded, and to what."""

    format: Literal["q4_0", "q8_0"]
    """Lattice of the decoder's linear layers: GGUF's Q4_0 (4.5 bits a weight) or Q8_0 (8.5), with scales that bfloat16
    holds, so that what is trained is what the file has."""

    embeddings: Literal["q8_0"] | None = None
    """Lattice of the embeddings, and of the head, tied to them or not. Null: they stay as they are."""

    keep: tuple[str, ...] = ()
    """Linear layers that stay as they are: the last part of their names, for example [down_proj], or more of it
    ([layers.0.mlp.down_proj])."""

    def rounding(self) -> RoundingConfig:
        """This part of it alone."""
        return RoundingConfig(format=self.format, embeddings=self.embeddings, keep=self.keep)

    def check_layers(self, widths: Mapping[str, int]) -> None:
        """That linear layers can be rounded so: `widths` are their numbers of inputs, by full name. Raises ValueError,
        beginning with the name of a setting, where `keep` means no layer, groups do not divide a width, or nothing
        would be rounded."""
        there = sorted({name.split(".")[-1] for name in widths})
        if missing := [kept for kept in self.keep if not any(names(kept, name) for name in widths)]:
            raise ValueError(f"keep: {missing} are no linear layers of the decoder; there are {there}")
        rounded = {name: width for name, width in widths.items() if not self.keeps(name)}
        if not rounded:
            raise ValueError(
                f"format: {self.format} would round nothing: the decoder's linear layers are {there}, and keep is "
                f"{list(self.keep)}"
            )
        for name, width in rounded.items():
            if width % GROUP:
                raise ValueError(
                    f"format: {name} has {width} inputs, which {self.format} cannot divide into groups of {GROUP}; add "
                    f"{name.split('.')[-1]} to keep, or choose sizes that {GROUP} divides"
                )

    def check_rows(self, what: str, width: int) -> None:
        """That the rows of embeddings can be rounded so; `what` has them, in words before their width. Raises
        ValueError likewise."""
        if self.embeddings is not None and width % GROUP:
            raise ValueError(
                f"embeddings: {what} {width} numbers, which {self.embeddings} cannot divide into groups of {GROUP}; "
                f"leave embeddings out, or choose a hidden size that {GROUP} divides"
            )

    def keeps(self, layer: str) -> bool:
        """Whether a linear layer, by its full name, stays as it is."""
        return any(names(kept, layer) for kept in self.keep)


def names(short: str, layer: str) -> bool:
    """Whether a short name, the last parts of it, means a layer."""
    return layer == short or layer.endswith(f".{short}")


class QuantiseConfig(RoundingConfig):
    """Training on the lattice: weights are rounded whenever they are computed with, gradients go straight through, and
    the optimiser moves float32 masters, which stay in checkpoints. The trained model has the rounded ones."""

    start: Share = Field(default=0.0, ge=0, lt=1)
    """Share of the budget after which weights are on the lattice. 0 %: from the first step. At a high rate weights on a
    lattice learn worse than whole ones: best is where the rate begins to fall."""


class QuantisedTrainConfig(Settings):
    """How a specialist's quantised sibling is trained; the rest is as its `train` says."""

    tokens: CountOrShare | None = None
    """Its own budget in target tokens, or as a share of the specialist's. Null: a tenth of the specialist's, but at
    least 100 of its steps, and at most four times its budget."""

    lr: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate. Null: half of the specialist's."""

    batch_tokens: Count | None = Field(default=None, ge=1)
    """Target tokens of one optimiser step. Null: the specialist's, or a hundredth of its own budget where that is
    less."""

    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    """Shape of the learning rate over its budget."""

    warmup: Share = Field(default=0.05, ge=0, lt=1)
    """Part of its budget in which the learning rate rises linearly."""


class QuantisedConfig(RoundingConfig):
    """A quantised sibling of a specialist (`NAME.quantised`), trained on from its trained weights with its loss; beside
    both the report has what rounding alone does (`NAME.ptq`). The preset `qad`: linear layers at Q4_0, embeddings at
    Q8_0, a short training at a small rate."""

    train: QuantisedTrainConfig = QuantisedTrainConfig()
    """How it is trained."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return {"format": "q4_0", "embeddings": "q8_0"} if value == "qad" else value


@dataclass(frozen=True)
class QuantisedWeights:
    """What a model's folder says of the weights that it has on a lattice."""

    format: str
    """Of its linear layers."""
    embeddings: str | None
    keep: tuple[str, ...]
    """Linear layers that are on none, as settings name them."""
    weights: Mapping[str, str]
    """Full names of the weights that are on one, and which."""

    def to_bytes(self) -> bytes:
        """The contents of QUANTISED_FILE."""
        return json.dumps(asdict(self), indent=1).encode()

    @staticmethod
    def from_bytes(data: bytes) -> QuantisedWeights:
        """The inverse of `to_bytes`."""
        fields = json.loads(data)
        return QuantisedWeights(**{**fields, "keep": tuple(fields["keep"])})

    @staticmethod
    def of_folder(folder: Path) -> QuantisedWeights | None:
        """What a model's folder says; None where none of its weights is on a lattice."""
        file = folder / QUANTISED_FILE
        return QuantisedWeights.from_bytes(file.read_bytes()) if file.exists() else None
