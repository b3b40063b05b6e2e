"""Parts on nodes that are known one by one: which find a place, which wait, and what their nodes' memory holds.

Ray places by CPUs, GPUs, accelerators and labels, and looks at no memory. So parts are placed as Ray would, and then
memory is looked at: that of one process on its GPUs, and that of all processes of a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from humanize import naturalsize

from cluster.nodes.kinds import TYPE_LABEL, NodeKind, PlannedNode
from cluster.nodes.packing import Room
from cluster.resources import MEMORY, ResourceRequest, bundles_on, infeasible_reason, matches
from orchestrator.preflight.parts import USABLE, Part
from orchestrator.preflight.planning.record import RunPlan

Change = tuple[str, Part]
"""A change of settings in words, which begin with its key, and what a part becomes by it."""

TOGETHER = "all of these"
"""Key of several changes at once, which are proposed where none is enough alone."""


@dataclass(frozen=True)
class Placeable:
    """A part with what it asks of a cluster."""

    part: Part
    key: str
    """Of its settings."""
    what: str
    """What finds a place or none: one replica, all workers."""
    amounts: str
    """Settings that say how much it reserves."""
    request: ResourceRequest
    """Of one group of its processes."""
    groups: int = 1
    """How many of those must be there at once, and at most."""
    most_groups: int = 1
    changes: Callable[[], Iterator[Change]] = field(default=lambda: iter(()))
    """What would make a process of it smaller."""
    starts: bool = True


def note_no_place(plan: RunPlan, items: list[Placeable]) -> None:
    """Problems of parts that would find no place even if nothing else ran."""
    for item in items:
        if reason := infeasible_reason(item.request, plan.inventory.members):
            plan.problems.append(f"{item.key}: {item.what} finds no place on this cluster: {reason}; {item.amounts}")


def place_together(plan: RunPlan, items: list[Placeable], kinds: Mapping[str, NodeKind]) -> None:
    """Say of each part of a plan for planned nodes where it is placed, with the problems and notes that follow; `kinds`
    are those that other nodes could be of."""
    nodes = [node for node in plan.inventory.members if isinstance(node, PlannedNode)]
    assert len(nodes) == len(plan.inventory.members)
    work = _Placement(plan, nodes, kinds)
    for kind in ("teacher", "student"):
        for item in items:
            if item.part.kind == kind and item.starts:
                work.put_beside_others(item)
    for item in items:
        if item.part.kind == "teacher" and item.starts:
            work.put_further_replicas(item)
    work.check_nodes(work.held)
    for item in items:
        if item.part.kind not in ("teacher", "student"):
            work.put_alone(item)
    work.tell()
    plan.parts = [work.placed.get(part.name, part) for part in plan.parts]


Held = dict[int, Counter[str]]
"""By node, how many processes of each part are there."""


class _Placement:
    """The nodes of a plan while its parts are placed."""

    def __init__(self, plan: RunPlan, nodes: list[PlannedNode], kinds: Mapping[str, NodeKind]) -> None:
        self._plan, self._nodes, self._kinds = plan, nodes, kinds
        self._room = Room(nodes)
        self.held: Held = {}
        """Of all that run at once."""
        self.placed: dict[str, Part] = {}
        """By name, with its place."""
        self._too_small: dict[str, list[str]] = {}
        """By what is said of GPUs that do not hold a process, the parts of which it is true."""

    def put_beside_others(self, item: Placeable) -> None:
        """The least of a teacher's replicas, or a specialist's workers, beside what is there."""
        if infeasible_reason(item.request, self._nodes):
            return
        among = self._fitting(item)
        places: list[int] = []
        for group in range(item.groups):
            found = self._room.put(item.request, among)
            if found is None and item.part.kind == "teacher":
                self._plan.problems.append(
                    f"{item.key}.replicas: of the least {item.groups}, {group} find a place at once on "
                    f"{self._plan.inventory.source}, each wants {item.request}; lower replicas, or take more nodes"
                )
                return
            if found is None:
                self._put_on_empty(item, among, waits=True)
                return
            places += found
        self._record(item, places, self.held)

    def put_further_replicas(self, item: Placeable) -> None:
        """Those that a teacher may have above the least, while all others run."""
        if item.part.name not in self.placed:
            return
        among, more = self._fitting(item, tell=False), 0
        while item.groups + more < item.most_groups and (found := self._room.put(item.request, among)) is not None:
            self._hold(item.part, found, self.held)
            more += 1
        if item.groups + more < item.most_groups:
            self._plan.notes.append(
                f"{item.key}: room for {item.groups + more} of at most {item.most_groups} replicas beside all others; "
                "more are added as room becomes free"
            )

    def put_alone(self, item: Placeable) -> None:
        """What runs before or after all others."""
        if not infeasible_reason(item.request, self._nodes):
            self._put_on_empty(item, self._fitting(item), waits=False)

    def check_nodes(self, held: Held) -> None:
        """Problems of nodes whose processes hold more than their memory; one for nodes that are alike."""
        seen: Counter[str] = Counter()
        for i, parts in held.items():
            memory = {name: self.placed[name].memory for name in parts}
            node, total = self._nodes[i], sum(memory[name] * n for name, n in parts.items())
            if total <= node.total[MEMORY]:
                continue
            what = ", ".join(f"{n} of {name} ({naturalsize(memory[name])} each)" for name, n in parts.items())
            has = naturalsize(node.total[MEMORY])
            seen[f"of {node.kind.name}, which has {has} of memory, holds {naturalsize(total)}: {what}"] += 1
        for sentence, count in seen.items():
            self._plan.problems.append(
                f"a node {sentence}{f' ({count} nodes)' if count > 1 else ''}; let fewer processes share a node (a "
                "larger cpus_per_rank or cpus_per_worker, placement SPREAD), take more nodes, or ones with more memory"
            )

    def tell(self) -> None:
        """Add what is true of several parts in one sentence."""
        self._plan.problems += [f"{', '.join(keys)}: {sentence}" for sentence, keys in self._too_small.items()]
        if waiting := [part.name for part in self.placed.values() if part.waits]:
            self._plan.notes.append(f"{', '.join(waiting)}: no room at once; started when others have ended")

    def _put_on_empty(self, item: Placeable, among: list[int], *, waits: bool) -> None:
        held: Held = {}
        self._record(item, Room(self._nodes).put(item.request, among) or [], held, waits=waits)
        self.check_nodes(held)

    def _record(self, item: Placeable, places: list[int], held: Held, *, waits: bool = False) -> None:
        self._hold(item.part, places, held)
        by_kind = Counter(self._nodes[i].kind.name for i in places)
        self.placed[item.part.name] = replace(item.part, placed=dict(by_kind), waits=waits)

    def _hold(self, part: Part, places: list[int], held: Held) -> None:
        for i in places:
            held.setdefault(i, Counter())[part.name] += 1

    def _fitting(self, item: Placeable, *, tell: bool = True) -> list[int]:
        """Nodes whose GPUs hold a process, of those where Ray may put it; all of those, with a problem, where none
        does."""
        part, request = item.part, item.request
        able = [
            i
            for i, node in enumerate(self._nodes)
            if matches(node.labels, request.labels) and bundles_on(node.total, request.bundles[0]) > 0
        ]
        if not part.gpus:
            return able
        kinds = {self._nodes[i].kind.name: self._nodes[i].kind for i in able}
        large = {name: kind for name, kind in kinds.items() if part.fits_gpus(kind.gpu_memory)}
        fits = [i for i in able if self._nodes[i].kind.name in large]
        if len(large) < len(kinds) and tell:
            small = [kind for name, kind in kinds.items() if name not in large]
            sentence = self._on_small_gpus(item, small, list(large.values()))
            self._too_small.setdefault(sentence, []).append(item.key)
        return fits or able

    def _on_small_gpus(self, item: Placeable, small: list[NodeKind], large: list[NodeKind]) -> str:
        """What to do about kinds of nodes that Ray may choose and whose GPUs do not hold a process."""
        part = item.part
        room = " and ".join(
            f"{naturalsize(part.gpu_share(kind.gpu_memory))} ({kind.name}, {USABLE:.0%} of {part.gpus:g} GPU)"
            for kind in small
        )
        remedies = _changes_that_fit(item, min(small, key=lambda kind: kind.gpu_memory))
        sentence = f"a process holds {naturalsize(part.gpu_memory)} on its GPU, where there is room for {room}"
        if large:
            names = " or ".join(kind.name for kind in large)
            sentence += f"; Ray looks at no memory, and may put it there instead of on {names}"
            remedies.append(_keep_to(item, large) or f"plan for nodes of {names} alone")
        remedies += _other_kinds(part, self._kinds, {kind.name for kind in [*small, *large]}) if not large else []
        return f"{sentence}: {', or '.join(remedies) or 'no known kind of node has as much; take a smaller model'}"


def _changes_that_fit(item: Placeable, kind: NodeKind) -> list[str]:
    """The changes of settings, each by itself, after which a process fits a kind of node: of each setting the least."""
    found: dict[str, str] = {}
    for words, part in item.changes():
        if part.fits_gpus(kind.gpu_memory):
            found.setdefault(words.partition(":")[0], words)
    together = found.pop(TOGETHER, None)
    return list(found.values()) or ([together] if together else [])


def _other_kinds(part: Part, kinds: Mapping[str, NodeKind], without: set[str]) -> list[str]:
    fit = [
        f"{kind.name} ({naturalsize(kind.gpu_memory)})"
        for kind in sorted(kinds.values(), key=lambda kind: kind.gpu_memory)
        if kind.name not in without and part.fits_gpus(kind.gpu_memory)
    ]
    return [f"nodes of {' or '.join(fit)}"] if fit else []


def _keep_to(item: Placeable, kinds: list[NodeKind]) -> str | None:
    """The setting that keeps a part on nodes of some kinds; None where there is none that would."""
    types = sorted({kind.accelerator_type for kind in kinds if kind.accelerator_type is not None})
    if item.part.kind not in ("teacher", "student") or not types:
        return None
    value = types[0] if len(types) == 1 else f"in({', '.join(types)})"
    return f"label_selector: {{{TYPE_LABEL}: {value!r}}}"
