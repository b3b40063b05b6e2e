"""How many prompts, target tokens and bytes of targets a run has, from its prompts or a sample of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.hours.workload import Row
from orchestrator.preflight.memory import target_bytes
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.prompts.kinds import RowKind, answer_bytes
from orchestrator.prompts.lengths import TextLengths
from orchestrator.prompts.notes import text_notes
from orchestrator.prompts.policy import PolicyResolver, PromptPolicy, prompt_bytes
from orchestrator.prompts.sources import RawPrompt
from orchestrator.prompts.splits import caps_note, heldout_shares
from orchestrator.runs.exact_scheme import choose_exact_scheme, hidden_bytes, hidden_size
from workers.model_files import read_model_config
from workers.splits import HELDOUT, TRAIN


def plan_prompts(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    """Fill in prompts, tokens, bytes and notes. A prompt of a sample counts as often as it stands for rows."""
    policies, asked = PolicyResolver(config), set()
    tokens_of: dict[str, Counter[str]] = {TRAIN: Counter(), HELDOUT: Counter()}
    domains: dict[str, Counter[str]] = {}
    given: Counter[str] = Counter()
    shares, past_caps = heldout_shares(config, found.prompts, found.sampled)
    if found.sampled and (note := caps_note(config, past_caps)) is not None:
        plan.notes.append(note)
    for prompt, heldout in zip(found.prompts, shares, strict=True):
        rows = found.sampled.get(prompt.source, 1.0)
        how = policies.of(prompt.source, prompt.domains)
        plan.longest_answer[how.teacher] = max(plan.longest_answer.get(how.teacher, 0), how.sampling.max_new_tokens)
        if heldout < 1 and prompt.answer is None:
            asked.add((prompt.source, prompt.domains))
        for domain in prompt.domains if heldout < 1 else ():
            named = plan.teachers.setdefault(domain, [])
            named += [how.teacher] if how.teacher not in named else []
        for split, share in ((TRAIN, 1 - heldout), (HELDOUT, heldout)):
            if not share:
                continue
            row = _row(prompt, how, config, found.lengths, split == HELDOUT)
            tokens = share * rows * row.texts * row.targets(config, heldout=split == HELDOUT)
            plan.workload.add(row, config, share * rows, heldout=split == HELDOUT)
            for domain in prompt.domains:
                domains.setdefault(domain, Counter()).update({split: share * rows, "tokens": tokens})
                given.update({domain: tokens} if split == TRAIN and prompt.answer is not None else {})
            tokens_of[split].update({how.teacher: tokens})
    plan.prompts = {d: {k: round(row[k]) for k in ("train", "heldout", "tokens")} for d, row in domains.items()}
    plan.given_tokens = {domain: round(tokens) for domain, tokens in given.items()}
    plan.rejected = round(sum(found.sampled.get(r.source, 1.0) for r in found.rejected))
    plan.train_tokens, plan.heldout_tokens = (round(tokens_of[split].total()) for split in (TRAIN, HELDOUT))
    whole = {split: {name: round(n) for name, n in tokens.items()} for split, tokens in tokens_of.items()}
    if config.targets.scheme == "hidden":
        plan.train_bytes = hidden_bytes(config, teacher_models(found), whole[TRAIN], vocabulary)
    else:
        plan.train_bytes = round(plan.train_tokens * target_bytes(config.targets, vocabulary))
    _plan_heldout_bytes(plan, config, found, whole[HELDOUT], vocabulary)
    _note_domains(plan, config)
    plan.notes += found.notes + text_notes(config, asked)


def _plan_heldout_bytes(
    plan: RunPlan, config: RunConfig, found: Checked, tokens: dict[str, int], vocabulary: int
) -> None:
    exact = choose_exact_scheme(config, found.teacher_folders, tokens, vocabulary)
    plan.heldout_bytes, plan.heldout_scheme, plan.heldout_why = exact.size, exact.scheme, exact.why
    largest = max(map(hidden_size, teacher_models(found).values()))
    numbers = largest if exact.scheme == "hidden" else vocabulary
    prompts = max(sum(row["heldout"] for row in plan.prompts.values()), 1)  # of several domains: more than once
    each = plan.heldout_tokens / prompts
    # As it was read, and decoded.
    plan.heldout_unit_bytes = round(2 * 4 * numbers * each * config.evaluate.heldout.prompts_per_unit)


def teacher_models(found: Checked) -> dict[str, dict[str, Any]]:
    """The teachers' config.json."""
    return {name: read_model_config(folder) for name, folder in found.teacher_folders.items()}


def _note_domains(plan: RunPlan, config: RunConfig) -> None:
    for name in config.specialists:
        if not plan.prompts.get(config.own_domain(name), {}).get("heldout"):
            plan.notes.append(
                f"specialist {name}: no held-out prompt of {config.own_domain(name)} to score it on; "
                "raise evaluate.heldout, or give rows `split: heldout`"
            )
    for domain in plan.prompts:
        if config.demand().get(domain, 0) <= 0:
            plan.notes.append(f"no specialist asks for the domain {domain!r}: it is captured last")


def _row(prompt: RawPrompt, how: PromptPolicy, config: RunConfig, lengths: TextLengths, heldout: bool) -> Row:
    """How a prompt is asked, with upper bounds of the tokens of answers that are made; given text has about as many for
    its bytes as the rows of its source that were tried."""
    kind = RowKind.of(prompt)
    texts, answer = kind.answers(config, how, answer_bytes(prompt), heldout=heldout)
    if given := kind.is_given(config, heldout=heldout):
        answer = lengths.answers[prompt.source].tokens_of(answer_bytes(prompt))
    before = lengths.prompts[prompt.source].tokens_of(prompt_bytes(prompt, how))
    return Row(prompt, how, texts, answer, before, given)
