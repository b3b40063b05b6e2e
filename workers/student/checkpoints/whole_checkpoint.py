"""Checkpoints of a worker that partitions nothing: one safetensors file with each parameter and AdamW's moments whole.

Between it and the ZeRO stages stands DeepSpeed's universal format (resharding.py): a folder for each parameter, which
is made from this file, or read here. Nothing is rounded on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_FILE = "state.safetensors"
_WEIGHT, _MOMENTS = "fp32", ("exp_avg", "exp_avg_sq")
"""As the universal format names them."""


def save_whole(engine: Any, folder: Path) -> None:
    """Write weights and AdamW's state of an engine without ZeRO into a new folder. What is frozen is left out."""
    tensors, steps = {}, {}
    for name, parameter in _trained(engine):
        state = engine.optimizer.state[parameter]
        tensors[f"{_WEIGHT}.{name}"] = parameter.detach().contiguous()
        tensors |= {f"{moment}.{name}": state[moment].contiguous() for moment in _MOMENTS}
        steps[name] = float(state["step"])
    groups = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    folder.mkdir(parents=True)
    save_file(tensors, folder / _FILE, {"steps": json.dumps(steps), "param_groups": json.dumps(groups)})


def load_whole(engine: Any, folder: Path) -> None:
    """Put them into a new engine without ZeRO."""
    with safe_open(folder / _FILE, "pt") as file:
        steps = json.loads(file.metadata()["steps"])
        _put(engine, lambda kind, name: file.get_tensor(f"{kind}.{name}"), steps.__getitem__)


def to_universal(written: Path, folder: Path) -> None:
    """Make universal files in a new folder, for ZeRO-1 or ZeRO-2 of any number of workers."""
    with safe_open(written / _FILE, "pt") as file:
        metadata = file.metadata()
        for name, step in json.loads(metadata["steps"]).items():
            place = folder / "zero" / name
            place.mkdir(parents=True)
            for kind in (_WEIGHT, *_MOMENTS):
                torch.save({"param": file.get_tensor(f"{kind}.{name}"), "cat_dim": 0}, place / f"{kind}.pt")
            torch.save(torch.tensor(step), place / "step.pt")
    facts = {"param_groups": json.loads(metadata["param_groups"]), "ds_version": version("deepspeed")}
    torch.save(facts, folder / "zero" / "optimizer_state.pt")
    counts = {"global_steps": 0, "global_samples": 0, "skipped_steps": 0}  # the pointer of a checkpoint has them
    ranks = {"dp_world_size": 1, "mp_world_size": 1}
    torch.save({"module": {}, **counts, **ranks}, folder / "mp_rank_00_model_states.pt")


def load_universal(engine: Any, folder: Path) -> None:
    """Put universal files, of ZeRO-1 or ZeRO-2 of any number of workers, into a new engine without ZeRO."""

    def read(kind: str, name: str) -> Any:
        return torch.load(folder / "zero" / name / f"{kind}.pt", weights_only=True)

    _put(engine, lambda kind, name: read(kind, name)["param"], lambda name: float(read("step", name)))


def _put(engine: Any, tensor: Callable[[str, str], Tensor], step: Callable[[str], float]) -> None:
    for name, parameter in _trained(engine):
        parameter.data.copy_(tensor(_WEIGHT, name).view_as(parameter))
        engine.optimizer.state[parameter] = {
            "step": torch.tensor(step(name), dtype=torch.float32, device=parameter.device),
            **{m: tensor(m, name).view_as(parameter).to(parameter.device, copy=True) for m in _MOMENTS},
        }


def _trained(engine: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)
