"""Freezing the prompts before capture starts: ids, domains, splits, token ids, units. Broken rows are rejected.

`freeze` runs once, in the Preparer's process, with the teachers' tokenizers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.storage import Storage, open_storage
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.duplicates import question, repeats
from orchestrator.prompts.lengths import (
    check_length,
    check_students_hold,
    given_token_ids,
    positions_by_settings,
    text_tokens,
)
from orchestrator.prompts.policy import PolicyResolver, PromptPolicy
from orchestrator.prompts.sources import (
    RawPrompt,
    RejectedRow,
    Screened,
    read_probes,
    require_prompts,
    screen_all,
)
from orchestrator.prompts.splits import assign_splits, beyond_caps
from orchestrator.prompts.tokenizing import TeacherTokenizer, TokenizedPrompt
from orchestrator.prompts.unit_size import unit_size
from workers.layout import PROMPTS_REJECTED, PROMPTS_SUMMARY
from workers.manifest import write_manifest
from workers.splits import HELDOUT, PROBES, TRAIN
from workers.student.models.positions import Positions
from workers.targets.encoding.schema import shared_temperature
from workers.units import Prompt, build_units

_BATCH = 1024
"""Rows that are tokenized at once."""


@dataclass(frozen=True)
class _Asked:
    """A row that is readable to its teacher."""

    row: RawPrompt
    how: PromptPolicy
    tokens: TokenizedPrompt


def teacher_tokenizers(config: RunConfig) -> dict[str, TeacherTokenizer]:
    """Every teacher's, by name."""
    return {name: TeacherTokenizer.of_transformers(teacher) for name, teacher in config.teachers.items()}


def freeze(
    config: RunConfig,
    run_uri: str,
    screened: Screened | None = None,
    *,
    tokenizers: dict[str, TeacherTokenizer] | None = None,
    positions: Mapping[str, Positions] = {},
) -> dict[str, Any]:
    """Tokenize, split and block all prompts; write manifests, plans and the rows rejected. Returns the summary.

    `screened` are the rows of all sources, and `tokenizers` those of all teachers, where they were read already; else
    they are read here. `positions` are those of specialists that were tried. Raises ValueError, and has written
    nothing, where nothing is left or a specialist cannot hold its texts.
    """
    tokenizers = tokenizers or teacher_tokenizers(config)
    asked, bad = _read(config, screened or screen_all(config), tokenizers)
    rows = [a.row for a in asked]
    again = repeats(config, rows, [question(a.row, a.how, a.tokens.text) for a in asked])
    bad += again.values()
    asked = [a for i, a in enumerate(asked) if i not in again]
    beyond = beyond_caps(config, [a.row for a in asked])
    bad += beyond.values()
    asked = [a for i, a in enumerate(asked) if i not in beyond]
    prompts: dict[str, list[Prompt]] = {TRAIN: [], HELDOUT: []}
    for item, split in zip(asked, assign_splits(config, [a.row for a in asked]), strict=True):
        try:
            prompts[split].append(_prompt(item, config, tokenizers[item.how.teacher], split))
        except ValueError as error:
            bad.append(item.row.rejected(error))
    require_prompts(config, {d for p in prompts[TRAIN] for d in p.domains}, bad)
    longest = longest_by_domain([*prompts[TRAIN], *prompts[HELDOUT]])
    check_students_hold(config, longest, {**positions_by_settings(config), **positions})
    prompts[PROBES] = _probes(config, tokenizers)
    known = {p.id for items in prompts.values() for p in items}
    facts = {
        "vocabulary": tokenizers[config.first_teacher()].vocabulary,
        "stop_ids": {name: tokenizer.stop_ids for name, tokenizer in tokenizers.items()},
        "longest": longest,
        "asked": _summary_of([a for a in asked if a.row.id in known]),
    }
    return _write(open_storage(run_uri), config, prompts, bad, facts)


def longest_by_domain(prompts: Iterable[Prompt]) -> dict[str, int]:
    """Tokens of the longest text that may come of each domain's prompts."""
    longest: dict[str, int] = {}
    for prompt in prompts:
        given = prompt.answer_token_ids
        tokens = len(prompt.prompt_token_ids) + (prompt.max_new_tokens if given is None else len(given))
        for domain in prompt.domains:
            longest[domain] = max(longest.get(domain, 0), tokens)
    return longest


