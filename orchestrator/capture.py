"""Driving the teacher pool into the target stores: which units are missing, and Ray Data over replicas for those."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray

from cluster.placement import free_group_of
from orchestrator.admission import IDLE_S, Admission
from orchestrator.checks import Checked
from orchestrator.config import RunConfig
from orchestrator.prompts import SUMMARY_KEY
from orchestrator.repairs import units_to_repair
from orchestrator.run_folder import RunFolder
from workers.fingerprint import model_fingerprint
from workers.manifest import read_plan
from workers.model_files import model_folder
from workers.splits import SPLITS, TRAIN
from workers.targets.contract import Contract
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.answer_filter import FilterCode
from workers.teacher.answers import AnswerRules
from workers.teacher.config import TeacherConfig
from workers.teacher.replica import Replica, ReplicaJob

_MOST_BLOCKS = 1000
"""Ray Data blocks of a pass at most; a block lost with its replica costs only a look at the log for units committed."""


def open_stores(run: RunFolder, config: RunConfig, found: Checked, vocabulary: int) -> Contract:
    """Fix the headers of the stores; returns what specialists declare of theirs. Raises ValueError if they exist with
    other settings (a changed teacher, say)."""
    teachers = {
        name: {
            "model": teacher.model,
            "fingerprint": model_fingerprint(model_folder(teacher.model, teacher.revision)),
            "ep_size": teacher.ep_size,
            "dispatch": teacher.dispatch,
            "dtype": teacher.dtype,
            **({"engine": teacher.engine} if teacher.engine != "transformers" else {}),
        }
        for name, teacher in config.teachers.items()
    }
    drawn: dict[str, Any] = {
        "top_k": config.targets.top_k if config.targets.scheme == "topk" else 0,
        "redraws": config.targets.redraws,
        "always": tuple(found.always_keep),
        "temperatures": config.targets.temperatures,
        "answers": answer_rules(run, config, config.first_teacher()).record(),
    }
    # Held-out scores and probes need the exact distributions, at the answer only.
    headers = {
        split: StoreHeader(
            scheme=config.targets.scheme if split == TRAIN else "full",
            draws=config.targets.draws,
            positions=config.targets.positions if split == TRAIN else "answer",
            precision=config.targets.precision if split == TRAIN else config.evaluate.precision,
            vocabulary=vocabulary,
            tokenizer=found.tokenizer,
            chat_template=found.chat_template,
            seed=config.seed,
            teachers=teachers,
            **(drawn if split == TRAIN else {}),
        )
        for split in SPLITS
    }
    for split, header in headers.items():
        TargetStore(run.storage, split).create(header)
    return Contract.of(headers[TRAIN])


def missing_units(run: RunFolder, splits: tuple[str, ...] = SPLITS) -> dict[str, list[dict[str, Any]]]:
    """Planned units that no entry commits or that are damaged, by teacher, in the order in which they are to be taught.

    Each is {split, unit, repair}: `repair` is the revision to make, 0 of a unit that is new. Raises RunFailed for a
    unit that was repaired too often.
    """
    missing: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        try:
            plan = read_plan(run.storage, split)
        except FileNotFoundError:
            continue
        entries = TargetStore(run.storage, split).log.entries()
        committed, damaged = {e.unit for e in entries}, units_to_repair(run, split, entries)
        for unit in plan.units:
            if unit.index not in committed or unit.index in damaged:
                repair = damaged.get(unit.index, 0) if unit.index in committed else 0
                missing.setdefault(unit.teacher, []).append({"split": split, "unit": unit.index, "repair": repair})
    return missing


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"admission": 1})
class TeacherPool:
    """Runs a pool of replicas over missing units. An actor, so that the driver need not load Ray Data.

    Ray Data starts replicas while units are queued, each of them a process that reserves nothing, and knows nothing of
    gangs. So every replica asks here whether to look for a place, and its place is freed from here when no unit is
    left for it: Ray Data would keep idle ones until the pass is over.
    """

    def __init__(self, units: int, least: int) -> None:
        self._admission = Admission(units, least)
        self._lock = threading.Lock()

    def teach(
        self, run_uri: str, config: RunConfig, name: str, rows: list[dict[str, Any]], epoch: int, board: str
    ) -> int:
        """Teach units with one teacher; returns how many were taught. Blocks until all are committed.

        Raises what ended the pool.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.issue_detectors_config.detectors = []
        context.wait_for_min_actors_s = -1  # the gang has a deadline of its own, and says what it waits for
        # As long as every replica has a second unit queued, their number is doubled.
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
        job = replica_job(run_uri, config, name, epoch, board)
        least, most = pool_size(job.teacher, len(rows))
        units = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        taught = units.map_batches(
            Replica,
            fn_constructor_args=[job, ray.get_runtime_context().current_actor],
            batch_size=job.teacher.units_at_once,
            num_cpus=0,  # a gang may want all of a node
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2),
        )
        taught.set_name(f"teach-{name}")
        done = sum(bool(row["taught"]) for row in taught.iter_rows())
        self._free()
        return done

    @ray.method(concurrency_group="admission")
    def tell(self, growing: bool, others: int) -> None:
        """Whether replicas beyond the least may look for a place, and how many other teachers are at work."""
        self._admission.growing, self._admission.others = growing, others

    @ray.method(concurrency_group="admission")
    def admit(self, replica: str) -> str:
        """`place`, `wait` or `nothing` (Admission.admit)."""
        with self._lock:
            return self._admission.admit(replica, time.monotonic())

    @ray.method(concurrency_group="admission")
    def patience(self, replica: str) -> str:
        """How long a replica may wait for its place (Admission.patience)."""
        return self._admission.patience(replica)

    @ray.method(concurrency_group="admission")
    def placed(self, replica: str) -> int:
        """A replica has a place; returns how many have."""
        with self._lock:
            self._admission.placed.add(replica)
            return len(self._admission.placed)

    @ray.method(concurrency_group="admission")
    def begin(self, replica: str, unit: tuple[str, int, int]) -> None:
        """A replica begins a unit."""
        with self._lock:
            self._admission.begin(replica, unit)
        self._free()

    @ray.method(concurrency_group="admission")
    def rest(self, replica: str) -> None:
        """A replica is ready for a unit, or for another one. Frees the places of those that will have none."""
        with self._lock:
            self._admission.rest(replica, time.monotonic())
        self._free()
        timer = threading.Timer(IDLE_S + 0.1, self._free)
        timer.daemon = True
        timer.start()

    def _free(self) -> None:
        with self._lock:
            idle = self._admission.free(time.monotonic())
        for replica in idle:
            free_group_of(replica)


