"""Settings of exports: which formats a specialist is written in."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Settings
from workers.quantise.config import GROUP, QuantisedWeights, names

Format = Literal["safetensors", "gguf", "compressed-tensors", "onnx", "mlx"]

WeightType = Literal["f32", "f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k"]

BLOCKS: dict[WeightType, int] = {"q8_0": GROUP, "q4_0": GROUP, "q4_k": 256, "q5_k": 256, "q6_k": 256}
"""Of types that round weights, how many of a row are rounded together."""

K_QUANTS: tuple[WeightType, ...] = ("q4_k", "q5_k", "q6_k")
"""Types whose codes llama.cpp's own quantiser finds."""

NOT_WRITTEN: dict[str, str] = {
    "onnx": "no exporter that is tested here writes a causal language model of transformers 5 with 4-bit weights; take "
    "gguf, or give the safetensors export to optimum",
    "mlx": "MLX computes on Apple's machines alone, so a file could not be measured after it was written; take the "
    "safetensors export, of which `mlx_lm.convert --hf-path FOLDER -q` makes one",
}
"""Formats that have a name and no writer, and why."""

_OF = {
    "dtype": ("safetensors", "compressed-tensors"),
    "weights": ("gguf",),
    "embeddings": ("gguf",),
    "keep": ("gguf", "compressed-tensors"),
    "tokenizer": ("gguf",),
}
"""Which formats read which setting."""


class ExportConfig(Settings):
    """One format in which specialists are written. A name alone (`gguf`) is the short form of `{format: gguf}`."""

    format: Format
    """`safetensors`: a folder that transformers loads. `gguf`: one file for llama.cpp and ollama. `compressed-tensors`:
    a folder with 4-bit weights (W4A16, groups of 32) that transformers and vLLM load. `onnx` and `mlx` are not written,
    and say why."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the weights that are not quantised, in safetensors and compressed-tensors. Null: as they were trained."""

    weights: WeightType | None = None
    """Type of the weights of linear layers in gguf. Null: what the model was trained on (`train.quantise`), else
    q4_0. Those of q4_k, q5_k and q6_k (4.5, 5.5, 6.6 bits a weight, rows of which 256 is a divisor) are rounded by
    llama.cpp's own quantiser (stillhouse[llama-cpp]), nearer than q4_0 and q8_0 are; nothing is trained for them."""

    embeddings: WeightType | None = None
    """Type of embeddings and LM head in gguf. Null: what the model was trained on, else q8_0 where `weights` are
    quantised, and as `weights` where they are not."""

    keep: tuple[str, ...] = ()
    """Linear layers whose weights are not quantised: the last part of their names, for example [down_proj], or more of
    it ([layers.0.mlp.down_proj]). Those of `train.quantise.keep` are not, either."""

    tokenizer: Literal["own", "none"] = "own"
    """`own`: the gguf file holds the tokenizer, and a tokenizer that llama.cpp cannot express is refused. `none`: it
    holds none and takes token ids alone, which is enough to measure it and nothing else."""

    specialists: list[str] | None = None
    """Names of the specialists that are written so. Null: all."""

    measure: int = Field(default=32, ge=0)
    """Held-out texts on which the written file is measured, in the program that people run it with. 0: it is not, and
    that program need not be installed."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"format": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> ExportConfig:
        if self.format in NOT_WRITTEN:
            raise ValueError(f"{self.format} is not written: {NOT_WRITTEN[self.format]}")
        for name, formats in _OF.items():
            if self.format not in formats and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is a setting of {' and '.join(formats)}, not of {self.format}; take it out")
        return self

    def of_model(self, trained: QuantisedWeights | None) -> ExportConfig:
        """The same with what is left open as a model has it, whose folder says this of its weights."""
        if trained is None or self.format not in ("gguf", "compressed-tensors"):
            return self
        found: dict[str, Any] = {"keep": (*self.keep, *trained.keep)}
        if self.format == "gguf" and self.weights is None:
            found |= {"weights": trained.format, "embeddings": self.embeddings or trained.embeddings or "f16"}
        return self.model_copy(update=found)

    def keeps(self, weight: str) -> bool:
        """Whether a weight, by its full name, is of a linear layer that is not quantised."""
        return any(names(kept, weight.removesuffix(".weight")) for kept in self.keep)

    def of(self, specialist: str) -> bool:
        """Whether a specialist is written so."""
        return self.specialists is None or specialist in self.specialists

    @property
    def linear_type(self) -> WeightType:
        """Type of the weights of linear layers in gguf."""
        return self.weights or "q4_0"

    @property
    def embedding_type(self) -> WeightType:
        """Type of embeddings and LM head in gguf."""
        return self.embeddings or ("q8_0" if self.linear_type in BLOCKS else self.linear_type)

    @property
    def block(self) -> int | None:
        """Of how many weights of a row a gguf file rounds together, the most; None where it rounds none."""
        return max((BLOCKS[kind] for kind in (self.linear_type, self.embedding_type) if kind in BLOCKS), default=None)

    @property
    def by_runtime(self) -> bool:
        """Whether llama.cpp's quantiser is needed to write the gguf file."""
        return self.format == "gguf" and bool({self.linear_type, self.embedding_type} & set(K_QUANTS))

    @property
    def label(self) -> str:
        """What tells this export from others of a specialist; empty of plain safetensors."""
        if self.format == "safetensors":
            return self.dtype or ""
        if self.format == "gguf":
            return "-".join(["gguf", *([self.weights] if self.weights else [])])
        return "w4a16"

    @property
    def copied(self) -> bool:
        """Whether the export has the trained model's own bytes."""
        return self.format == "safetensors" and self.dtype is None
