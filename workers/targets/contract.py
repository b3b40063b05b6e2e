"""What a specialist declares of the targets it learns from, and the refusal of a store that holds others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from workers.targets.encoding.schema import StoreHeader

_MEANING = {
    "tokenizer": "its ids mean other words",
    "chat_template": "its chats are written otherwise",
    "scheme": "its weights mean something else",
    "vocabulary": "its distributions are over other ids",
    "teachers": "another teacher said this",
}


@dataclass(frozen=True)
class Contract:
    """The settings of the store that a specialist's configuration speaks of."""

    tokenizer: str
    chat_template: str
    scheme: str
    vocabulary: int
    teachers: dict[str, str]
    """Fingerprint of each teacher's model, by name."""

    @staticmethod
    def of(header: StoreHeader) -> Contract:
        return Contract(
            header.tokenizer,
            header.chat_template,
            header.scheme,
            header.vocabulary,
            {name: str(facts.get("fingerprint", "")) for name, facts in header.teachers.items()},
        )

    def check(self, header: StoreHeader, who: str) -> None:
        """Raise ValueError, naming what differs, if a store is not the one that `who` declares."""
        found = asdict(Contract.of(header))
        wrong = [
            f"{name} {_short(found[name])} where {_short(declared)} is declared ({_MEANING[name]})"
            for name, declared in asdict(self).items()
            if found[name] != declared
        ]
        if wrong:
            raise ValueError(
                f"{who}: the targets are not those it declares: {'; '.join(wrong)}. Point the run at the store that "
                "was captured for it, or give this run another name and capture it anew"
            )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={fingerprint[:12]}" for name, fingerprint in sorted(value.items())) or "none"
    return repr(value[:12]) if isinstance(value, str) else str(value)
