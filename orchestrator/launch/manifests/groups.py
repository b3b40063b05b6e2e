"""The groups of nodes of a run's cluster: of which node, how many at most, with which labels. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.nodes.kinds import ROLE, TYPE_LABEL, NodeKind, PlannedNode, planned_node
from cluster.nodes.packing import Room
from cluster.resources import MEMORY, ResourceRequest, bundles_on, choice
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST
from orchestrator.launch.manifests.nodes import Role, Shape, Shapes
from workers.evaluation.resources import resource_request as evaluator_request
from workers.student.config import TrainConfig
from workers.student.training.resources import resource_request as student_request
from workers.teacher.groups.resources import resource_request as teacher_request

_RESERVED = "ray.io/"

_PACKED_AT_ONCE = 256
"""Groups of processes that are packed one by one."""

_RAY_MEMORY = 0.7
"""Of a node's memory, what Ray hands out as `memory`; the rest is its object store's."""

_OF_CPUS = "Freezing prompts, exports, all that needs no GPU; one stays up, so that a run starts without waiting for it"

_LEAST_CPUS = 8
"""Of a node for tasks and actors without GPUs."""

_PROCESS = 1 << 30
"""Bytes beside `initial.memory` that the process which makes initial weights may take, about."""


@dataclass(frozen=True)
class Group:
    """Nodes that are alike and come and go with demand."""

    name: str
    role: Role
    shape: Shape
    most: int
    """Nodes at most."""
    labels: Mapping[str, str]
    hosts: int = 1
    """Nodes that hold one replica, or one specialist, together."""
    least: int = 0
    why: str = ""
    """Where `most` comes from, in words."""
    accelerators: tuple[str, ...] = ()
    """Types of accelerators that are asked for by name, which an autoscaler has to know of."""

    @property
    def ray_memory(self) -> int:
        """Bytes that Ray hands out on a node of a launcher's: whole GiB."""
        return int(self.shape.offer.memory * _RAY_MEMORY) >> 30 << 30

    def nodes(self, first: int) -> list[PlannedNode]:
        """All its nodes, for a plan."""
        kind = replace(self.shape.kind, labels=self.labels)
        return [_node(self.shape, kind, first + i) for i in range(self.most)]


def groups_of(config: RunConfig, shapes: Shapes) -> list[Group]:
    """The groups that a run wants, all of which have room for what they are for, were the nodes empty: teachers,
    students, and one without GPUs. Raises ValueError for labels that a group cannot have."""
    return [*_teachers(config, shapes), *_students(config, shapes), _cpu(config, shapes)]


def all_alike(config: RunConfig, shapes: Shapes) -> list[Group]:
    """The groups of a cluster whose nodes are all alike, and all there for the whole run: one, or, where selectors tell
    teachers and specialists apart, one for each. Raises ValueError for what such a cluster cannot be."""
    roles: list[Role] = ["teacher"] if any(t.gpus_per_rank for t in config.teachers.values()) else []
    roles += ["student"] if any(t.gpus_per_worker for t in students_at_once(config)) or config.evaluate.gpus else []
    found = {role: shapes.for_gpus(role) for role in roles}
    shape = next(iter(found.values()), shapes.without_gpus[-1])
    if other := next((other for other in found.values() if other != shape), None):
        raise ValueError(
            f"--nodes: {shape.words} and {other.words}: nodes of a SkyPilot cluster are all alike; name one kind, or "
            "render for kuberay, aws or gcp"
        )
    teachers, trains = list(config.teachers.values()), students_at_once(config)
    if any(teacher.label_selector for teacher in teachers) or any(train.label_selector for train in trains):
        same = Shapes({"teacher": shape, "student": shape}, [shape])
        return [*_teachers(config, same), *_students(config, same)]
    requests = [teacher_request(teacher) for teacher in teachers for _ in range(teacher.replicas[1])]
    why = f"{len(requests)} replicas and {len(trains)} specialists at once"
    requests += [at_most(student_request(train), train.workers[1]) for train in trains]
    hosts = max(nodes_for(shape, [request]) for request in requests)
    return [Group("all", "teacher", shape, nodes_for(shape, requests), {}, hosts, why=why)]


def students_at_once(config: RunConfig) -> list[TrainConfig]:
    """Training settings of the specialists that may train at once, those with the most GPUs first."""
    trains = [specialist.train for specialist in config.specialists.values()]
    if trains and GENERALIST in config.evaluate.baselines:
        trains.append(trains[0])
    trains.sort(key=lambda t: (t.workers[1] * t.gpus_per_worker, t.workers[1] * t.cpus_per_worker), reverse=True)
    return trains[: config.fan_out.at_once]


def at_most(request: ResourceRequest, processes: int) -> ResourceRequest:
    """The same request for another number of processes."""
    return replace(request, bundles=request.bundles[:1] * processes)


def nodes_for(shape: Shape, requests: Sequence[ResourceRequest]) -> int:
    """Nodes of one shape on which groups of processes find room at once; of very many, alike ones by themselves. Of
    what finds none on a node, a node for each process: the plan then says so."""
    counts = Counter((tuple(sorted(r.bundles[0].items())), len(r.bundles), r.strategy) for r in requests)
    alone = sum(_nodes_of(shape, dict(bundle), ranks, how, n) for (bundle, ranks, how), n in counts.items())
    if len(counts) < 2 or len(requests) > _PACKED_AT_ONCE:
        return alone
    room, used = Room([_node(shape, replace(shape.kind, labels={}), i) for i in range(alone)]), set[int]()
    for request in requests:
        places = room.put(replace(request, labels={}), range(alone))
        if places is None:
            return alone
        used.update(places)
    return len(used)


