"""Whether a run fits the nodes of its groups: the plan, or what can be said without looking at models and prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from cluster.inventory import Inventory
from cluster.nodes.kinds import MOST_NODES, PlannedNode, inventory_of
from cluster.resources import ResourceRequest, infeasible_reason
from orchestrator.config.loading import ConfigFile
from orchestrator.config.schema import RunConfig
from orchestrator.launch.manifests.groups import Group
from orchestrator.preflight.checks import check
from orchestrator.preflight.passed_on import check_passed_on
from orchestrator.preflight.plan import make_plan
from orchestrator.runs.folder import RunFolder
from workers.evaluation.resources import resource_request as evaluator_request
from workers.student.training.resources import resource_request as student_request
from workers.teacher.groups.resources import resource_request as teacher_request


def inventory_for(groups: Sequence[Group]) -> Inventory:
    """All nodes that the groups may have at once. Raises ValueError where they are more than a plan has."""
    if (count := sum(group.most for group in groups)) > MOST_NODES:
        raise ValueError(
            f"--nodes: the run would want {count:,} nodes at once, more than the {MOST_NODES:,} of a plan; lower "
            "fan_out.at_once or replicas, or name larger nodes"
        )
    nodes: list[PlannedNode] = []
    counts: Counter[str] = Counter()
    for group in groups:
        nodes += group.nodes(counts[group.shape.kind.name] + 1)
        counts[group.shape.kind.name] += group.most
    return inventory_of("nodes " + ", ".join(f"{g.shape.words}x{g.most} ({g.name})" for g in groups), nodes)


def plan_problems(file: ConfigFile, groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """What of a run does not fit the groups, and notes, as `stillhouse plan` says them: reads prompts, settings of
    models and the storage. Raises ValueError for what `stillhouse validate` would refuse."""
    inventory = inventory_for(groups)
    found = check(file, reading="few", elsewhere=True)
    plan = make_plan(RunFolder.of(file.located()).as_begun(file).located(), found, inventory)
    return plan.problems, [*found.notes, *plan.notes]


def place_problems(config: RunConfig, groups: Sequence[Group]) -> list[str]:
    """The same as far as settings alone tell it: what of a run finds no place on the groups."""
    check_passed_on(config)
    nodes = inventory_for(groups).members
    return [
        f"{key}: {request} finds no place on this cluster: {reason}"
        for key, request in _requests(config)
        if (reason := infeasible_reason(request, nodes)) is not None
    ]


def _requests(config: RunConfig) -> Iterator[tuple[str, ResourceRequest]]:
    for name, teacher in config.teachers.items():
        yield config.teacher_key(name), teacher_request(teacher)
    for name, specialist in config.specialists.items():
        yield f"specialists.{name}.train", student_request(specialist.train)
    yield "evaluate", evaluator_request(config.evaluate)
