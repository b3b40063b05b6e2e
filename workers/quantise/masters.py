"""Weights in training that are on a lattice while they are computed with, and their float32 masters.

Rounded once after each update, and never in the forward pass: what is computed with are plain weights, whatever loss,
packing or recomputing of activations reads them, and however many micro-batches a step has. A gradient in a rounded
weight is applied to its master: the straight-through estimator (arXiv 1308.3432).

Who holds the masters depends on the ZeRO stage:

- 0: a parameter's master is set aside here, and comes back into its place for the update.
- 1 and 2: the optimiser's float32 partitions are masters anyway, and what it writes into the weights after an update is
  rounded in place.
- 3: a rank's part of each weight is set aside here, since in float32 DeepSpeed updates the very parts that it computes
  with. Weights are gathered to be rounded, as a part need not end where a group does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workers.quantise.lattice import on_lattice
from workers.quantise.layers import forms

_GATHERED = 1 << 26
"""Numbers of weights that are gathered at once."""


class Masters:
    """The weights of a language model in a DeepSpeed engine that are on a lattice by `weights` (full names), as soon as
    they are `lowered`. All of its methods are collectives."""

    def __init__(self, engine: Any, causal_lm: Any, weights: Mapping[str, str]) -> None:
        self._stage = engine.zero_optimization_stage()
        self._forms = forms(causal_lm, weights)
        self._aside: dict[nn.Parameter, Tensor] = {}
        self.lowered = False
        """Whether weights are on the lattice now."""

    @torch.no_grad()
    def lower(self) -> None:
        """Put the weights on the lattice, if they are not there."""
        if self.lowered:
            return
        if self._stage == 3:
            self._lower_partitioned()
        for parameter, form in self._forms.items() if self._stage < 3 else ():
            rounded = on_lattice(parameter, form)
            if self._stage:
                parameter.copy_(rounded)
            else:
                self._aside[parameter], parameter.data = parameter.data, rounded
        self.lowered = True

    @torch.no_grad()
    def lift(self) -> None:
        """Put the masters where the optimiser updates them, if weights are on the lattice."""
        if self.lowered and self._stage == 0:
            for parameter in self._forms:
                parameter.data = self._aside.pop(parameter)
        elif self.lowered and self._stage == 3:
            for parameter in self._forms:
                parameter.ds_tensor.copy_(self._aside[parameter])
        self.lowered = False

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The masters in their places for the length of a block, in which a checkpoint is written."""
        if not self.lowered or self._stage in (1, 2):  # their checkpoints have the optimiser's own
            yield
            return
        self.lift()
        try:
            yield
        finally:
            self.lower()

    def _lower_partitioned(self) -> None:
        for some in self._in_chunks():
            for parameter in some:
                part = parameter.ds_tensor
                self._aside.setdefault(parameter, torch.empty_like(part)).copy_(part)
            some[0].all_gather(param_list=some)
            for parameter in some:
                parameter.copy_(on_lattice(parameter, self._forms[parameter]))
            some[0].partition(param_list=some, has_been_updated=True)

    def _in_chunks(self) -> Iterator[list[nn.Parameter]]:
        some: list[nn.Parameter] = []
        for parameter in self._forms:
            some.append(parameter)
            if sum(p.ds_numel for p in some) >= _GATHERED:
                yield some
                some = []
        if some:
            yield some
