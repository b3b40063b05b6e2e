"""Of which mixtures a single expert per layer can be kept, and which teachers can be rounded to 4 bit. From
configurations alone; no torch."""

from __future__ import annotations

from typing import Any

from workers.model_files import expert_count

CUTTABLE = ("flex_olmo", "gpt_oss", "granitemoe", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Families that are tested (tests/workers/evaluation/test_single_expert.py)."""


def why_not_cut(model_config: dict[str, Any]) -> str | None:
    """Why a teacher cannot be cut down to one expert a layer, by its config.json, or None if it can."""
    kind = model_config.get("model_type")
    if not expert_count(model_config):
        return f"{kind} is a dense model and has no experts"
    if kind not in CUTTABLE:
        return f"{kind} is not among the mixtures that are cut ({', '.join(CUTTABLE)})"
    if model_config.get("quantization_config"):
        return "its weights are quantised, and experts are cut from whole ones"
    return None


ROUNDED = (*CUTTABLE, "deepseek_v3")
"""Mixtures whose experts' weights are known to have their inputs where they are looked for
(tests/workers/evaluation/test_four_bit.py)."""


def why_not_rounded(model_config: dict[str, Any]) -> str | None:
    """Why a teacher cannot be rounded to 4 bit, by its config.json, or None if it can."""
    kind = model_config.get("model_type")
    if model_config.get("quantization_config"):
        return "its weights are quantised already"
    if expert_count(model_config) and kind not in ROUNDED:
        return f"{kind} is not among the mixtures that are rounded ({', '.join(ROUNDED)})"
    return None
