"""What will run where and how much it takes: configuration and inventory in, numbers out. Pure but for file headers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cluster.inventory import Inventory
from cluster.nodes.kinds import PlannedNode
from cluster.storage import free_bytes
from orchestrator.config.continuing import run_uri
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, SINGLE_EXPERT, controls_of
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.hours.reckoning import reckon
from orchestrator.preflight.parts import (
    Lessons,
    Part,
    asked_layer,
    evaluator_part,
    initial_part,
    student_layer,
    student_parameters,
    teacher_part,
)
from orchestrator.preflight.planning.controls import control_note, control_words, quantised_words
from orchestrator.preflight.planning.placing import note_no_place, place_together
from orchestrator.preflight.planning.prices import plan_prices, single_expert_parameters
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.preflight.planning.remedies import smaller_evaluators, smaller_teachers
from orchestrator.preflight.planning.seats import Placeable
from orchestrator.preflight.planning.sizes import size_notes, step_notes
from orchestrator.preflight.planning.slots import plan_slots
from orchestrator.preflight.planning.students import on_nodes_there, placeable_student, vocabulary_of
from orchestrator.preflight.planning.targets import plan_prompts, teacher_models
from orchestrator.preflight.planning.totals import find_problems
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.runs.exact_scheme import head_bytes, hidden_size
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import continuing
from orchestrator.runs.rates import RunRates
from workers.evaluation.config import EvaluateConfig
from workers.evaluation.resources import resource_request as evaluator_request
from workers.model_files import expert_count, read_model_config
from workers.model_sizes import ModelSize, model_size
from workers.student.config import ModelConfig, SpecialistConfig
from workers.student.models.resources import resource_request as initial_request
from workers.teacher.config import TeacherConfig
from workers.teacher.groups.resources import resource_request


def make_plan(config: RunConfig, found: Checked, inventory: Inventory, rates: RunRates | None = None) -> RunPlan:
    """The plan of a checked configuration (with absolute paths). For planned nodes, parts are placed on them; hours are
    those of `rates` where some are given. Raises ValueError for rates of other models."""
    planned = any(isinstance(node, PlannedNode) for node in inventory.members)
    free = None if planned else free_bytes(config.storage)
    plan = RunPlan(config.name, run_uri(config), inventory, sources=found.rows, free_bytes=free)
    vocabulary = vocabulary_of(found.teacher_folders[config.first_teacher()])
    plan_prompts(plan, config, found, vocabulary)
    plan_slots(plan, config, found, vocabulary)
    items = [
        *_teachers(plan, config, found, vocabulary),
        *_initial(config),
        *_students(plan, config, found, vocabulary),
        _evaluator(plan, config, found, vocabulary),
    ]
    plan_prices(plan, config, found, vocabulary)
    plan.parts = [item.part for item in items]
    plan.notes += size_notes(config, found, vocabulary) + step_notes(config)
    if inventory.members:
        note_no_place(plan, items)
    if planned:
        place_together(plan, items, config.cluster)
        _note_storage(plan, config)
    else:
        find_problems(plan)
        plan.problems += on_nodes_there(items, inventory.members, config.cluster)
    reckon(plan, config, found, vocabulary, items, rates)
    return plan


def _teachers(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> list[Placeable]:
    items = []
    for name, teacher in config.teachers.items():
        key, folder = config.teacher_key(name), found.teacher_folders[name]
        if model_size(folder) is None:
            plan.notes.append(f"{key}: weights of {teacher.model!r} are not downloaded; its memory is left out")
        if name not in plan.longest_answer:
            plan.notes.append(f"{key}: no prompt is for this teacher; it is not started")
        if teacher.engine == "vllm":
            _note_walks(plan, config, found, name)
        elif teacher.gpus_per_rank and importlib.util.find_spec("vllm") is not None:
            plan.notes.append(
                f"{key}.engine: transformers, though vLLM is installed, which is made for answers on GPUs; it shows no "
                "hidden states, so with engine vllm targets.scheme and evaluate.targets must be others than hidden"
            )

        def make(teacher: TeacherConfig, name: str = name, folder: Path = folder) -> Part:
            in_use = plan.slots[name].share if name in plan.slots else 1.0
            return teacher_part(name, teacher, folder, _longest_text(plan, found, name), vocabulary, in_use)

        _note_one_gpu(plan, key, teacher, make)
        experts = expert_count(read_model_config(folder))
        items.append(
            Placeable(
                make(teacher),
                key,
                "a replica",
                "lower ep_size, cpus_per_rank or gpus_per_rank or what it asks of nodes, or take more or larger nodes",
                resource_request(teacher),
                *teacher.replicas,
                changes=partial(smaller_teachers, teacher, experts, make),
                starts=name in plan.longest_answer,
            )
        )
    return items


def _note_one_gpu(plan: RunPlan, key: str, teacher: TeacherConfig, make: Callable[[TeacherConfig], Part]) -> None:
    """That experts are split where each GPU that is planned for would hold them all."""
    kinds = {node.kind.name: node.kind for node in plan.inventory.members if isinstance(node, PlannedNode)}
    kinds = {name: kind for name, kind in kinds.items() if kind.gpu_memory}
    if teacher.ep_size == 1 or teacher.engine != "transformers" or not teacher.gpus_per_rank or not kinds:
        return
    alone = make(teacher.model_copy(update={"ep_size": 1}))
    if alone.gpu_memory_of.get("weights") and all(alone.fits_gpus(kind.gpu_memory) for kind in kinds.values()):
        plan.notes.append(
            f"{key}.ep_size: {teacher.ep_size}, but one GPU of {' or '.join(kinds)} holds all of it: with ep_size 1 "
            f"and replicas [1, {teacher.ep_size * teacher.replicas[1]}] as many GPUs exchange nothing at each token"
        )


def _longest_text(plan: RunPlan, found: Checked, teacher: str) -> int:
    """Tokens of the longest text of a teacher's domains, prompt and answer, of those that were tried."""
    own = [domain for domain, names in plan.teachers.items() if teacher in names]
    return max([plan.longest_answer.get(teacher, 0), *(found.longest.get(domain, 0) for domain in own)])