def _read(
    config: RunConfig, screened: Screened, tokenizers: dict[str, TeacherTokenizer]
) -> tuple[list[_Asked], list[RejectedRow]]:
    """All rows of all sources that can be asked, and the others."""
    policies = PolicyResolver(config)
    asked: list[_Asked] = []
    bad: list[RejectedRow] = []
    for source in screened.values():
        bad += source.rejected
        by_teacher: dict[str, list[tuple[RawPrompt, PromptPolicy]]] = {}
        for row in source.prompts:
            try:
                how = policies.of(row.source, row.domains)
                shared_temperature(config.targets.temperatures, row.domains)
                by_teacher.setdefault(how.teacher, []).append((row, how))
            except ValueError as error:
                bad.append(row.rejected(error))
        for teacher, items in by_teacher.items():
            for start in range(0, len(items), _BATCH):
                batch = items[start : start + _BATCH]
                for (row, how), tokens in zip(batch, tokenizers[teacher].prompts(batch), strict=True):
                    if isinstance(tokens, ValueError):
                        bad.append(row.rejected(tokens))
                    else:
                        asked.append(_Asked(row, how, tokens))
    return asked, bad


def _write(
    storage: Storage,
    config: RunConfig,
    prompts: dict[str, list[Prompt]],
    bad: list[RejectedRow],
    facts: dict[str, Any],
) -> dict[str, Any]:
    lines = "".join(json.dumps(vars(b)) + "\n" for b in bad)
    storage.write(PROMPTS_REJECTED, lines.encode())
    by_source = {n: dict(Counter(b.reason for b in bad if b.source == n)) for n in config.prompts}
    summary: dict[str, Any] = {
        **facts,
        "rejected": len(bad),
        "reasons": dict(Counter(b.reason for b in bad)),
        "reasons_by_source": {name: reasons for name, reasons in by_source.items() if reasons},
        "splits": {},
    }
    demand = config.demand()
    for split, items in prompts.items():
        if split == PROBES and not items:
            continue
        sizes = {name: unit_size(config, name, split) for name in config.teachers}
        plan, blocks = build_units(items, demand if split == TRAIN else {}, sizes, config.seed, split)
        write_manifest(storage, plan, blocks)
        summary["splits"][split] = {
            "units": len(plan.units),
            "prompts": len(items),
            "domains": {d: sum(d in p.domains for p in items) for d in plan.domains},
        }
    storage.write(PROMPTS_SUMMARY, json.dumps(summary).encode())
    return summary


def _prompt(item: _Asked, config: RunConfig, tokenizer: TeacherTokenizer, split: str) -> Prompt:
    """A prompt of a split, with its given answer or how it is to be answered. Raises ValueError with the reason to
    reject it. A held-out answer is sampled as the distributions are (temperature 1, top_p 1, its end not barred),
    whatever training text is: scores are measured on the teacher's own text."""
    row, sampling, heldout = item.row, item.how.sampling, split == HELDOUT
    given = given_token_ids(config, row, item.tokens, split)
    check_length(config, row.source, text_tokens(item.how, item.tokens, given), tokenizer.longest)
    return Prompt(
        id=row.id,
        domains=row.domains,
        teacher=item.how.teacher,
        samples=config.evaluate.samples if heldout else sampling.samples,
        temperature=1.0 if heldout else sampling.temperature,
        top_p=1.0 if heldout else sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        prompt_token_ids=item.tokens.prompt_token_ids,
        answer_token_ids=given,
        min_new_tokens=0 if heldout else sampling.min_new_tokens,
        stop=sampling.stop,
    )


def _probes(config: RunConfig, tokenizers: dict[str, TeacherTokenizer]) -> list[Prompt]:
    """Probes as prompts whose given answer is the one token to rank, by the teacher of their domain. Raises ValueError
    for an answer of no token."""
    rows = read_probes(config.evaluate.probes) if config.evaluate.probes is not None else []
    probes = []
    for number, row in enumerate(rows):
        teacher = config.teacher_of(row["domain"])
        answer_token_ids = tokenizers[teacher].ids(row["answer"], special=False)[:1]
        if not answer_token_ids:
            raise ValueError(f"evaluate.probes: the answer of line {number + 1} has no tokens")
        probes.append(
            Prompt(
                id=f"probe-{number:04d}",
                domains=(row["domain"],),
                teacher=teacher,
                samples=1,
                temperature=1.0,
                top_p=1.0,
                max_new_tokens=1,
                prompt_token_ids=tokenizers[teacher].ids(row["prompt"], special=True),
                answer_token_ids=answer_token_ids,
            )
        )
    return probes


def _summary_of(asked: Sequence[_Asked]) -> list[dict[str, Any]]:
    """How rows were asked: once for each source, its rows' domains and whether their answer is given."""
    kinds = ((a.row.messages is not None, a.row.answer is not None) for a in asked)
    counts = Counter((a.row.source, a.row.domains, *kind, a.how) for a, kind in zip(asked, kinds, strict=True))
    return [
        {
            "source": source,
            "domains": list(domains),
            "given": given,
            "prompts": count,
            "teacher": how.teacher,
            "system_prompt": how.system_prompt,
            "chat": chat,
            "chat_template_kwargs": how.chat_template_kwargs,
            "special_tokens": how.special_tokens,
            "answer_format": how.answer_format,
            "sampling": how.sampling.model_dump(mode="json"),
        }
        for (source, domains, chat, given, how), count in counts.items()
    ]
