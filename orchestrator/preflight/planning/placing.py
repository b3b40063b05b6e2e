"""Parts on nodes that are known one by one: which find a place, which wait, and what their nodes' memory holds.

Ray places by CPUs, GPUs, accelerators and labels, and looks at no memory. So parts are placed as Ray would, and then
memory is looked at: that of one process on its GPUs, and that of all processes of a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from humanize import naturalsize

from cluster.config import ClusterConfig
from cluster.nodes.kinds import TYPE_LABEL, NodeKind, PlannedNode, node_kinds
from cluster.resources import MEMORY, infeasible_reason
from orchestrator.preflight.parts import USABLE, Part
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.preflight.planning.seats import Placeable, Seats

TOGETHER = "all of these"
"""Key of several changes at once, which are proposed where none is enough alone."""


def note_no_place(plan: RunPlan, items: list[Placeable]) -> None:
    """Problems of parts that would find no place even if nothing else ran."""
    for item in items:
        if reason := infeasible_reason(item.request, plan.inventory.members):
            plan.problems.append(f"{item.key}: {item.what} finds no place on this cluster: {reason}; {item.amounts}")


def place_together(plan: RunPlan, items: list[Placeable], cluster: ClusterConfig) -> None:
    """Say of each part of a plan for planned nodes where it is placed, with the problems and notes that follow."""
    nodes = [node for node in plan.inventory.members if isinstance(node, PlannedNode)]
    assert len(nodes) == len(plan.inventory.members)
    work = _Placement(plan, nodes, cluster)
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

    def __init__(self, plan: RunPlan, nodes: list[PlannedNode], cluster: ClusterConfig) -> None:
        self._plan, self._nodes, self._cluster = plan, nodes, cluster
        self._kinds = node_kinds(cluster.node_kinds)
        self._seats = Seats(nodes, cluster)
        self.held: Held = {}
        """Of all that run at once."""
        self.placed: dict[str, Part] = {}
        """By name, with its place."""
        self._too_small: dict[str, list[str]] = {}
        """By what is said of GPUs that do not hold a process, the parts of which it is true."""
        self._choice: dict[str, list[str]] = {}
        """Likewise, of kinds of nodes that would do as well."""

    def put_beside_others(self, item: Placeable) -> None:
        """The least of a teacher's replicas, or a specialist's workers, beside what is there."""
        if infeasible_reason(item.request, self._nodes):
            return
        self._look_at_kinds(item)
        places: list[int] = []
        for group in range(item.groups):
            found = self._seats.put(item)
            if found is None and item.part.kind == "teacher":
                self._plan.problems.append(
                    f"{item.key}.replicas: of the least {item.groups}, {group} find a place at once on "
                    f"{self._plan.inventory.source}, each wants {item.request}; lower replicas, or take more nodes"
                )
                return
            if found is None:
                self._put_on_empty(item, waits=True)
                return
            places += found
        self._record(item, places, self.held)

    def put_further_replicas(self, item: Placeable) -> None:
        """Those that a teacher may have above the least, while all others run."""
        if item.part.name not in self.placed:
            return
        more, places = 0, list[int]()
        while item.groups + more < item.most_groups and (found := self._seats.put(item)) is not None:
            self._hold(item.part, found, self.held)
            more, places = more + 1, places + found
        part = self.placed[item.part.name]
        self.placed[part.name] = replace(part, further=self._by_kind(places))
        if item.groups + more < item.most_groups:
            self._plan.notes.append(
                f"{item.key}: room for {item.groups + more} of at most {item.most_groups} replicas beside all others; "
                "more are added as room becomes free"
            )

    def put_alone(self, item: Placeable) -> None:
        """What runs before or after all others."""
        if not infeasible_reason(item.request, self._nodes):
            self._look_at_kinds(item)
            self._put_on_empty(item, waits=False)

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
        self._plan.notes += [f"{', '.join(keys)}: {sentence}" for sentence, keys in self._choice.items()]
        if waiting := [part.name for part in self.placed.values() if part.waits]:
            self._plan.notes.append(f"{', '.join(waiting)}: no room at once; started when others have ended")

    def _put_on_empty(self, item: Placeable, *, waits: bool) -> None:
        held: Held = {}
        self._record(item, Seats(self._nodes, self._cluster).put(item) or [], held, waits=waits)
        self.check_nodes(held)

    def _record(self, item: Placeable, places: list[int], held: Held, *, waits: bool = False) -> None:
        self._hold(item.part, places, held)
        part = item.part.on(min(self._nodes[i].kind.gpu_memory for i in places)) if places else item.part
        self.placed[part.name] = replace(part, placed=self._by_kind(places), waits=waits)

    def _by_kind(self, places: list[int]) -> dict[str, int]:
        return dict(Counter(self._nodes[i].kind.name for i in places))

    def _hold(self, part: Part, places: list[int], held: Held) -> None:
        for i in places:
            held.setdefault(i, Counter())[part.name] += 1

    def _look_at_kinds(self, item: Placeable) -> None:
        """Say what follows of the kinds of nodes where Ray may put a part: a problem where GPUs do not hold a process,
        and what keeps it to the kind that is planned for where others do as well."""
        if not item.part.gpus:
            return
        kinds = {kind.name: kind for i in self._seats.able(item.request) if (kind := self._seats.kind(i)) is not None}
        large = self._seats.fitting(item)
        small = [kind for kind in kinds.values() if kind not in large]
        if small:
            self._too_small.setdefault(on_small_gpus(item, small, large, self._kinds), []).append(item.key)
        elif len(large) > 1 and item.part.kind in ("teacher", "student"):
            self._choice.setdefault(_on_several_kinds(item, large), []).append(item.key)


def on_small_gpus(item: Placeable, small: list[NodeKind], large: list[NodeKind], kinds: Mapping[str, NodeKind]) -> str:
    """What to do about kinds of nodes that Ray may choose and whose GPUs do not hold a process, of all known kinds."""
    part = item.part.on(min(kind.gpu_memory for kind in small))
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
    remedies += _other_kinds(part, kinds, {kind.name for kind in [*small, *large]}) if not large else []
    return f"{sentence}: {', or '.join(remedies) or 'no known kind of node has as much; take a smaller model'}"


def _on_several_kinds(item: Placeable, kinds: list[NodeKind]) -> str:
    """That Ray may take another kind than the first of these, and what keeps it from that."""
    first, *others = kinds
    names = " or ".join(kind.name for kind in others)
    sentence = f"this plan takes {first.name} first; Ray looks at what is free alone, and may take {names}"
    if first.accelerator_type is None or first.accelerator_type in {kind.accelerator_type for kind in others}:
        return f"{sentence}: labels (cluster.node_kinds.{first.name}.labels) and a label_selector keep it there"
    return f"{sentence}: {_keep_to(item, [first])} keeps it there"


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
    if item.part.kind not in ("teacher", "student", "evaluator") or not types:
        return None
    value = types[0] if len(types) == 1 else f"in({', '.join(types)})"
    return f"label_selector: {{{TYPE_LABEL}: {value!r}}}"
