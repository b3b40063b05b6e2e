"""What a rank's optimiser holds: of parameters a range of their numbers, as float32 masters with AdamW's two moments.

Which range depends on the ZeRO stage. A worker that partitions nothing has all of each parameter. ZeRO-1 and ZeRO-2 lay
the parameters end to end and cut that into as many pieces as there are ranks; ZeRO-3 cuts each parameter so. What fills
up a piece at its end belongs to no parameter, and no result depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

MASTER, MOMENTS = "fp32", ("exp_avg", "exp_avg_sq")
KINDS = (MASTER, *MOMENTS)
"""Of numbers that are held, as DeepSpeed and torch name them."""


class Slice(NamedTuple):
    """A range of one parameter's numbers, in the order that they have when it is flat."""

    name: str
    """The parameter's."""
    begin: int
    """The first one's place in it."""
    tensors: dict[str, Tensor]
    """The numbers by kind, float32: what is written into them the optimiser holds."""


def held(engine: Any) -> list[Slice]:
    """The slices of this rank, in the order of the engine's parameters. What is not trained has none."""
    of_stage = {0: _whole, 3: _of_parameters}.get(engine.zero_optimization_stage(), _of_all)
    named = ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)
    return list(of_stage(engine.optimizer, named))


def give_state(engine: Any, step: int) -> None:
    """Give the optimiser of an engine that has made no step the state that it has after so many, with moments of 0."""
    optimizer = engine.optimizer
    partitioned = engine.zero_optimization_stage() == 3
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    for tensor in optimizer.fp32_partitioned_groups_flat if partitioned else groups:
        counted = torch.tensor(float(step), dtype=torch.float32, device=tensor.device)
        optimizer.state[tensor] = {"step": counted, **{m: torch.zeros_like(tensor.detach()) for m in MOMENTS}}


@torch.no_grad()
def compute_with_masters(engine: Any) -> None:
    """Make the weights that are computed with from the masters, as a step of the optimiser does. A collective."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        from deepspeed.utils import safe_get_local_fp32_param

        for parameter in engine.module.parameters():
            if parameter.requires_grad:
                parameter.ds_tensor.copy_(safe_get_local_fp32_param(parameter))
        if gathered := optimizer.persistent_parameters:
            gathered[0].partition(gathered)
            gathered[0].all_gather(gathered)


_Named = Iterator[tuple[str, nn.Parameter]]


def _whole(optimizer: Any, named: _Named) -> Iterator[Slice]:
    for name, parameter in named:
        state = optimizer.state[parameter]
        tensors = {MASTER: parameter, **{moment: state[moment] for moment in MOMENTS}}
        yield Slice(name, 0, {kind: tensor.detach().view(-1) for kind, tensor in tensors.items()})


def _of_all(optimizer: Any, named: _Named) -> Iterator[Slice]:
    for name, parameter in named:
        if (found := parameter._hp_mapping) is None:
            continue
        (piece,) = optimizer.param_groups[found.param_group_index]["params"]
        state, at = optimizer.state[piece], found.hp_fragment_address
        tensors = {MASTER: piece, **{moment: state[moment] for moment in MOMENTS}}
        own = {kind: tensor.detach().narrow(0, at.start, at.numel) for kind, tensor in tensors.items()}
        yield Slice(name, found.lp_fragment_address.start, own)


def _of_parameters(optimizer: Any, named: _Named) -> Iterator[Slice]:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    for name, parameter in named:
        size = parameter.partition_numel()
        begin = dist.get_rank() * size
        count = min(size, parameter.ds_numel - begin)
        if count > 0:
            tensors = {MASTER: safe_get_local_fp32_param(parameter)}
            tensors |= {moment: safe_get_local_optimizer_state(parameter, moment) for moment in MOMENTS}
            yield Slice(name, begin, {kind: tensor.detach()[:count] for kind, tensor in tensors.items()})
