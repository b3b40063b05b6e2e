"""Whether weight files hold the model that their config.json describes, from their headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.model_sizes import tensor_shapes


def check_files(where: str, model: Any, folder: Path) -> None:
    """Compare a model on the meta device with the safetensors files of its folder; `where` names it in the settings.

    Only names that both have are compared, since many architectures are stored otherwise than they are run; weights
    that are missing are told where all that is there has its name. Raises ValueError.
    """
    shapes = tensor_shapes(folder)
    if not shapes or getattr(model.config, "quantization_config", None):
        return
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(own.keys() & shapes.keys()):
        if own[name] != shapes[name]:
            raise ValueError(
                f"{where}: {name} is {shapes[name]} in the files of {str(folder)!r}, and {own[name]} by its "
                "config.json; fetch the model again, or mend the file that is wrong"
            )
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = sorted(own.keys() - shapes.keys() - tied) if shapes.keys() <= own.keys() else []
    if missing:
        raise ValueError(
            f"{where}: the files of {str(folder)!r} lack {len(missing)} of the model's weights, {missing[0]} for "
            "example; fetch the model again"
        )
