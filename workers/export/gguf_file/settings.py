"""The settings of a model in a GGUF file, from its config.json; names as gguf's writer has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.export.config import ExportConfig
from workers.export.gguf_file.families import Family, Read, head_width, rope

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write_settings(writer: GGUFWriter, family: Family, read: Read, vocabulary: int, export: ExportConfig) -> None:
    """All that llama.cpp reads of a model but its tokenizer. `vocabulary`: rows of the embedding."""
    import gguf

    types = gguf.LlamaFileType
    kinds = {"f32": types.ALL_F32, "f16": types.MOSTLY_F16, "q8_0": types.MOSTLY_Q8_0, "q4_0": types.MOSTLY_Q4_0}
    kinds |= {"q4_k": types.MOSTLY_Q4_K_S, "q5_k": types.MOSTLY_Q5_K_S, "q6_k": types.MOSTLY_Q6_K}
    writer.add_file_type(kinds[export.linear_type])
    if export.block is not None:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(vocabulary)
    writer.add_block_count(int(read("num_hidden_layers")))
    writer.add_context_length(int(read("max_position_embeddings")))
    writer.add_embedding_length(int(read("hidden_size")))
    writer.add_feed_forward_length(int(read("intermediate_size")))
    writer.add_head_count(int(read("num_attention_heads")))
    writer.add_head_count_kv(int(read("num_key_value_heads") or read("num_attention_heads")))
    writer.add_layer_norm_rms_eps(float(read("rms_norm_eps")))
    writer.add_rope_dimension_count(head_width(read))
    if family.name != "granite":  # in which it is hidden_size / num_attention_heads, always
        writer.add_key_length(head_width(read))
        writer.add_value_length(head_width(read))
    _write_rope(writer, rope(read))
    if family.name == "gemma3":
        if read("sliding_window"):
            writer.add_sliding_window(int(read("sliding_window")))
        local = rope(read, "sliding_attention").get("rope_theta") if read("rope_parameters") else None
        writer.add_rope_freq_base_swa(float(local or read("rope_local_base_freq") or 10000.0))
    if family.name == "granite":
        writer.add_attention_scale(float(read("attention_multiplier")))
        writer.add_embedding_scale(float(read("embedding_multiplier")))
        writer.add_residual_scale(float(read("residual_multiplier")))
        writer.add_logit_scale(float(read("logits_scaling")))


def _write_rope(writer: GGUFWriter, parameters: dict[str, Any]) -> None:
    import gguf

    writer.add_rope_freq_base(float(parameters["rope_theta"] or 10000.0))
    if parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(parameters["factor"]))


def rope_factors(read: Read) -> np.ndarray[Any, Any] | None:
    """By what Llama 3.1 divides each frequency (`_compute_llama3_parameters` of transformers); None of other rotary
    positions."""
    own = rope(read)
    if own["rope_type"] != "llama3":
        return None
    width, base, factor = head_width(read), float(own["rope_theta"]), float(own["factor"])
    low, high = float(own["low_freq_factor"]), float(own["high_freq_factor"])
    before = float(own["original_max_position_embeddings"])
    wavelengths = 2 * math.pi * base ** (np.arange(0, width, 2, dtype=np.float64) / width)
    smooth = (before / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    found = np.where(wavelengths < before / high, 1.0, np.where(wavelengths > before / low, factor, between))
    return found.astype(np.float32)
