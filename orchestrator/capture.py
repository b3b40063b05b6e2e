"""Driving the teacher pool into the target stores: which units are missing, and Ray Data over replicas for those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.checks import Checked
from orchestrator.config import RunConfig
from orchestrator.run_folder import RunFolder
from workers.fingerprint import model_fingerprint
from workers.model_files import model_folder
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.units import HELDOUT, PROBES, TRAIN, read_plan

SPLITS = (TRAIN, HELDOUT, PROBES)

_MOST_BLOCKS = 1000
"""Ray Data blocks of a pass at most; a block lost with its replica costs only a look at the log for units committed."""


def open_stores(run: RunFolder, config: RunConfig, found: Checked, vocabulary: int) -> None:
    """Fix the headers of the stores. Raises ValueError if they exist with other settings (a changed teacher, say)."""
    teachers = {
        name: {
            "model": teacher.model, "fingerprint": model_fingerprint(model_folder(teacher.model, teacher.revision)),
            "ep_size": teacher.ep_size, "dispatch": teacher.dispatch, "dtype": teacher.dtype,
        }
        for name, teacher in config.teachers.items()
    }
    # Held-out scores and probes need the exact distributions, at the answer only.
    for split in SPLITS:
        train = split == TRAIN
        TargetStore(run.storage, split).create(
            StoreHeader(
                scheme=config.targets.scheme if train else "full", draws=config.targets.draws,
                positions=config.targets.positions if train else "answer",
                precision=config.targets.precision if train else config.evaluate.precision, vocabulary=vocabulary,
                tokenizer=found.tokenizer, chat_template=found.chat_template, seed=config.seed, teachers=teachers,
            )
        )


def missing_units(run: RunFolder, splits: tuple[str, ...] = SPLITS) -> dict[str, list[dict[str, Any]]]:
    """Planned units that no entry commits, by teacher, in the order in which they are to be taught."""
    missing: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        try:
            plan = read_plan(run.storage, split)
        except FileNotFoundError:
            continue
        committed = TargetStore(run.storage, split).log.committed()
        for unit in plan.units:
            if unit.index not in committed:
                missing.setdefault(unit.teacher, []).append({"split": split, "unit": unit.index})
    return missing


def teach(
    run: RunFolder, config: RunConfig, missing: dict[str, list[dict[str, Any]]], *, epoch: int, board: str,
    note: Callable[[str], None],
) -> int:
    """Teach units with a pool of replicas for each teacher, one pool after another; returns how many were taught.

    Blocks until all are committed. Raises what ended the pool.
    """
    return sum(
        _teach_pool(run, config, name, rows, epoch=epoch, board=board, note=note) for name, rows in missing.items() if rows
    )


def _teach_pool(
    run: RunFolder, config: RunConfig, name: str, rows: list[dict[str, Any]], *, epoch: int, board: str, note: Callable[[str], None]
) -> int:
    import ray

    from workers.teacher.replica import Replica, ReplicaJob

    teacher = config.teachers[name]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []
    context.max_consecutive_actor_init_deaths = 3
    context.wait_for_min_actors_s = -1  # the gang has a deadline of its own, and says what it waits for
    fingerprint = TargetStore(run.storage, rows[0]["split"]).header.teachers[name]["fingerprint"]
    job = ReplicaJob(name, teacher, fingerprint, run.uri, config.targets.withhold, epoch, config.cluster.placement_deadline_s, board)
    least, most = pool_size(teacher, len(rows))
    note(f"teacher {name}: {len(rows)} units to teach, {least} to {most} replicas of {teacher.ep_size} ranks")
    units = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    taught = units.map_batches(
        Replica, fn_constructor_args=[job], batch_size=1, num_cpus=0.01,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2),
    )
    taught.set_name(f"teach-{name}")
    return sum(bool(row["taught"]) for row in taught.iter_rows())


def pool_size(teacher: TeacherConfig, units: int) -> tuple[int, int]:
    """Least and most replicas for so many units: never more replicas than units."""
    least, most = teacher.replicas
    return min(least, units), max(min(most, units), min(least, units))
