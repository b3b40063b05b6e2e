"""Whether a run finds a place, before Ray starts: a cluster that answers, or a machine that has what each part wants.

A Ray of a run's own has this machine and no autoscaler: what does not fit it now would wait for ever. What a cluster
lacks it may still be given, so that is left to deadlines (cluster.placement_deadline_s).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
from humanize import naturalsize

from cluster.network import check_interfaces
from cluster.ray_internals import own_node
from cluster.resources import Node, ResourceRequest, group_request, infeasible_reason
from cluster.session import address_of, check_address
from orchestrator.config.schema import RunConfig
from orchestrator.preflight.memory import decoder_parameters
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.sources import RawPrompt
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import continuing
from workers.evaluation.resources import resource_request as evaluator_request
from workers.layout import StudentLayout
from workers.splits import SPLITS
from workers.student.models.resources import resource_request as initial_request
from workers.student.training.resources import resource_request as student_request
from workers.teacher.groups.resources import resource_request

_LOOK_S = 20.0

_LOGICAL = 64
"""Logical CPUs that one of the machine may stand for."""


@dataclass(frozen=True)
class Needs:
    """Which parts of a run a command starts."""

    teachers: bool = False
    students: bool = False
    only: tuple[str, ...] = ()
    """Specialists, where not all are trained."""
    evaluator: bool = False


def check_place(config: RunConfig, needs: Needs, prompts: list[RawPrompt]) -> None:
    """Raise ValueError if the cluster does not answer, or if this machine can never meet what a part reserves.
    `prompts`: those that are not frozen yet."""
    check_address(config.cluster)
    if address_of(config.cluster) != "local":
        return
    cpus, most = config.cluster.cpus, _LOGICAL * (os.cpu_count() or 1)
    if cpus is not None and cpus > most:
        raise ValueError(
            f"cluster.cpus: {cpus}, and Ray keeps a process ready for each; give at most {most} on this machine, and "
            "lower what a process reserves (cpus_per_rank, cpus_per_worker)"
        )
    check_interfaces(config.cluster.network)
    total, labels = own_node(cpus)
    machine = Node("this machine", total, total, labels)
    _check_python(config, needs)
    _check_memory(config, needs)
    for where, amounts, request in _requests(config, needs, prompts):
        if (reason := infeasible_reason(request, [machine])) is not None:
            raise ValueError(
                f"{where}: {request} never finds a place on this machine ({_here(reason)}); change {amounts}, or name "
                f"a cluster that has it (cluster.address){_logical(config, reason)}"
            )


def _check_python(config: RunConfig, needs: Needs) -> None:
    """A Ray whose processes cannot be started starts them again and again; ranks of vLLM need it in theirs."""
    command = config.cluster.runtime_env.get("py_executable")
    if command is not None and shutil.which(shlex.split(command)[0]) is None:
        raise ValueError(f"cluster.runtime_env.py_executable: {command!r} is no program on this machine; name one")
    for name, teacher in config.teachers.items() if needs.teachers else ():
        python = teacher.vllm.python if teacher.engine == "vllm" else None
        if python is not None and not _has_vllm(python):
            raise ValueError(
                f"{config.teacher_key(name)}.vllm.python: {python!r} finds no package vllm; name the Python of an "
                "environment that has it"
            )


def _has_vllm(python: str) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        return subprocess.run([python, "-c", look], capture_output=True, timeout=_LOOK_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:  # a slow disk is no fault
        return True
    except OSError:
        return False


def _check_memory(config: RunConfig, needs: Needs) -> None:
    """Random weights of a new model fit the memory; the plan says what all of a run takes."""
    memory = psutil.virtual_memory().total
    for name, specialist in config.specialists.items() if needs.students else ():
        size = 4 * decoder_parameters(specialist.model.config or {}, 0)
        if size > memory and (not needs.only or name in needs.only):
            raise ValueError(
                f"specialists.{name}.model.config: its weights alone take {naturalsize(size)}, and this machine has "
                f"{naturalsize(memory)} of memory; give smaller sizes"
            )


def _here(reason: str) -> str:
    """Of one machine."""
    return (
        reason.replace("the largest node has", "there are")
        .replace("no node has", "it has not")
        .replace(" on 1 nodes, were they empty", "")
    )


def _logical(config: RunConfig, reason: str) -> str:
    given = config.cluster.cpus
    said = f"is {given}" if given is not None else "may say more than there are"
    return f"; cluster.cpus {said}: they are logical" if " CPU" in reason else ""


def _requests(config: RunConfig, needs: Needs, prompts: list[RawPrompt]) -> Iterator[tuple[str, str, ResourceRequest]]:
    """Each kind of process that is to be started: the key of its settings, which of them count, what it asks for."""
    run = RunFolder.of(config)
    for name in _teachers_at_work(config, run, prompts) if needs.teachers else ():
        teacher, key = config.teachers[name], config.teacher_key(name)
        yield key, "cpus_per_rank, gpus_per_rank, ep_size or what is asked of the node", resource_request(teacher)
        if (least := teacher.replicas[0]) > 1:
            ranks = least * teacher.ep_size
            all_of_them = group_request(ranks, teacher.cpus_per_rank, teacher.gpus_per_rank, "PACK", {})
            yield f"{key}.replicas", "the least replicas, or what a rank reserves", all_of_them
    for name in students_at_work(config, needs):
        asks = "workers, cpus_per_worker, gpus_per_worker or what is asked of the node"
        yield f"specialists.{name}.train", asks, student_request(config.specialists[name].train)
    taken_over = continuing(run, config)
    new = [n for n in config.specialists if n not in taken_over]
    new = [n for n in new if not run.storage.exists(StudentLayout(n).initial_facts)]
    asked = initial_request([config.specialists[n].model for n in new], config.initial) if needs.students else None
    if asked is not None:
        yield "initial", "memory or cpus", asked
    if needs.evaluator:
        yield "evaluate", "cpus or gpus", evaluator_request(config.evaluate)


def students_at_work(config: RunConfig, needs: Needs) -> list[str]:
    """Specialists that are to be trained now."""
    run, wanted = RunFolder.of(config), needs.only or tuple(config.specialists)
    return [name for name in config.specialists if needs.students and name in wanted and run.student_done(name) is None]


def _teachers_at_work(config: RunConfig, run: RunFolder, prompts: list[RawPrompt]) -> list[str]:
    """Teachers with something to capture, by the prompts that will be frozen, or by what the frozen ones still lack."""
    if prompts:
        policies = PolicyResolver(config)
        return sorted({policies.of(p.source, p.domains).teacher for p in prompts})
    from workers.manifest import read_plan  # a run that begins has no need of Arrow's quarter of a second yet
    from workers.targets.store import TargetStore

    wanted: set[str] = set()
    for split in SPLITS:
        try:
            plan = read_plan(run.storage, split)
        except FileNotFoundError:
            continue
        committed = TargetStore(run.storage, split).log.committed()
        wanted |= {unit.teacher for unit in plan.units if unit.index not in committed}
    return sorted(wanted & config.teachers.keys())
