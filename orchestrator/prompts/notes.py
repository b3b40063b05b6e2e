"""Where the answers' text is not what the captured distributions would write, in sentences for the plan and the report.

Students learn every distribution exactly, whatever the text before it. What suffers is which texts they come after: the
contexts in which a student will stand, once it writes itself, are others than those that it was trained in.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.policy import PolicyResolver
from workers.targets.encoding.schema import shared_temperature
from workers.teacher.config import AnswersConfig, SamplingConfig

_RULES = ("min_tokens", "max_tokens", "min_characters", "max_characters", "filter")


def text_notes(config: RunConfig, asked: Iterable[tuple[str, tuple[str, ...]]]) -> list[str]:
    """One sentence for each way in which text and distributions disagree, naming the domains of which it is true.

    `asked` are the source and the domains of prompts that the teacher answers; of like ones, one is enough.
    """
    policies = PolicyResolver(config)
    labels: dict[str, list[str]] = {}
    for source, domains in sorted(set(asked)):
        name = " and ".join(domains)
        capture = shared_temperature(config.targets.temperatures, domains)
        sampling = policies.of(source, domains).sampling
        for sentence in [*sampling_notes(sampling, capture), *duplicates_notes(sampling, config.answers)]:
            own = name if source in domains else f"{name} (prompts.{source})"
            labels.setdefault(sentence, []).append(own)
    return [f"{', '.join(own)}: {sentence}" for sentence, own in labels.items()] + selection_notes(config)


def sampling_notes(sampling: SamplingConfig, capture: float) -> list[str]:
    """How text sampled so differs from what distributions captured at a temperature would write."""
    notes = []
    if sampling.temperature != capture:
        how = f"sampled at temperature {sampling.temperature:g}" if sampling.temperature else "the most probable text"
        typical = "more typical" if sampling.temperature < capture else "stranger"
        notes.append(
            f"answers are {how}, targets are at temperature {capture:g}: the student learns the exact distributions, "
            f"but in contexts {typical} than those that it will write itself"
        )
    if sampling.top_p < 1:
        notes.append(
            f"answers never hold the least probable tokens (top_p {sampling.top_p:g}), targets do: the student gives "
            "them their probability, but is never shown how a text goes on after one"
        )
    if sampling.min_new_tokens > 0:
        notes.append(
            f"no answer ends before {sampling.min_new_tokens} tokens, targets hold the end's probability all the same: "
            "the student learns to end sooner than the texts it is trained on"
        )
    return notes


def duplicates_notes(sampling: SamplingConfig, answers: AnswersConfig) -> list[str]:
    """What it does to drop equal answers that are sampled as they are probable."""
    if answers.duplicates != "drop" or sampling.samples == 1:
        return []
    return [
        "of equal answers to a prompt one is kept (answers.duplicates: drop): the most probable answers are kept "
        "less often than the teacher would give them"
    ]


def selection_notes(config: RunConfig) -> list[str]:
    """What the rules that reject answers do to those that remain."""
    rules = [f"answers.{name}" for name in _RULES if getattr(config.answers, name)]
    rules += ["answers.unfinished"] if config.answers.unfinished == "drop" else []
    rules += ["targets.withhold"] if any(config.targets.withhold.values()) else []
    if not rules:
        return []
    return [
        f"answers are rejected by {', '.join(rules)}: the distributions in those that remain are exact, but the texts "
        "are a selection, not what the teacher writes on average"
    ]
