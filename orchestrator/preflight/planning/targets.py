"""How many prompts, target tokens and bytes of targets a run has, from its prompts or a sample of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from humanize import naturalsize

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.memory import target_bytes
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.prompts.notes import text_notes
from orchestrator.prompts.policy import PolicyResolver, PromptPolicy, chat_of
from orchestrator.prompts.sources import RawPrompt, assign_splits
from workers.model_files import read_model_config
from workers.model_sizes import DTYPE_BYTES
from workers.splits import HELDOUT, TRAIN

_LARGE = 1 << 30
"""Bytes of a held-out store from which another way to keep it is told."""

_CHARACTERS_PER_TOKEN = 4
"""Of English prose in a usual vocabulary; the plan's token counts of given text are estimates."""


def plan_prompts(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    """Fill in prompts, tokens, bytes and notes. A prompt of a sample counts as often as it stands for rows."""
    policies, asked = PolicyResolver(config), set()
    tokens_of: dict[str, Counter[str]] = {TRAIN: Counter(), HELDOUT: Counter()}
    domains: dict[str, Counter[str]] = {}
    for prompt, heldout in zip(found.prompts, _heldout_shares(config, found), strict=True):
        rows = found.sampled.get(prompt.source, 1.0)
        how = policies.of(prompt.source, prompt.domains)
        plan.longest_answer[how.teacher] = max(plan.longest_answer.get(how.teacher, 0), how.sampling.max_new_tokens)
        if heldout < 1 and prompt.answer is None:
            asked.add((prompt.source, prompt.domains))
        for split, share in ((TRAIN, 1 - heldout), (HELDOUT, heldout)):
            if not share:
                continue
            tokens = share * rows * _target_tokens(prompt, how, config, split == HELDOUT)
            for domain in prompt.domains:
                domains.setdefault(domain, Counter()).update({split: share * rows, "tokens": tokens})
            tokens_of[split].update({how.teacher: tokens})
    plan.prompts = {d: {k: round(row[k]) for k in ("train", "heldout", "tokens")} for d, row in domains.items()}
    plan.rejected = round(sum(found.sampled.get(r.source, 1.0) for r in found.rejected))
    plan.train_tokens, plan.heldout_tokens = (round(tokens_of[split].total()) for split in (TRAIN, HELDOUT))
    plan.train_bytes = round(plan.train_tokens * target_bytes(config.targets, vocabulary))
    _plan_heldout_bytes(plan, config, found, tokens_of[HELDOUT], vocabulary)
    _note_domains(plan, config)
    plan.notes += found.notes + text_notes(config, asked)


def _heldout_shares(config: RunConfig, found: Checked) -> list[float]:
    """Of each prompt, 1 where it is held out, 0 where it trains. Which rows of a large source are held out, their ids
    say; of one that was sampled, each prompt stands for rows of both splits unless its row says which."""
    explicit = {p.source for p in found.prompts if p.split == HELDOUT}
    splits = assign_splits(found.prompts, config.evaluate.heldout)
    return [
        config.evaluate.heldout
        if p.source in found.sampled and p.split is None and p.source not in explicit
        else float(split == HELDOUT)
        for p, split in zip(found.prompts, splits, strict=True)
    ]


def _plan_heldout_bytes(
    plan: RunPlan, config: RunConfig, found: Checked, tokens: Counter[str], vocabulary: int
) -> None:
    full = plan.heldout_tokens * vocabulary * DTYPE_BYTES[config.evaluate.precision]
    hidden = _hidden_bytes(config, found, tokens, vocabulary)
    plan.heldout_bytes = hidden if config.evaluate.targets == "hidden" else full
    if plan.heldout_bytes > _LARGE and hidden < full and config.evaluate.targets == "full":
        plan.notes.append(
            f"evaluate.targets: full keeps {naturalsize(full)} of held-out distributions, and the evaluator holds "
            f"them; hidden keeps {naturalsize(hidden)}"
        )


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


def _hidden_bytes(config: RunConfig, found: Checked, tokens: Counter[str], vocabulary: int) -> int:
    """Of the hidden states of so many held-out tokens by teacher, and of the teachers' heads."""
    width = DTYPE_BYTES[config.hidden_precision()]
    return sum(
        hidden_size(found.teacher_folders[name])
        * (round(tokens[name]) * width + vocabulary * DTYPE_BYTES[teacher.precision])
        for name, teacher in config.teachers.items()
    )


def hidden_size(folder: Path) -> int:
    """Numbers of a model's hidden state, by its config.json; 0 where it does not say."""
    model_config = read_model_config(folder)
    return int(model_config.get("hidden_size") or (model_config.get("text_config") or {}).get("hidden_size") or 0)


def _target_tokens(prompt: RawPrompt, how: PromptPolicy, config: RunConfig, heldout: bool) -> int:
    """Upper bound (generated) or estimate (given) of a prompt's target tokens."""
    sampling = how.sampling
    given = prompt.answer is not None and (not heldout or config.evaluate.text == "given" or prompt.prompt == "")
    answer = len(prompt.answer_text or "") // _CHARACTERS_PER_TOKEN + 1 if given else sampling.max_new_tokens
    texts = 1 if given else (config.evaluate.samples if heldout else sampling.samples)
    messages = chat_of(prompt, how)
    before = (prompt.prompt or "") if messages is None else "".join(str(m.get("content", "")) for m in messages)
    all_positions = config.targets.positions == "all" and not heldout
    return texts * (answer + (len(before) // _CHARACTERS_PER_TOKEN if all_positions else 0))
