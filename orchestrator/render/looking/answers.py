"""What the models of a run answered, side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.render.columns import print_columns


def show_answers(prompt: str, answers: dict[str, dict[str, Any]], out: Console) -> None:
    """One row a model: a table on a terminal, aligned lines that nothing wraps in a pipe."""
    title, columns = f"“{prompt}” …", ("model", "continuation", "next token, and its runners-up")
    rows = [
        [name, answer["text"], "  ".join(f"{token} {probability:.0%}" for token, probability in answer["next"])]
        for name, answer in answers.items()
    ]
    if not out.is_terminal:
        out.print(title, markup=False)
        print_columns(out, columns, [[visible(cell) for cell in row] for row in rows], left=columns)
        return
    table = Table(title=escape(title), title_justify="left", header_style="bold", show_lines=True)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


def visible(text: str) -> str:
    """One line: what does not print, line ends among it, as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
