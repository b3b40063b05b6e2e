"""Which kind of node each part of a run is for: what `--nodes` of `stillhouse cluster render` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cluster.nodes.kinds import NodeKind, known_kind, node_kinds
from cluster.nodes.offers import Offer, Where, cpu_offers, offer_of
from orchestrator.config.schema import RunConfig

Role = Literal["teacher", "student", "cpu"]

_ITEM = re.compile(r"(?:(teacher|student|cpu)=)?([^\s:,=]+):([0-9]{1,4})")
_FORM = "KIND:GPUS or ROLE=KIND:GPUS with the role teacher, student or cpu, for example teacher=h100:8,student=l40s:4"
_SHOWN = 60
"""Characters of a wrong word that its error repeats."""


@dataclass(frozen=True)
class Shape:
    """One node that can be had."""

    kind: NodeKind
    gpus: int
    offer: Offer

    @property
    def words(self) -> str:
        """As `--nodes` writes it."""
        return f"{self.kind.name}:{self.gpus}"


@dataclass(frozen=True)
class Shapes:
    """What nodes there may be."""

    with_gpus: dict[Role, Shape] = field(default_factory=dict)
    without_gpus: list[Shape] = field(default_factory=list)
    """The smallest first."""

    def for_gpus(self, role: Role) -> Shape:
        """The nodes of a part that wants GPUs. Raises ValueError where `--nodes` names none."""
        if role not in self.with_gpus:
            whose = {"teacher": "the teacher", "student": "a specialist"}.get(role, "the evaluator")
            raise ValueError(
                f"--nodes: {whose} wants GPUs, and no kind of node is named for it; give {_FORM} (`stillhouse plan "
                "CONFIG --nodes` says what fits)"
            )
        return self.with_gpus[role]


def parse_nodes(words: Sequence[str], config: RunConfig, where: Where) -> Shapes:
    """What `--nodes` says, with the kinds of `cluster.node_kinds`. Raises ValueError for what is not known, twice there
    or not to be had at `where`."""
    kinds, settings = node_kinds(config.cluster.node_kinds), config.cluster.node_kinds
    named: dict[Role, tuple[NodeKind, int]] = {}
    for item in (item.strip() for word in words for item in word.split(",")):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise ValueError(f"--nodes: {item[:_SHOWN]!r} is not {_FORM}")
        gpus = int(found[3])
        kind = known_kind(found[2], gpus, kinds)
        for role in _roles(found[1], gpus, item):
            if role in named:
                raise ValueError(f"--nodes: {item}: a kind of node for the role {role} is named twice; name one")
            named[role] = kind, gpus
    with_gpus = {
        role: Shape(kind, gpus, offer_of(where, kind, gpus, settings)) for role, (kind, gpus) in named.items() if gpus
    }
    plain, _ = named.get("cpu", (kinds["cpu"], 0))
    offers = cpu_offers(where, plain, settings)
    return Shapes(with_gpus, [Shape(plain, 0, offer) for offer in (offers[-1:] if "cpu" in named else offers)])


def _roles(role: str | None, gpus: int, item: str) -> list[Role]:
    if role is None:
        return ["teacher", "student"] if gpus else ["cpu"]
    if (role == "cpu") == bool(gpus):
        raise ValueError(
            f"--nodes: {item}: nodes of the role {role} have {'no ' if role == 'cpu' else ''}GPUs; "
            + ("name a kind without, for example cpu=cpu:0" if role == "cpu" else "parts without run on those of cpu=")
        )
    return ["teacher" if role == "teacher" else "student"] if role != "cpu" else ["cpu"]
