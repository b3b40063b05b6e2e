"""Whether two configurations are of the same run: what may differ between attempts, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from workers.fetching.hub import is_commit
from workers.student.config import SpecialistConfig

_FREE_TO_CHANGE = ("cluster", "export", "fan_out", "initial", "storage", "trackers")
"""Parts that do not change what was captured or trained; a later attempt may have others."""

_FROZEN_BY_PROMPTS = ("heldout", "samples", "text", "targets", "precision", "probes")
"""Settings of `evaluate` that are fixed once the held-out prompts are frozen; the others may change."""

_FREE_FIELDS = (
    *("replicas", "placement", "label_selector", "cpus_per_rank", "cpus_per_worker", "threads_per_rank"),
    *("threads_per_worker", "max_failures", "diverged", "workers", "resize_s", "zero"),
    *("checkpoint_steps", "checkpoint_s", "start_deadline_s", "hang_deadline_s"),
    *("gradient_checkpointing", "compile"),
)
"""Fields of teachers and specialists of which the same holds."""


_LEFT = ("evaluate.control_tokens", "targets.prompts_per_unit", "targets.unit_tokens")
_LEFT_OF_TEACHERS = ("batch", "units_at_once")
"""Settings that null leaves to the run. Units are as they were frozen; of slots, last bits of what is captured hang."""

_FORMER_DEFAULTS = {"prompt_field": "prompt", "messages_field": "messages", "answer_field": "answer", "chat": False}
"""What settings of a prompt source were before null meant the same and more; runs from then go on."""


def from_stored(data: dict[str, Any]) -> RunConfig:
    """The configuration of a run as it was written down. In runs from before controls had a budget of their own, they
    train on all of their specialist's."""
    data.setdefault("evaluate", {}).setdefault("control_tokens", 1.0)
    return validate(data)


def as_begun(old: RunConfig, new: RunConfig) -> RunConfig:
    """A later configuration of a run, with what it leaves open as the run was begun. Raises ValueError."""
    data, begun = new.model_dump(mode="json"), old.model_dump(mode="json")
    left = {key: value for key, value in _flatten(begun).items() if _is_left(key) and value is not None}
    found = _flatten(data)
    left = {key: value for key, value in left.items() if key in found and found[key] is None}
    for key, value in left.items():
        *path, name = key.split(".")
        reduce(lambda part, step: part[step], path, data)[name] = value
    return validate(data) if left else new


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What a later configuration says otherwise that a run cannot take on, as `key: old -> new`. What becomes of
    specialists is in `later_specialists`."""
    a, b = old.model_dump(mode="json"), new.model_dump(mode="json")
    for data in (a, b):
        for key in (*_FREE_TO_CHANGE, "specialists"):
            data.pop(key)
        data["evaluate"] = {k: data["evaluate"][k] for k in _FROZEN_BY_PROMPTS}
    return _changes(a, b, new.teacher_key("teacher")) + _control_tokens(old, new)


@dataclass(frozen=True)
class LaterSpecialists:
    """What becomes of a run's specialists under a later configuration."""

    work: RunConfig
    """What there is to do: those that are new or as they were, and changed ones that are trained, as they were."""
    written: RunConfig
    """What the run keeps: all that it ever had, as they were begun."""
    left: tuple[str, ...]
    """Which are left alone, and why, in words."""


def later_specialists(old: RunConfig, new: RunConfig, trained: Callable[[str], bool]) -> LaterSpecialists:
    """New specialists are trained; those that are gone or say otherwise are left alone. Raises ValueError where no
    other is there, and nothing to measure."""
    work, written, left = dict(new.specialists), {**old.specialists, **new.specialists}, list[str]()
    for name, begun in old.specialists.items():
        if name not in new.specialists:
            left.append(f"{name} is not in the configuration any more; it stays in the run as it is")
        elif changes := _specialist_changes(name, begun, new.specialists[name]):
            left.append(f"{name} stays as it was begun ({'; '.join(changes)}); under another name it is trained so")
            written[name] = work[name] = begun
            if not trained(name):
                del work[name]
    if not work and not new.evaluate.models:
        raise ValueError(f"specialists: none is left to work on: {'; '.join(left)}")
    return LaterSpecialists(
        new.model_copy(update={"specialists": work}), new.model_copy(update={"specialists": written}), tuple(left)
    )


