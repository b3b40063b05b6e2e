"""Checkpoints of a worker that partitions nothing: each parameter whole, in the files of DeepSpeed's universal format.

ZeRO-1 and ZeRO-2 of any number of workers read them as they are (resharding.py), and what they wrote is read here once
it is converted. Nothing is rounded on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_whole(engine: Any, folder: Path) -> None:
    """Write weights and AdamW's state of an engine without ZeRO into a new folder."""
    import deepspeed

    for name, parameter in _trained(engine):
        state = engine.optimizer.state[parameter]
        place = folder / "zero" / name
        place.mkdir(parents=True)
        for key, tensor in {"fp32": parameter.detach(), **{key: state[key] for key in _MOMENTS}}.items():
            torch.save({"param": tensor.cpu(), "cat_dim": 0}, place / f"{key}.pt")
        torch.save(state["step"].cpu(), place / "step.pt")
    groups = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    torch.save({"param_groups": groups, "ds_version": deepspeed.__version__}, folder / "zero" / "optimizer_state.pt")
    counts = {name: getattr(engine, name) for name in ("global_steps", "global_samples", "skipped_steps")}
    ranks = {"dp_world_size": 1, "mp_world_size": 1}
    torch.save({"module": {}, **counts, **ranks}, folder / "mp_rank_00_model_states.pt")


def load_whole(engine: Any, folder: Path) -> None:
    """Put them into a new engine without ZeRO. What is frozen stays as it is."""
    for name, parameter in _trained(engine):
        place = folder / "zero" / name

        def read(key: str, place: Path = place, like: torch.Tensor = parameter) -> torch.Tensor:
            found = torch.load(place / f"{key}.pt", weights_only=True, map_location=like.device)
            return found["param"].view_as(like)

        parameter.data.copy_(read("fp32"))
        step = torch.load(place / "step.pt", weights_only=True)
        engine.optimizer.state[parameter] = {
            "step": torch.as_tensor(step, dtype=torch.float32, device=parameter.device),
            **{key: read(key) for key in _MOMENTS},
        }


def _trained(engine: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)
