"""What a person should know of tasks before they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.sources import commonest
from orchestrator.prompts.tasks import ReadTask, written_items
from workers.evaluation.bridges.config import BRIDGE_QUESTIONS
from workers.evaluation.metrics.retention import least_items


def task_notes(config: RunConfig, tasks: Sequence[ReadTask]) -> list[str]:
    """Rows that are rejected, edits that could not be done, what bridges cost, and what the gate cannot tell."""
    notes = [
        f"evaluate.tasks.{task.name}: {len(task.rejected)} rows rejected; {commonest(task.rejected)}"
        for task in tasks
        if task.rejected
    ]
    notes += [
        f"evaluate.tasks.{task.name}: {edit} is not done to {count} items, {reason}"
        for task in tasks
        for (edit, reason), count in task.skipped.most_common()
    ]
    given = [item for task in tasks for item in task.items if item.variant_of is None]
    domains = {item.domain for item in given}
    known = {domain for name in config.specialists for domain in config.mix_of(name)}
    if tasks and (others := sorted(domains - known)):
        notes.append(f"evaluate.tasks: no specialist's mix has {', '.join(others)}; its items count for no gate")
    return [*notes, *_bridge_notes(config, tasks), *_gate_notes(config, Counter(item.domain for item in given))]


def _bridge_notes(config: RunConfig, tasks: Sequence[ReadTask]) -> list[str]:
    """What looking for bridges costs, in answers."""
    settings, written = config.evaluate.bridges, written_items(tasks)
    if settings is None or not written:
        return []
    changed = sum(min(settings.texts, count) for count in written.values()) * settings.positions
    looked = sum(min(BRIDGE_QUESTIONS * settings.texts, count) for count in written.values())
    most = 3 * min(settings.texts, max(written.values()))
    longest = max(task.max_new_tokens for task in config.evaluate.tasks.values())
    return [
        f"evaluate.bridges: in {len(written)} domains with items that are answered by writing the teacher writes at "
        f"most {looked:,} answers more, and goes on behind at most {changed:,} changed tokens, up to {longest} tokens "
        f"each; every student writes at most {most:,} in each domain that it is looked at in"
    ]


def _gate_notes(config: RunConfig, items: Mapping[str, int]) -> list[str]:
    """What the gate cannot tell of so many items by domain."""
    if config.evaluate.gate is None:
        return []
    share, notes = config.evaluate.gate.retention, []
    for name in config.specialists:
        mix = [domain for domain, part in config.mix_of(name).items() if part > 0]
        if not any(items.get(domain) for domain in mix):
            notes.append(f"evaluate.gate: no task has items of a domain of {name}, which passes no gate and fails none")
        for domain in mix:
            if 0 < (count := items.get(domain, 0)) < (least := least_items(share)):
                notes.append(
                    f"evaluate.gate: {count} items of {domain} cannot show that {name} keeps {share:.1%}, even if all "
                    f"are answered rightly by both; it takes {least:,}"
                )
    return notes
