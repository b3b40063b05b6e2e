"""Reading a whole target store again: is every part what was committed, and can it be what a teacher said?

One unit is looked at while the next one is read. A damaged unit is reported and marked, and the next one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from orchestrator.stores.opening import OpenTargets, kept_of, per_token
from workers.layout import LogLayout
from workers.manifest import Manifest
from workers.targets.commits.damage import DamagedShard
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.inspection import find_problems
from workers.targets.store import TargetStore

MARKED_BY = "stillhouse targets verify"

_NOT_DECODED = (ValueError, IndexError, KeyError, pa.ArrowException)
"""What bytes raise that are no unit of this store."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with a unit; `unit` is None where it concerns the whole store."""

    unit: int | None
    part: str
    """Key of the file that is wrong."""
    reason: str
    repairable: bool = False
    """Whether the unit can be recomputed: its bytes are not those that were committed."""


@dataclass
class DomainSums:
    """Sums over a domain's sound units."""

    units: int = 0
    targets: int = 0
    entropy: float = 0.0
    token_logprob: float = 0.0
    num_kept: int = 0
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Amounts, and means over target tokens: nats, entries, bytes."""
        tokens = max(self.targets, 1)
        return {
            "units": self.units,
            "targets": self.targets,
            "entropy": round(self.entropy / tokens, 4),
            "token_logprob": round(self.token_logprob / tokens, 4),
            "kept_per_token": per_token(self.num_kept, self.targets),
            "bytes_per_token": per_token(self.bytes, self.targets),
        }


@dataclass
class Verification:
    """What was found."""

    committed: int = 0
    sound: int = 0
    faults: list[Fault] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)
    """Units that the log now counts as not captured."""
    unmarked: str = ""
    """Why no unit could be marked (of a run that may only be read, say)."""
    domains: dict[str, DomainSums] = field(default_factory=dict)

    def to_dict(self, source: OpenTargets) -> dict[str, Any]:
        return {
            **source.facts(),
            "ok": not self.faults,
            "units": {"planned": len(source.plan.units), "committed": self.committed, "sound": self.sound},
            "domains": {d: sums.to_dict() for d, sums in self.domains.items()},
            "faults": [
                {**vars(f), "domains": source.domains_of(f.unit) if f.unit is not None else ()} for f in self.faults
            ],
            "marked": self.marked,
            "unmarked": self.unmarked,
        }


OnUnit = Callable[[int, Verification], None]
"""reraise_as_rank_error how many units there are, and what is found so far."""


@dataclass(frozen=True)
class _Read:
    """A unit as it came from storage: its targets, or why there are none."""

    unit: int
    entry: Entry | None = None
    targets: UnitTargets | None = None
    fault: Fault | None = None


def verify(source: OpenTargets, on_unit: OnUnit = lambda units, found: None) -> Verification:
    """Read and check every committed unit of a store; `on_unit(units, found so far)` is called after each.

    Raises ValueError where the frozen prompts are missing.
    """
    store, found = source.store, Verification(domains={d: DomainSums() for d in source.plan.domains})
    units = sorted(store.log.committed())
    found.committed = len(units)
    found.faults += _ranks_faults(store)
    if len(found.faults) == len(store.vocab_order_files.keys):
        return found
    manifest = _manifest(source)
    for read in _read_ahead(store, units):
        faults = [read.fault] if read.fault else _faults(source, manifest, read)
        if not faults and read.entry is not None:
            found.sound += 1
            _add(source, found, read)
        found.faults += faults
        if read.entry is not None and any(f.repairable for f in faults):
            _mark(store, read.entry, faults[0], found)
        on_unit(len(units), found)
    return found


def _mark(store: TargetStore, entry: Entry, fault: Fault, found: Verification) -> None:
    """Say in the log that a unit is damaged, so that it is recomputed."""
    try:
        store.log.mark_damaged(entry.unit, entry.revision, fault.part, fault.reason, MARKED_BY)
        found.marked.append(entry.unit)
    except OSError as error:
        found.unmarked = _one_line(error)


def _ranks_faults(store: TargetStore) -> list[Fault]:
    """What is wrong with the files that are needed to read anything: the two of the vocabulary order, of which one
    would do, or the teachers' heads."""
    if store.header.scheme == "hidden":
        keys = [store.head_key(name) for name in store.header.teachers]
        lost = "is missing, without which hidden states say nothing; `stillhouse capture` writes it again"
        return [Fault(None, key, lost) for key in keys if not store.storage.exists(key)]
    if not store.header.sampled:
        return []
    return [
        Fault(None, problem.split()[0], " ".join(problem.split()[1:])) for problem in store.vocab_order_files.problems()
    ]