def replica_job(run_uri: str, config: RunConfig, name: str, epoch: int, board: str) -> ReplicaJob:
    """What every replica of a teacher is given. Raises ValueError if the filter is another one by now."""
    run = RunFolder(run_uri)
    header, rules = TargetStore(run.storage, TRAIN).header, answer_rules(run, config, name)
    if header.answers != rules.record():
        raise ValueError("answers: the filter is not the one that this run began with; put it back as it was")
    return ReplicaJob(
        name=name,
        teacher=config.teachers[name],
        fingerprint=header.teachers[name]["fingerprint"],
        run_uri=run_uri,
        rules=rules,
        epoch=epoch,
        deadline_s=config.cluster.placement_deadline_s,
        progress=board,
    )


def answer_rules(run: RunFolder, config: RunConfig, name: str) -> AnswerRules:
    """What decides on a teacher's answers, with the code of the filter as it is now. Raises ValueError without it."""
    return AnswerRules(
        config.answers,
        config.targets.withhold,
        FilterCode.read(config.answers.filter) if config.answers.filter is not None else None,
        frozenset((run.read_json(SUMMARY_KEY) or {}).get("stop_ids", {}).get(name, ())),
    )


def pool_size(teacher: TeacherConfig, units: int) -> tuple[int, int]:
    """Least and most replicas for so many units: never more replicas than units."""
    least, most = teacher.replicas
    return min(least, units), max(min(most, units), min(least, units))
