"""Columns of text: a table on a terminal, and aligned lines that nothing cuts where a program or a file takes them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 3
"""Cells between two columns on a terminal."""


def print_columns(out: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> None:
    """Print rows below their heads; columns are numbers, right-aligned, but those whose heads are in `left`."""
    if out.is_terminal:
        table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for head in heads:
            table.add_column(head, justify="left" if head in left else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        out.print(table)
        return
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = []
        for head, cell, width in zip(heads, row, widths, strict=True):
            pad = " " * (width - cell_len(cell))
            cells.append(cell + pad if head in left else pad + cell)
        out.print("  ".join(cells).rstrip(), markup=False, soft_wrap=True)


def print_facts(out: Console, facts: dict[str, str]) -> None:
    """Print `name  what it is`, one a line; on a terminal a long one goes on below itself."""
    width = max(map(len, facts))
    if out.is_terminal:
        grid = Table.grid(padding=(0, 2))
        for name, text in facts.items():
            grid.add_row(Text(name, style="bold"), Text(text))
        out.print(grid)
        return
    for name, text in facts.items():
        out.print(f"{name:{width}s}  {text}", markup=False, soft_wrap=True)