def _manifest(source: OpenTargets) -> Manifest:
    try:
        return Manifest(source.run.storage, source.store.split)
    except FileNotFoundError:
        raise ValueError(
            f"prompts: the frozen {source.store.split} prompts of the run at {source.run.uri} are missing, "
            "so nobody can tell which belong to which unit; restore the folder prompts/ from a copy"
        ) from None


def _read_ahead(store: TargetStore, units: Sequence[int]) -> Iterator[_Read]:
    """The units in order; while one is used, the next one is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(_read, store, units[0]) if units else None
        for after in [*units[1:], None]:
            assert coming is not None
            read = coming.result()
            coming = pool.submit(_read, store, after) if after is not None else None
            yield read


def _read(store: TargetStore, unit: int) -> _Read:
    try:
        entry = store.log.entry(unit)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"its entry cannot be read ({_one_line(error)}); delete the entry to have the unit recomputed"
        return _Read(unit, fault=Fault(unit, LogLayout(store.root, store.generation).root, reason))
    if entry is None:
        return _Read(unit)  # marked by somebody else meanwhile
    key = entry.parts[0].key if entry.parts else ""
    try:
        return _Read(unit, entry, store.read_unit(entry))
    except DamagedShard as error:
        part = next((p.key for p in entry.parts if p.key in str(error)), key)
        return _Read(unit, entry, fault=Fault(unit, part, str(error).removeprefix(f"unit {unit}: "), repairable=True))
    except IndexError as error:
        reason = f"holds an id outside the vocabulary of {store.header.vocabulary:,}, or none ({_one_line(error)})"
        return _Read(unit, entry, fault=Fault(unit, key, reason))
    except _NOT_DECODED as error:
        return _Read(unit, entry, fault=Fault(unit, key, f"cannot be decoded: {_one_line(error)}"))
    except OSError as error:
        # The storage may be out of reach: no reason to recompute anything.
        return _Read(unit, entry, fault=Fault(unit, key, f"cannot be read: {_one_line(error)}"))


def _faults(source: OpenTargets, manifest: Manifest, read: _Read) -> list[Fault]:
    """What is wrong with a unit that was decoded."""
    entry, targets = read.entry, read.targets
    if entry is None or targets is None:
        return []
    header, planned = source.store.header, entry.unit < len(source.plan.units)
    prompt_uids = {p.id for p in manifest.prompts(entry.unit)} if planned else set()
    reasons = [] if planned else [f"the plan has {len(source.plan.units):,} units, and not this one"]
    if entry.parts and targets.content_hash() != entry.content_hash:
        reasons.append("what it holds is not what its entry promises (content hash)")
    for name, held in (
        ("rows", targets.rows),
        ("tokens", len(targets.tokens)),
        ("targets", len(targets.token_logprob)),
        ("num_kept", int(targets.num_kept.sum())),
    ):
        if getattr(entry, name) != held:
            reasons.append(f"holds {held:,} {name} where its entry promises {getattr(entry, name):,}")
    temperature = header.temperature_of(source.domains_of(entry.unit))
    if entry.parts and targets.temperature != temperature:
        reasons.append(f"captured at temperature {targets.temperature:g} where the store has {temperature:g}")
    reasons += find_problems(targets, header, prompt_uids)
    key = entry.parts[0].key if entry.parts else ""
    return [Fault(entry.unit, key, reason) for reason in reasons]


def _add(source: OpenTargets, found: Verification, read: _Read) -> None:
    entry, targets = read.entry, read.targets
    assert entry is not None and targets is not None
    for domain in source.domains_of(entry.unit):
        sums = found.domains[domain]
        sums.units += 1
        sums.targets += entry.targets
        sums.entropy += float(targets.entropy.sum(dtype="float64"))
        sums.token_logprob += float(targets.token_logprob.sum(dtype="float64"))
        sums.num_kept += kept_of(source, entry)
        sums.bytes += entry.size


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
