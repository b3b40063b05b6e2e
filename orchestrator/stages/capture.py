"""What is to be captured, into which stores, and what every replica is given for it."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import groupby
from typing import Any

from cluster.storage import open_storage
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.tokenizing import TokenizerFacts
from orchestrator.prompts.unit_size import texts_of, together_tokens, units_together
from orchestrator.runs.exact_scheme import choose_exact_scheme
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.repairs import units_to_repair
from workers.fetching.folder import model_folder
from workers.fingerprint import commit_in, fingerprint_like
from workers.layout import PROMPTS_SUMMARY, StoreLayout
from workers.manifest import read_plan
from workers.splits import HELDOUT, SPLITS, TRAIN
from workers.targets.config import Precision, Scheme
from workers.targets.contract import Contract
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.units.answer_filter import FilterCode
from workers.teacher.units.answers import AnswerRules
from workers.teacher.units.replica import ReplicaJob


def open_stores(run: RunFolder, config: RunConfig, tokenizer: TokenizerFacts, vocabulary: int) -> Contract:
    """Fix the headers of the stores; returns what specialists declare of theirs. Raises ValueError if they exist with
    other settings (a changed teacher, say)."""
    written = run.config().teachers  # a run may be resumed where its models lie in another folder
    begun: dict[str, Any] = (run.read_json(StoreLayout(TRAIN).header) or {}).get("teachers", {})
    teachers = {
        name: {
            "model": written[name].model,
            "fingerprint": _fingerprint(config.teacher_key(name), teacher, begun.get(name, {}).get("fingerprint")),
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
        "always": tokenizer.always_keep,
        "temperatures": config.targets.temperatures,
        "answers": answer_rules(run, config, config.first_teacher()).record(),
    }
    # Held-out scores and probes need the exact distributions, at the answer only. Of the few probes hidden states would
    # not be worth a head.
    kept: dict[str, tuple[Scheme, Precision]] = dict.fromkeys(SPLITS, ("full", config.evaluate.precision))
    kept[TRAIN] = config.targets.scheme, config.targets.precision
    for split, scheme in ((TRAIN, config.targets.scheme), (HELDOUT, _heldout_scheme(run, config, vocabulary))):
        if scheme == "hidden":
            kept[split] = "hidden", config.hidden_precision()
    headers = {
        split: StoreHeader(
            scheme=kept[split][0],
            draws=config.targets.draws,
            positions=config.targets.positions if split == TRAIN else "answer",
            precision=kept[split][1],
            vocabulary=vocabulary,
            tokenizer=tokenizer.fingerprint,
            chat_template=tokenizer.chat_template,
            seed=config.seed,
            teachers=teachers,
            prompts=written_prompts(run.read_json(PROMPTS_SUMMARY) or {}),
            **(drawn if split == TRAIN else {}),
        )
        for split in SPLITS
    }
    for split, header in headers.items():
        TargetStore(run.storage, split).create(header)
    return Contract.of(headers[TRAIN])


def _fingerprint(key: str, teacher: TeacherConfig, begun: str | None) -> str:
    """A teacher's fingerprint, in the form of the one that the run was begun with. Raises ValueError for a branch that
    moved since then."""
    try:
        now = fingerprint_like(begun, teacher.model, teacher.revision)
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from None
    commit, moved_to = commit_in(begun or ""), commit_in(now)
    if commit != moved_to and None not in (commit, moved_to):
        raise ValueError(
            f"{key}.revision: {teacher.revision or 'the default branch'} of {teacher.model!r} was at {commit} when "
            f"this run began, and is at {moved_to} now; to go on with what was captured, set {key}.revision: {commit}"
        )
    return now


def pinned(teacher: TeacherConfig, fingerprint: str) -> TeacherConfig:
    """A teacher at the commit that a store was begun with: whoever loads it later must load the same, wherever its
    branch stands by then."""
    commit = commit_in(fingerprint)
    return teacher if commit is None else teacher.model_copy(update={"revision": commit})


def _heldout_scheme(run: RunFolder, config: RunConfig, vocabulary: int) -> str:
    """The scheme of the held-out store; where the settings leave it open, by the answers that its frozen prompts may
    have."""
    if config.evaluate.targets != "auto":
        return config.evaluate.targets
    tokens: Counter[str] = Counter()
    for unit in read_plan(run.storage, HELDOUT).units:
        tokens[unit.teacher] += unit.tokens
    folders = {n: model_folder(t.model, t.revision, weights=False) for n, t in config.teachers.items()}
    return choose_exact_scheme(config, folders, tokens, vocabulary).scheme


def missing_heads(run: RunFolder, config: RunConfig) -> dict[str, list[str]]:
    """Teachers whose head some store needs and has not, each with the splits of these stores."""
    missing: dict[str, list[str]] = {}
    for split in (TRAIN, HELDOUT):
        store = TargetStore(run.storage, split)
        for name in config.teachers if store.header.scheme == "hidden" else ():
            if not run.storage.exists(store.head_key(name)):
                missing.setdefault(name, []).append(split)
    return missing


def write_heads(run_uri: str, config: RunConfig, missing: dict[str, list[str]]) -> None:
    """Put teachers' heads into stores (see `missing_heads`). Loads torch, and nothing else of a teacher's weights.

    Raises ValueError for a teacher that has none of its own.
    """
    from workers.fetching.weights import read_tensor
    from workers.targets.heads import head_of_folder

    storage = open_storage(run_uri)
    for name, splits in missing.items():
        stores = [TargetStore(storage, split) for split in splits]
        teacher = pinned(config.teachers[name], stores[0].header.teachers[name]["fingerprint"])
        folder = model_folder(teacher.model, teacher.revision, weights=False)
        try:
            head = head_of_folder(
                folder,
                teacher.precision,
                stores[0].header.vocabulary,
                trust_remote_code=teacher.trust_remote_code,
                read=partial(read_tensor, teacher.model, teacher.revision),
            )
        except ValueError as error:
            key = config.teacher_key(name)
            raise ValueError(f"{key}.{error}; take {' and '.join(_NO_HEAD[split] for split in splits)}") from None
        data = head.to_bytes()
        for store in stores:
            storage.write(store.head_key(name), data)


_NO_HEAD = {TRAIN: "another targets.scheme", HELDOUT: "evaluate.targets: full"}
"""What to do about a store whose teacher has no head of its own."""


def written_prompts(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """How the rows of each source were written when they were frozen; of prompts frozen before this was recorded,
    nothing."""
    ways: dict[str, list[dict[str, Any]]] = {}
    for item in summary.get("asked", ()):
        if "special_tokens" in item:
            way = {key: item[key] for key in _WAY}
            known = ways.setdefault(item["source"], [])
            known += [way] if way not in known else []
    return ways


_WAY = ("domains", "chat", "chat_template_kwargs", "special_tokens", "answer_format")


def missing_units(run: RunFolder, splits: tuple[str, ...] = SPLITS) -> dict[str, list[dict[str, Any]]]:
    """Planned units that no entry commits or that are damaged, by teacher, in the order in which they are to be
    captured.

    Each is {split, unit, repair}: `repair` is the revision to make, 0 of a unit that is new. Raises RunFailed for a
    unit that was repaired too often.
    """
    missing: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        try:
            plan = read_plan(run.storage, split)
        except FileNotFoundError:
            continue
        committed, damaged = units_to_repair(run, split, TargetStore(run.storage, split).log.each(digest=True))
        for unit in plan.units:
            if unit.index not in committed or unit.index in damaged:
                repair = damaged.get(unit.index, 0) if unit.index in committed else 0
                missing.setdefault(unit.teacher, []).append({"split": split, "unit": unit.index, "repair": repair})
    return missing


def replica_job(run_uri: str, config: RunConfig, name: str, epoch: int, board: str) -> ReplicaJob:
    """What every replica of a teacher is given. Raises ValueError if the filter is another one by now."""
    run = RunFolder(run_uri)
    header, rules = TargetStore(run.storage, TRAIN).header, answer_rules(run, config, name)
    if header.answers != rules.record():
        raise ValueError("answers: the filter is not the one that this run began with; put it back as it was")
    return ReplicaJob(
        name=name,
        teacher=pinned(config.teachers[name], header.teachers[name]["fingerprint"]),
        fingerprint=header.teachers[name]["fingerprint"],
        run_uri=run_uri,
        rules=rules,
        epoch=epoch,
        deadline_s=config.cluster.placement_deadline_s,
        board=board,
    )


def answer_rules(run: RunFolder, config: RunConfig, name: str) -> AnswerRules:
    """What decides on a teacher's answers, with the code of the filter as it is now. Raises ValueError without it."""
    return AnswerRules(
        config.answers,
        config.targets.withhold,
        FilterCode.read(config.answers.filter) if config.answers.filter is not None else None,
        frozenset((run.read_json(PROMPTS_SUMMARY) or {}).get("stop_ids", {}).get(name, ())),
    )


