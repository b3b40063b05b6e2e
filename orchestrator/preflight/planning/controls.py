"""What controls and quantised siblings cost, in words."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import CONTROLS, QUANTISED, controls_of, quantised_train


def control_words(config: RunConfig, name: str) -> str:
    """What a specialist's controls train on, to follow the specialist's own mixture; empty where it has none."""
    if not (kinds := controls_of(config, name)):
        return ""
    each = ", each" if len(kinds) > 1 else ""
    what = "controls" if each else "control"
    return f"; then its {what} ({', '.join(kinds)}){each} on {config.control_tokens_of(name):,} of them"


def quantised_words(config: RunConfig, name: str) -> str:
    """What a specialist's quantised sibling trains on, to follow the same; empty where it has none."""
    specialist = config.specialists[name]
    if specialist.quantised is None:
        return ""
    tokens = quantised_train(specialist.train, specialist.quantised).tokens
    return f"; then its {QUANTISED} sibling ({specialist.quantised.format}) on {tokens:,}"


def control_note(config: RunConfig) -> str:
    """What the controls cost together, and at which tokens they are compared."""
    kinds = [kind for kind in CONTROLS if kind in config.evaluate.baselines]
    budgets = sum(s.train.tokens for s in config.specialists.values())
    tokens = sum(len(controls_of(config, name)) * config.control_tokens_of(name) for name in config.specialists)
    null = "" if config.evaluate.control_tokens is not None else ": null is 10% on GPUs, all on CPUs"
    short = any(map(config.control_is_short, config.specialists))
    compared = "; each is compared with its specialist as it was after as many tokens" if short else ""
    return (
        f"controls ({', '.join(kinds)}) train on {tokens:,} target tokens more, {100 * tokens / budgets:.3g}% of their "
        f"specialists' {budgets:,} (evaluate.control_tokens{null}){compared}"
    )
