"""What the entries of a log add up to, one after another: of very many none is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from workers.targets.commits.log import Entry


@dataclass
class EntrySums:
    """Sums over entries."""

    units: int = 0
    rows: int = 0
    tokens: int = 0
    targets: int = 0
    generated: int = 0
    num_kept: int = 0
    bytes: int = 0
    busy_s: float = 0.0
    """Seconds in which a teacher was at work on a unit."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Prompts without a row, by reason."""

    def add(self, entry: Entry) -> None:
        """Count an entry too."""
        self.units += 1
        self.rows += entry.rows
        self.tokens += entry.tokens
        self.targets += entry.targets
        self.generated += entry.generated
        self.num_kept += entry.num_kept
        self.bytes += entry.size
        self.busy_s += entry.finished - entry.started
        self.rejected.update(item["reason"] for item in entry.rejected)
