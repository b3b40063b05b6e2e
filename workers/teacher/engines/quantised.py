"""That quantised weights are run as they are, or not at all.

Where its kernels are missing or a GPU is too old for them, transformers makes such weights bfloat16 and only warns: two
to four times the memory, and another model than was measured elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.model_files import read_model_config
from workers.teacher.config import TeacherConfig
from workers.teacher.engines.families import quantisation, why_not_as_quantised


def check_quantised(config: TeacherConfig, folder: Path) -> None:
    """Raise ValueError, before any weight is read, if quantised weights would be dequantised in this process."""
    if (quantised := quantisation(read_model_config(folder))) is None:
        return
    if (reason := why_not_as_quantised(quantised)) is not None:
        raise _refusal(config, quantised, reason)
    from transformers.quantizers import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(dict(quantised), pre_quantized=True)
    quantizer.validate_environment(device_map=None, weights_only=True)
    if getattr(quantizer.quantization_config, "dequantize", False):
        raise _refusal(config, quantised, _WOULD)


def check_still_quantised(config: TeacherConfig, folder: Path, loaded: Any) -> None:
    """Raise ValueError if the weights of a loaded model are no longer quantised as those of its folder are."""
    quantised = quantisation(read_model_config(folder))
    if quantised is not None and not getattr(loaded, "is_quantized", False):
        raise _refusal(config, quantised, _WOULD)


_WOULD = "transformers would dequantise them in this process (its warning says which package or GPU it misses)"


def _refusal(config: TeacherConfig, quantised: dict[str, Any], reason: str) -> ValueError:
    method = quantised.get("quant_method", "of some kind")
    other = "" if config.engine == "vllm" else "set teacher.engine to vllm, or "  # vllm asks here for `show --exact`
    return ValueError(
        f"teacher.model: the weights of {config.model!r} are quantised ({method}), and {reason}; {other}take an "
        "unquantised copy"
    )
