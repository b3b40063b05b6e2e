"""How the rows of prompt sources were read, in a line each."""

from __future__ import annotations

from collections import Counter

from orchestrator.prompts.sources import RawPrompt, SourceRows

_SHOWN = 6
"""Columns, and ways of reading, that a line names."""


def source_line(name: str, rows: SourceRows) -> str:
    """What the rows of a source are, from which columns, how many answers are given, and what was not read."""
    kinds = Counter(map(_kind, rows.prompts))
    given = sum(p.answer is not None for p in rows.prompts)
    ways = " or ".join(" + ".join(columns) for columns, _ in rows.read_as.most_common(_SHOWN))
    line = f"prompts.{name}: {' and '.join(f'{n:,} {kind}' for kind, n in kinds.most_common())} (from {ways})"
    line += f", {'all' if given == len(rows.prompts) else f'{given:,}'} with the answer given" if given else ""
    if rows.read < rows.rows:
        line += (
            f", in a sample of {rows.read:,} of {'' if rows.exact else 'about '}{rows.rows:,} rows (--full reads all)"
        )
    if rows.unread:
        unread = [column for column, _ in rows.unread.most_common()]
        line += f"; not read: {', '.join(unread[:_SHOWN])}{' and others' if len(unread) > _SHOWN else ''}"
    return line


def source_data(rows: SourceRows) -> dict[str, object]:
    """The same for a program."""
    return {
        **{"rows": rows.rows, "rows_read": rows.read, "exact": rows.exact},
        "prompts": len(rows.prompts),
        "kinds": dict(Counter(map(_kind, rows.prompts))),
        "given": sum(p.answer is not None for p in rows.prompts),
        "read": [{"columns": list(columns), "rows": count} for columns, count in rows.read_as.most_common()],
        "unread": dict(rows.unread),
    }


def _kind(prompt: RawPrompt) -> str:
    if prompt.messages is not None:
        return "chats"
    return "whole texts" if prompt.prompt == "" else "texts to continue"
