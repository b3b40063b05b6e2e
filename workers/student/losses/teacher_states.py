"""Teachers' distributions made of their hidden states where a loss needs them: some positions at a time, on its device.

A teacher's head is no part of the student: it is read once a process, stays as it is in its own type, whole on every
worker, and neither engine nor optimiser nor checkpoint knows of it.

Legend: T target positions, n of them of one teacher, H its hidden size, V the tokenizer's ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from workers.targets.heads import TeacherHead, read_head
from workers.targets.store import TargetStore
from workers.units import UnitPlan


@dataclass(frozen=True)
class TeacherStates:
    """What the heads of one or more teachers are given at T positions."""

    runs: tuple[tuple[str, Tensor], ...]
    """Teacher and hidden states [n, H] of positions that follow each other."""
    confidence: bool = False
    """Whether the positions' weights are still to be shared out by the teacher's confidence, which hidden states alone
    do not tell."""
    heads: Mapping[str, TeacherHead] = field(default_factory=dict)
    """By teacher, on the device of the states."""

    def map(self, change: Callable[[Tensor], Tensor]) -> TeacherStates:
        """The same with all hidden states changed, for example moved to a device."""
        return replace(self, runs=tuple((teacher, change(h_nH)) for teacher, h_nH in self.runs))

    def part(self, tokens: slice) -> TeacherStates:
        """Those of some positions, from the slice's start to its stop."""
        runs, first = [], 0
        for teacher, h_nH in self.runs:
            own = h_nH[max(tokens.start - first, 0) : max(tokens.stop - first, 0)]
            runs += [(teacher, own)] if len(own) else []
            first += len(h_nH)
        return replace(self, runs=tuple(runs))

    @torch.no_grad()
    def distributions(self, temperature_T: Tensor | None) -> tuple[Tensor, Tensor]:
        """Probabilities [T, V] at the temperatures (None: 1) and their entropies [T] in nats, float32."""
        parts = [self.heads[teacher].make_logits(h_nH) for teacher, h_nH in self.runs]
        z_TV = parts[0] if len(parts) == 1 else torch.cat(parts)
        del parts
        if temperature_T is not None:
            z_TV.div_(temperature_T[:, None])
        z_TV.sub_(z_TV.amax(-1, keepdim=True))
        p_TV = z_TV.softmax(-1)
        # log p = z - lse, and of the largest logit, which is 0, log p = -lse.
        return p_TV, -p_TV.amax(-1).log() - torch.linalg.vecdot(p_TV, z_TV)


def read_heads(
    store: TargetStore, plan: UnitPlan, domains: Iterable[str], device: str, who: str
) -> dict[str, TeacherHead]:
    """The heads of all teachers of some domains' units, on a device; none of a store that is not `hidden`.

    Raises ValueError where one is lost.
    """
    if store.header.scheme != "hidden":
        return {}
    wanted = set(domains)
    names = sorted({unit.teacher for unit in plan.units if wanted & set(unit.domains)})
    return {name: read_head(store, name, who).to(device) for name in names}
