"""A trial of prompts on their teachers' tokenizers and chat templates, so that rows of which nothing can be used are
told before Ray starts. Imports neither transformers nor torch.

A sample of every source and domain is written and tokenized. Only where all of a sample is rejected are the other rows
tried, until one can be used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.kinds import answer_bytes
from orchestrator.prompts.lengths import TextLengths, check_length, given_token_ids, text_tokens
from orchestrator.prompts.policy import PolicyResolver, prompt_bytes
from orchestrator.prompts.sources import RawPrompt, RejectedRow, nothing_left, require_prompts
from orchestrator.prompts.splits import assign_splits
from orchestrator.prompts.tokenizing import TeacherTokenizer, most_tokens
from workers.splits import TRAIN

_SAMPLE = 32
"""Rows of a kind that are tried in any case."""


@dataclass
class Trial:
    """What came of it."""

    rejected: dict[int, RejectedRow] = field(default_factory=dict)
    """Rows that were tried and cannot be used, by the index of their prompt."""
    longest: dict[str, int] = field(default_factory=dict)
    """Tokens of the longest text that may come of the rows that were tried, by domain."""
    lengths: TextLengths = field(default_factory=TextLengths)
    tried: Counter[str] = field(default_factory=Counter)
    """Rows that were tried, by source."""
    look_special: Counter[str] = field(default_factory=Counter)
    """Those of them with strings that look like special tokens and are read as text."""

    def notes(self) -> list[str]:
        """What a person should know of the rows."""
        return [
            f"prompts.{source}: {count} of {self.tried[source]} rows that were tried hold strings that look like "
            f"special tokens; they are read as text. If a template wrote them, say prompts.{source}.special_tokens: "
            "tokens"
            for source, count in self.look_special.items()
        ]


def try_prompts(config: RunConfig, prompts: list[RawPrompt], folders: dict[str, Path]) -> Trial:
    """Write and tokenize a sample of each source. Raises ValueError for a source, or a specialist's domain, of which
    nothing can be used, with the commonest reason."""
    check_room(config, prompts, folders)
    trial, run = Trial(), _Run(config, folders)
    kinds: dict[tuple[str, tuple[str, ...], str], list[int]] = {}
    for i, split in enumerate(assign_splits(config, prompts)):
        kinds.setdefault((prompts[i].source, prompts[i].domains, split), []).append(i)
    usable = {kind for kind, indices in kinds.items() if run.any_usable(prompts, kind[2], indices, trial)}
    for name in config.prompts:
        if name not in {source for source, _, _ in usable}:
            rejected = [r for r in trial.rejected.values() if r.source == name]
            if rejected:
                raise ValueError(f"prompts.{name}: {nothing_left(config.prompts[name].path, rejected)}")
    domains = {d for _, own, split in usable if split == TRAIN for d in own}
    require_prompts(config, domains, list(trial.rejected.values()))
    return trial


def check_room(config: RunConfig, prompts: list[RawPrompt], folders: dict[str, Path]) -> None:
    """Answers leave room for a prompt in what their teacher holds."""
    policies = PolicyResolver(config)
    own = config.evaluate.text != "given"  # then held-out rows are answered, whatever they have
    asked = {(p.source, p.domains) for p in prompts if p.answer is None or (own and p.prompt != "")}
    for source, domains in sorted(asked):
        how = policies.of(source, domains)
        teacher = config.teachers[how.teacher]
        holds, most = most_tokens(teacher, folders[how.teacher]), how.sampling.max_new_tokens
        if most >= holds:
            raise ValueError(
                f"{_key_of_most(config, source, domains, how.teacher)}: {most}, but {teacher.model!r} holds {holds} "
                "tokens, the prompt included; give less"
            )


def _key_of_most(config: RunConfig, source: str, domains: tuple[str, ...], teacher: str) -> str:
    """The key that says how many tokens an answer may have."""
    own = config.prompts[source].sampling
    if own is not None and own.max_new_tokens is not None:
        return f"prompts.{source}.sampling.max_new_tokens"
    for domain in domains:
        settings = config.domains.get(domain)
        if settings and settings.sampling is not None and settings.sampling.max_new_tokens is not None:
            return f"domains.{domain}.sampling.max_new_tokens"
    return f"{config.teacher_key(teacher)}.sampling.max_new_tokens"


class _Run:
    """Tries rows of one configuration."""

    def __init__(self, config: RunConfig, folders: dict[str, Path]) -> None:
        self._config, self._folders = config, folders
        self._policies = PolicyResolver(config)
        self._tokenizers: dict[str, TeacherTokenizer] = {}

    def any_usable(self, prompts: list[RawPrompt], split: str, indices: list[int], trial: Trial) -> bool:
        """Whether some of these prompts can be used; notes the others that were tried."""
        step = max(1, len(indices) // _SAMPLE)
        sample = indices[::step]
        if self._try(prompts, split, sample, trial):
            return True
        others = sorted(set(indices) - set(sample))
        batches = (others[start : start + _SAMPLE] for start in range(0, len(others), _SAMPLE))
        return any(self._try(prompts, split, batch, trial) for batch in batches)

    def _try(self, prompts: list[RawPrompt], split: str, indices: list[int], trial: Trial) -> bool:
        items = [(prompts[i], self._policies.of(prompts[i].source, prompts[i].domains)) for i in indices]
        tokenizer = self._tokenizer(items[0][1].teacher)  # of one source and domains, which have one teacher
        usable = False
        trial.tried.update(row.source for row, _ in items)
        for i, (row, how), tokens in zip(indices, items, tokenizer.prompts(items), strict=True):
            try:
                if isinstance(tokens, ValueError):
                    raise tokens
                length = text_tokens(how, tokens, given_token_ids(self._config, row, tokens, split))
                check_length(self._config, row.source, length, tokenizer.longest)
            except ValueError as error:
                trial.rejected[i] = row.rejected(error)
                continue
            usable = True
            trial.lengths.prompts[row.source].add(prompt_bytes(row, how), len(tokens.prompt_token_ids))
            if tokens.answer_token_ids is not None:
                trial.lengths.answers[row.source].add(answer_bytes(row), len(tokens.answer_token_ids))
            trial.look_special.update([row.source] if tokens.looks_special else [])
            for domain in row.domains:
                trial.longest[domain] = max(trial.longest.get(domain, 0), length)
        return usable

    def _tokenizer(self, teacher: str) -> TeacherTokenizer:
        if teacher not in self._tokenizers:
            config = self._config.teachers[teacher]
            try:
                self._tokenizers[teacher] = TeacherTokenizer.of_files(config, self._folders[teacher])
            except ValueError as error:
                raise ValueError(f"{self._config.teacher_key(teacher)}.{error}") from None
        return self._tokenizers[teacher]