def specialist_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What a later configuration says otherwise of specialists that both have."""
    both = [name for name in old.specialists if name in new.specialists]
    return [c for n in both for c in _specialist_changes(n, old.specialists[n], new.specialists[n])]


def _specialist_changes(name: str, old: SpecialistConfig, new: SpecialistConfig) -> list[str]:
    a, b = ({"specialists": {name: s.model_dump(mode="json")}} for s in (old, new))
    if old.quantised is None:  # a sibling that is added is another student
        b["specialists"][name]["quantised"] = None
    return _changes(a, b)


def _changes(a: dict[str, Any], b: dict[str, Any], teacher: str = "teacher") -> list[str]:
    flat_a, flat_b = _flatten(a), _flatten(b)
    return [
        f"{key.replace('teachers.teacher', teacher)}: {flat_a.get(key, 'nothing')} -> {flat_b.get(key, 'nothing')}"
        for key in dict.fromkeys([*flat_a, *flat_b])
        if flat_a.get(key, "nothing") != flat_b.get(key, "nothing")
        and not (_is_free(key) or _is_former(key, flat_a, flat_b) or _is_open(key, flat_a, flat_b))
        and not _is_pinned(key, flat_b)
    ]


def _control_tokens(old: RunConfig, new: RunConfig) -> list[str]:
    """The budgets of controls, where they are others: specialists have kept their weights for those of the run."""
    before, now = old.evaluate.control_tokens, new.evaluate.control_tokens
    students = old.specialists.keys() & new.specialists.keys()
    if now is None or all(old.control_tokens_of(name) == new.control_tokens_of(name) for name in students):
        return []
    return [f"evaluate.control_tokens: {before} -> {now}"]


def _is_free(key: str) -> bool:
    """Whether a key is `teachers.NAME.field` or `specialists.NAME.train.field` with a field that may change, or a
    specialist's priority."""
    part, *rest = key.split(".")
    if part == "specialists":
        return rest[1:] == ["priority"] or (len(rest) > 2 and rest[1] == "train" and rest[2] in _FREE_FIELDS)
    return part == "teachers" and len(rest) > 1 and rest[1] in _FREE_FIELDS


def _is_former(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether an old value is a source's former default, and the new one is today's."""
    name = key.rpartition(".")[2]
    former = key.startswith("prompts.") and name in _FORMER_DEFAULTS and old.get(key) == _FORMER_DEFAULTS[name]
    return former and key in new and new[key] is None


def _is_left(key: str) -> bool:
    """Whether null, of a setting, is what the run was begun with."""
    part, *rest = key.split(".")
    return key in _LEFT or (part == "teachers" and len(rest) == 2 and rest[1] in _LEFT_OF_TEACHERS)


def _is_open(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether one of two settings leaves to the run what the other one says: nothing is captured by it yet, or it would
    be settled (RunFolder.refuse_other)."""
    if _is_left(key) and key in new and new[key] is None:
        return True
    return key == "evaluate.targets" and "auto" in (old.get(key), new.get(key))


def _is_pinned(key: str, new: dict[str, Any]) -> bool:
    """Whether a teacher's revision is now a commit: what it must be, its fingerprint in the store decides."""
    part, *rest = key.split(".")
    return part == "teachers" and rest[1:] == ["revision"] and is_commit(new.get(key))


def _flatten(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, dict) and data:
        return {
            k: v
            for key, value in data.items()
            for k, v in _flatten(value, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: data}