def _note_walks(plan: RunPlan, config: RunConfig, found: Checked, teacher: str) -> None:
    """Given text takes vLLM a pass for each token, unless it can read it off."""
    policies = PolicyResolver(config)
    own = [p for p in found.prompts if policies.of(p.source, p.domains).teacher == teacher]
    walked = ["given answers"] if any(p.answer is not None for p in own) else []
    walked += ["prompts (targets.positions: all)"] if config.targets.positions == "all" else []
    if walked and config.targets.scheme != "topk":
        plan.notes.append(
            f"{config.teacher_key(teacher)}.engine: vllm takes a pass for each token of {' and '.join(walked)} at "
            f"targets.scheme {config.targets.scheme}; topk, or engine transformers, takes one for a whole text"
        )


def _initial(config: RunConfig) -> list[Placeable]:
    taken_over = continuing(RunFolder.of(config), config)
    models = [specialist.model for name, specialist in config.specialists.items() if name not in taken_over]
    part, request = initial_part(models, config.initial), initial_request(models, config.initial)
    if part is None or request is None:
        return []
    what, amounts = "making initial weights", "lower initial.memory or initial.cpus, or take larger nodes"
    return [Placeable(part, "initial", what, amounts, request)]


def _students(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> list[Placeable]:
    def heads_held(specialist: SpecialistConfig, domains: Iterable[str]) -> int:
        if config.targets.scheme != "hidden" or not specialist.loss.soft:
            return 0
        names = {teacher for domain in domains for teacher in plan.teachers.get(domain, ())}
        return sum(head_bytes(config, name, models[name], vocabulary) for name in names)

    def lessons(mixture: str, specialist: SpecialistConfig, domains: list[str]) -> Lessons:
        longest = max((found.longest.get(domain, 0) for domain in domains), default=0)
        return Lessons(mixture, vocabulary, config.targets.scheme, longest, heads_held(specialist, domains))

    models = teacher_models(found)
    items, controlled = [], [name for name in config.specialists if controls_of(config, name)]
    if controlled:
        plan.control_tokens = {name: config.control_tokens_of(name) for name in controlled}
        plan.notes.append(control_note(config))
    for name, specialist in config.specialists.items():
        mix = ", ".join(f"{d} {w:.0%}" for d, w in config.mix_of(name).items())
        mix += control_words(config, name) + quantised_words(config, name)
        own = lessons(mix, specialist, list(config.mix_of(name)))
        items.append(placeable_student(name, f"specialists.{name}.train", specialist, own))
    if config.specialists and GENERALIST in config.evaluate.baselines:
        first, specialist = next(iter(config.specialists.items()))
        everything = list({d for name in config.specialists for d in config.mix_of(name)})
        own = lessons("all domains equally", specialist, everything)
        items.append(placeable_student(GENERALIST, f"specialists.{first}.train", specialist, own))
    return items


def _evaluator(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> Placeable:
    hidden = plan.heldout_scheme == "hidden"
    heads = sum(map(hidden_size, teacher_models(found).values())) if hidden else 0
    models = [s.model for s in config.specialists.values()]
    models += [ModelConfig(base=m.model, revision=m.revision) for m in config.evaluate.models.values()]
    largest = max(student_parameters(model, vocabulary) for model in models)
    layer = max(student_layer(model) for model in models)
    if SINGLE_EXPERT in config.evaluate.baselines:
        largest = max(largest, single_expert_parameters(found.teacher_folders[config.first_teacher()]))
    teachers = [(model_size(f) or ModelSize(0)).parameters for f in found.teacher_folders.values()]
    asked = max(map(asked_layer, teacher_models(found).values()))

    def make(settings: EvaluateConfig) -> Part:
        most, widest = (max(largest, *teachers), max(layer, asked)) if settings.loads_teacher else (largest, layer)
        return evaluator_part(settings, plan.heldout_unit_bytes, vocabulary, heads, most, widest)

    return Placeable(
        make(config.evaluate),
        "evaluate",
        "the evaluator",
        "lower cpus or gpus, or take larger nodes",
        evaluator_request(config.evaluate),
        changes=partial(smaller_evaluators, config.evaluate, make),
    )


def _note_storage(plan: RunPlan, config: RunConfig) -> None:
    """What cannot be looked at from here."""
    if "://" not in config.storage and plan.inventory.nodes > 1:
        plan.notes.append(
            f"storage: {config.storage!r} must be a folder that all nodes share, or s3://...; how much is free there "
            "is not known here"
        )
