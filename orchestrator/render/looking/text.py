"""A stored text and its distributions as a person reads them."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from orchestrator.render.columns import GAP, print_columns

_TOKEN_CELLS = 16
"""Widest token column; a longer token is cut."""

_LEAST_CELLS = 24
"""Narrowest column of ids."""

NOISY = (
    "Weights are a sample: noisy and unbiased, made for training and not for looking. The largest one is the most "
    "probable token only 85 % of the time"
)
TOP = "The most probable ids are exact, and what is left to all others is one mass: the tail"


def print_text(found: dict[str, Any], out: Console) -> None:
    """Print what `show_text` found."""
    domains = f" ({', '.join(found['domains'])})" if found["domains"] else ""
    out.print(
        f"prompt {found['prompt_uid']}, sample {found['sample']}, in unit {found['unit']} of "
        f"{found['split']}{domains}, by {found['teacher']}: {found['tokens']:,} tokens, "
        f"targets from token {found['start']:,} on",
        markup=False,
    )
    out.print()
    out.print(_whole_text(found))
    out.print()
    asked = any("exact" in position for position in found["positions"])
    exact = f"exact at temperature {found['temperature']:g}" if asked or not found["sampled"] else ""
    kept = ", ".join(filter(None, [found["scheme"], exact]))
    heads = ["at", "token", "", "entropy", "log p", f"ids, by weight ({kept})"]
    rows = [row for position in found["positions"] for row in _rows(position, found["top"])]
    beside = sum(max(map(cell_len, column)) + GAP for column in list(zip(heads, *rows, strict=True))[:-1])
    width = max(out.width - beside, _LEAST_CELLS) if out.is_terminal else None
    print_columns(out, heads, [[*cells, _filled(ids, width)] for *cells, ids in rows], [*heads[1:3], heads[-1]])
    left = found["tokens"] - found["start"] - len(found["positions"])
    if left:
        out.print(f"{left:,} more positions (--limit)")
    if found["sampled"]:
        about = TOP if found["scheme"] == "topk" else NOISY
        out.print(about + ("" if asked else "; --exact asks the teacher"), markup=False)
    if found["always"]:
        out.print(f"Exact at every position: {'  '.join(found['always'])}", markup=False)
    for note in found["notes"]:
        out.print(f"note: {note}", markup=False, style="yellow")


def _whole_text(found: dict[str, Any]) -> Text:
    """The text; what stands before its targets is dim."""
    data = found["text"].encode()
    before, rest = data[: found["target_byte"]], data[found["target_byte"] :]
    return Text.assemble((before.decode(errors="replace"), "dim"), rest.decode(errors="replace"))


def _rows(position: dict[str, Any], top: int) -> list[list[str]]:
    """What is stored at a position, and below it what the teacher says, where it was asked."""
    token = position["token"][1]
    if cell_len(token) > _TOKEN_CELLS:
        token = set_cell_size(token, _TOKEN_CELLS - 1) + "…"
    at, stored = str(position["position"]), _numbers(position["stored"], top)
    if "exact" not in position:
        return [[at, token, "", *stored]]
    return [[at, token, "kept", *stored], ["", "", "exact", *_numbers(position["exact"], top)]]


def _numbers(distribution: dict[str, Any], top: int) -> list[str]:
    ids = distribution["ids"]
    shown = [f"{text} {_percent(weight)}" for _, text, weight in ids[:top]]
    if len(ids) > top:
        shown.append(f"{len(ids) - top} more {_percent(sum(weight for *_, weight in ids[top:]))}")
    if "tail" in distribution:
        shown.append(f"tail {_percent(distribution['tail'])}")
    return [f"{distribution['entropy']:.2f}", f"{distribution['token_logprob']:.2f}", "\n".join(shown)]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _filled(ids: str, width: int | None) -> str:
    """The lines of `ids` side by side, as many in a line of `width` cells as fit whole."""
    lines = [""]
    for item in ids.splitlines():
        longer = f"{lines[-1]}  {item}" if lines[-1] else item
        if width is None or cell_len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(item)
    return "\n".join(lines)
