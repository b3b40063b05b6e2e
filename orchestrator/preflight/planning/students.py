"""Students on nodes that are there: whether the GPUs that Ray may put a worker on hold it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.nodes.kinds import kind_of, node_kinds
from cluster.resources import Node, bundles_on, matches
from orchestrator.config.schema import RunConfig
from orchestrator.preflight.parts import Lessons, Part, student_part
from orchestrator.preflight.planning.placing import on_small_gpus
from orchestrator.preflight.planning.remedies import smaller_students
from orchestrator.preflight.planning.seats import Placeable
from workers.model_files import read_model_config, text_settings
from workers.student.config import SpecialistConfig
from workers.student.training.resources import resource_request


def placeable_student(name: str, key: str, specialist: SpecialistConfig, lessons: Lessons) -> Placeable:
    """A student's workers with what they ask of a cluster; `key` is that of its settings."""

    def make(specialist: SpecialistConfig) -> Part:
        return student_part(name, specialist, lessons)

    return Placeable(
        make(specialist),
        key,
        "it",
        "lower workers, cpus_per_worker or gpus_per_worker or what it asks of nodes, or take more or larger nodes",
        resource_request(specialist.train),
        changes=partial(smaller_students, specialist, make),
    )


def on_nodes_there(items: Iterable[Placeable], nodes: Iterable[Node], cluster: ClusterConfig) -> Iterator[str]:
    """Problems of parts that no GPU holds of the nodes where Ray may put them; none where one of these is of a kind
    that is not known."""
    known = node_kinds(cluster.node_kinds)
    for item in items:
        able = [
            n for n in nodes if matches(n.labels, item.request.labels) and bundles_on(n.total, item.request.bundles[0])
        ]
        kinds = [kind_of(node, known) for node in able if item.part.gpus]
        there = list({kind.name: kind for kind in kinds if kind is not None}.values())
        if there and None not in kinds and not any(item.part.fits_gpus(kind.gpu_memory) for kind in there):
            yield f"{item.key}: {on_small_gpus(item, there, [], known)}"


def check_students_fit(
    config: RunConfig, names: Iterable[str], teacher: Path, longest: dict[str, int], nodes: Iterable[Node]
) -> None:
    """Raise ValueError for the first of these specialists that no GPU of the nodes holds. `teacher` is the folder of
    the first one, `longest` are tokens of the longest texts by domain, as far as they are known; teachers' heads are
    left to the plan."""
    vocabulary = vocabulary_of(teacher)
    for name in names:
        texts = max((longest.get(domain, 0) for domain in config.mix_of(name)), default=0)
        lessons = Lessons("", vocabulary, config.targets.scheme, texts)
        item = placeable_student(name, f"specialists.{name}.train", config.specialists[name], lessons)
        for problem in on_nodes_there([item], nodes, config.cluster):
            raise ValueError(problem)


def vocabulary_of(teacher: Path) -> int:
    """Ids of a teacher's head; 0 where its folder does not say."""
    return int(text_settings(read_model_config(teacher)).get("vocab_size") or 0)