def _nodes_of(shape: Shape, bundle: Mapping[str, float], ranks: int, strategy: str, groups: int) -> int:
    """Nodes for so many equal groups of equal processes."""
    fits = bundles_on(_total(shape), bundle)
    if fits == 0 or strategy.endswith("SPREAD"):
        return ranks * groups
    return -(-groups // (fits // ranks)) if fits >= ranks else groups * -(-ranks // fits)


def _teachers(config: RunConfig, shapes: Shapes) -> list[Group]:
    groups = []
    for name, teacher in config.teachers.items():
        request, most = teacher_request(teacher), teacher.replicas[1]
        shape = shapes.for_gpus("teacher") if teacher.gpus_per_rank else _smallest(shapes.without_gpus, request)
        hosts = nodes_for(shape, [request])
        count = hosts * most if hosts > 1 else nodes_for(shape, [request] * most)
        key = config.teacher_key(name)
        fills = f"each on {hosts} nodes" if hosts > 1 else f"{-(-most // count)} a node"
        groups.append(
            Group(
                "teacher" if len(config.teachers) == 1 else f"teacher-{slug(name)}",
                "teacher",
                shape,
                count,
                _labels(key, "teacher", shape, teacher.label_selector),
                hosts,
                why=f"{most} replicas at most ({key}.replicas), {fills}",
                accelerators=(teacher.accelerator_type,) if teacher.accelerator_type else (),
            )
        )
    return _told_apart(groups)


def _students(config: RunConfig, shapes: Shapes) -> list[Group]:
    """A group for each way in which specialists ask for nodes."""
    kinds: dict[tuple[bool, tuple[tuple[str, str], ...]], list[TrainConfig]] = {}
    for train in students_at_once(config):
        kinds.setdefault((train.gpus_per_worker > 0, tuple(sorted(train.label_selector.items()))), []).append(train)
    groups = []
    for number, ((gpus, selector), trains) in enumerate(kinds.items()):
        requests = [at_most(student_request(train), train.workers[1]) for train in trains]
        shape = shapes.for_gpus("student") if gpus else _smallest(shapes.without_gpus, *requests)
        many = f"{len(trains)} specialists" if len(trains) > 1 else "one specialist"
        groups.append(
            Group(
                "student" if not number else f"student-{number + 1}",
                "student",
                shape,
                nodes_for(shape, requests),
                _labels("specialists.*.train", "student", shape, dict(selector)),
                max(nodes_for(shape, [request]) for request in requests),
                why=f"{many} at once (train.workers, fan_out.at_once)",
            )
        )
    return groups


def _cpu(config: RunConfig, shapes: Shapes) -> Group:
    """One node stays up, so that a run starts without waiting for the first machine."""
    evaluators = [] if config.evaluate.gpus else [evaluator_request(config.evaluate)] * config.evaluate.workers
    needs = {"CPU": max(_LEAST_CPUS, config.initial.cpus), MEMORY: config.initial.memory + _PROCESS}
    if not any(s.model.source is not None for s in config.specialists.values()):
        needs.pop(MEMORY)
    shape = _smallest(shapes.without_gpus, ResourceRequest((needs,), "PACK", {}), *evaluators[:1])
    most = max(2, nodes_for(shape, evaluators)) if evaluators else 2
    wanted = {name: value for name, value in config.evaluate.label_selector.items() if evaluators and name != ROLE}
    return Group("cpu", "cpu", shape, most, _labels("evaluate", "cpu", shape, wanted), least=1, why=_OF_CPUS)


def _smallest(shapes: Sequence[Shape], *requests: ResourceRequest) -> Shape:
    """The first of some nodes that holds each of some groups of processes; else the last."""

    def holds(shape: Shape) -> bool:
        total = _total(shape) | {MEMORY: shape.offer.memory * _RAY_MEMORY}
        return all(bundles_on(total, request.bundles[0]) >= len(request.bundles) for request in requests)

    return next((shape for shape in shapes if holds(shape)), shapes[-1])


def _total(shape: Shape) -> dict[str, float]:
    return {"CPU": float(shape.offer.cpus), "GPU": float(shape.gpus), MEMORY: float(shape.offer.memory)}


def _node(shape: Shape, kind: NodeKind, number: int) -> PlannedNode:
    return planned_node(kind, shape.gpus, number, shape.offer.cpus, shape.offer.memory)


def _labels(key: str, role: Role, shape: Shape, selector: Mapping[str, str]) -> dict[str, str]:
    """Labels of nodes that a selector meets: the values that it names, the first of a choice, and the role."""
    labels = {name: value for name, value in shape.kind.labels.items() if not name.startswith(_RESERVED)}
    labels[ROLE] = role
    for name, wanted in selector.items():
        if name == TYPE_LABEL:
            if shape.kind.accelerator_type is not None:
                labels[name] = shape.kind.accelerator_type  # Ray finds it out; an autoscaler does not
        elif name.startswith(_RESERVED):
            raise ValueError(
                f"{key}.label_selector: {name} is set by Ray itself, and a rendered group cannot promise it; select by "
                f"a label of your own, for example {ROLE}: {role}"
            )
        elif not wanted.startswith("!"):
            labels[name] = choice(wanted)[0]
    return labels


def slug(text: str) -> str:
    """A name as Kubernetes and clouds take it: small letters, digits and -, beginning with a letter."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words if words[:1].isalpha() else f"x-{words}".rstrip("-")


def _told_apart(groups: list[Group]) -> list[Group]:
    """The same groups, with a number behind names that are there before."""
    seen: dict[str, int] = {}
    told = []
    for group in groups:
        seen[group.name] = number = seen.get(group.name, 0) + 1
        told.append(group if number == 1 else replace(group, name=f"{group.name}-{number}"))
    return told
