"""Architectures that are written as GGUF: what of a config.json llama.cpp can be told, and what must be refused.

llama.cpp ignores settings that it does not know, so that a file with one would load and compute something else. All of
a config.json that bears upon the computation is therefore looked at here, before anything is loaded. No torch, no gguf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.architectures import architecture

Read = Callable[[str], Any]
"""A setting by its name: of the config.json, or the architecture's default; None where there is neither."""


@dataclass(frozen=True)
class Family:
    """How models of a type are written."""

    name: str
    """What llama.cpp calls the architecture."""
    rotates_pairs: bool = False
    """Its rotary positions turn neighbours, where transformers turns halves: rows of Q and K are reordered."""
    norm_shift: float = 0.0
    """What is added to the weights of norms; Gemma's multiply by 1 + w."""
    activation: str = "silu"
    plain_attention: bool = True
    """No sliding window, which llama.cpp does not have in this architecture."""
    biases: tuple[str, ...] = ()
    """Settings by which a layer has biases that llama.cpp loads."""


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", rotates_pairs=True, biases=("attention_bias", "mlp_bias")),
    "mistral": Family("llama", rotates_pairs=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma3_text": Family("gemma3", norm_shift=1.0, activation="gelu_pytorch_tanh", plain_attention=False),
    "granite": Family("granite", rotates_pairs=True),
}
"""By the model type of transformers. SmolLM is `llama`."""

GEMMA_PATTERN = 6
"""Of so many layers of Gemma 3 the last sees everything; llama.cpp has the number built in."""

_ROPE = ("default", "linear", "llama3")


def reader(config: dict[str, Any]) -> Read:
    """The settings of a config.json."""
    known = architecture(str(config.get("model_type")))

    def read(name: str) -> Any:
        value = config.get(name)
        return known.value(config, name) if value is None and known is not None else value

    return read


def head_width(read: Read) -> int:
    """Numbers of one attention head."""
    return int(read("head_dim") or read("hidden_size") // read("num_attention_heads"))


def undivided(config: dict[str, Any], block: int) -> str | None:
    """A number of inputs of linear layers that blocks of weights do not divide, with the setting that it comes from."""
    read = reader(config)
    widths = {
        "hidden_size": int(read("hidden_size")),
        "intermediate_size": int(read("intermediate_size")),
        "num_attention_heads x head_dim": int(read("num_attention_heads")) * head_width(read),
    }
    return next((f"its {name} is {width}" for name, width in widths.items() if width % block), None)


def rope(read: Read, kind: str = "full_attention") -> dict[str, Any]:
    """Parameters of rotary positions of a kind of layers, as transformers 5 and older ones write them."""
    said: dict[str, Any] = read("rope_parameters") or read("rope_scaling") or {}
    own: dict[str, Any] = said.get(kind) or said
    kept = {k: v for k, v in own.items() if not isinstance(v, dict)}
    return {"rope_theta": read("rope_theta"), **kept, "rope_type": own.get("rope_type") or own.get("type") or "default"}


def why_not_gguf(config: dict[str, Any]) -> str | None:
    """Why a model of a config.json cannot be written as GGUF, or None if it can."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return f"{config.get('model_type')!r} is not among the architectures that are written: {', '.join(FAMILIES)}"
    read = reader(config)
    activation = read("hidden_act") or read("hidden_activation")
    if config.get("quantization_config"):
        return "its weights are quantised already"
    if activation not in (family.activation, None):
        return f"llama.cpp computes {family.activation} in it, and its config.json says {activation!r}"
    for kind in ("full_attention", "sliding_attention"):
        if (reason := _why_not_rope(rope(read, kind))) is not None:
            return reason
    for name in ("attention_bias", "mlp_bias"):
        if read(name) and name not in family.biases:
            return f"llama.cpp has no place for the biases that {name} gives {family.name}"
    return _why_not_window(family, read) or _OWN.get(str(config.get("model_type")), lambda read: None)(read)


def _why_not_rope(parameters: dict[str, Any]) -> str | None:
    kind = parameters["rope_type"]
    if kind not in _ROPE:
        return f"rotary positions of type {kind!r} are not written, only {', '.join(_ROPE)}"
    if float(parameters.get("partial_rotary_factor") or 1) != 1:
        return "only a part of each head is rotated (partial_rotary_factor), which is not written"
    return None


def _why_not_window(family: Family, read: Read) -> str | None:
    window, types = read("sliding_window"), set(read("layer_types") or ())
    sees_less = read("use_sliding_window") is not False and window and window < int(read("max_position_embeddings"))
    if family.plain_attention and (sees_less or "sliding_attention" in types):
        return f"llama.cpp has no sliding window in {family.name}, and its config.json says sliding_window: {window}"
    return None


def _why_not_gemma(read: Read) -> str | None:
    layers = int(read("num_hidden_layers"))
    types = read("layer_types") or _pattern(layers, int(read("sliding_window_pattern") or GEMMA_PATTERN))
    if types != _pattern(layers, GEMMA_PATTERN):
        return f"llama.cpp lets each {GEMMA_PATTERN}th layer see everything, and its config.json says otherwise"
    if read("query_pre_attn_scalar") != head_width(read):
        return "llama.cpp scales attention by head_dim, and its query_pre_attn_scalar is another number"
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if read(name):
            return f"llama.cpp has no {name} in gemma3"
    return None


def _pattern(layers: int, every: int) -> list[str]:
    return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]


def _why_not_granite(read: Read) -> str | None:
    if head_width(read) * int(read("num_attention_heads")) != int(read("hidden_size")):
        return "llama.cpp has no head_dim in granite other than hidden_size / num_attention_heads"
    return None


_OWN: dict[str, Callable[[Read], str | None]] = {"gemma3_text": _why_not_gemma, "granite": _why_not_granite}