def made_together(run_uri: str, config: RunConfig, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of missing units of a teacher (`missing_units`), in their order, as {split, units, repairs} of units that a
    replica makes together."""
    storage, items = open_storage(run_uri), []
    for split, own in groupby(rows, lambda row: row["split"]):
        repair_of = {row["unit"]: row["repair"] for row in own}
        header, plan = TargetStore(storage, split).header, read_plan(storage, split)
        groups = units_together(
            config.teachers[name],
            [plan.units[unit] for unit in repair_of],
            partial(texts_of, config, split=split),
            together_tokens(header, header.vocabulary),
        )
        for group in groups:
            units = [unit.index for unit in group]
            items.append({"split": split, "units": units, "repairs": [repair_of[unit] for unit in units]})
    return items


def pool_size(teacher: TeacherConfig, units: int) -> tuple[int, int]:
    """Least and most replicas for so many units: never more replicas than units."""
    least, most = teacher.replicas
    return min(least, units), max(min(most, units), min(least, units))


def limited(work: dict[str, list[dict[str, Any]]], limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """The first `limit` units of all."""
    if limit is None:
        return work
    kept: dict[str, list[dict[str, Any]]] = {}
    for name, rows in work.items():
        kept[name] = rows[:limit]
        limit -= len(kept[name])
    return kept


def lacking(missing: dict[str, list[dict[str, Any]]]) -> str:
    """What of the training store is new or damaged, in words."""
    rows = [row for of_teacher in missing.values() for row in of_teacher]
    damaged = [str(row["unit"]) for row in rows if row["repair"]]
    new = len(rows) - len(damaged)
    words = [f"{new} units of the training store are not captured yet"] if new else []
    if damaged:
        words.append(f"units of the training store are damaged and to be recomputed: {', '.join(damaged)}")
    return "; ".join(words)
