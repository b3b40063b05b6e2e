"""What is known of an exported file, and the folder that it lies in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SUMS = "SHA256SUMS"
"""The list of a folder's files. It is written last: a folder without it is not whole."""

RECORD = "artefact.json"

CARD = "README.md"

KL_GATE = 0.01
"""Nats per token that a file may be from the model on its lattice, in the file's own runtime."""


@dataclass(frozen=True)
class Artefact:
    """An exported file, as it was measured after it was written. None: not measured."""

    format: str
    """`gguf q4_0`, `compressed-tensors w4a16`, `safetensors bfloat16`."""
    path: str
    """What a runtime loads, below the run's folder (or the folder that was asked for)."""
    bytes: int
    """Of all files with weights."""
    sha256: str
    """Of the file, or of the list of a folder's files."""
    runtime: str
    """The program that it was measured in."""
    weights_differing: int | None = None
    """Weights of the file that are not those of the model on the format's lattice; 0, or the file is wrong."""
    kl_teacher: float | None = None
    """KL(teacher || file), nats per token; None where no exact distributions of the teacher are there."""
    kl_float: float | None = None
    """KL(model before it was rounded || file), nats per token."""
    kl_fake_quant: float | None = None
    """KL(model on the format's lattice || file): what the runtime's own arithmetic costs."""
    overconfidence: float | None = None
    """How much more probability the file gives its likeliest token than the teacher gives that token, on average; None
    as of `kl_teacher`."""
    top1_agreement: float | None = None
    """Share of positions at which file and unrounded model have the same most probable token."""
    perplexity: float | None = None
    """Of the texts."""
    texts: int = 0
    tokens: int = 0
    """Positions that were measured."""
    tokens_per_s: float | None = None
    """Generated one after another, by two threads."""
    first_token_ms: float | None = None
    """From a prompt to its first token, by two threads."""
    peak_mb: float | None = None
    """Memory of the runtime's process at most, MiB."""
    same_ids: bool | None = None
    """Whether the file's tokenizer gives the ids of transformers on the texts; None where it has none."""
    stamp: str = ""
    """What it was made of, and how: another stamp, and it is made again."""

    @property
    def within_gate(self) -> bool | None:
        """Whether the runtime computes what training did, up to KL_GATE; None where it was not measured."""
        return None if self.kl_fake_quant is None else self.kl_fake_quant < KL_GATE

    @property
    def weights_as_trained(self) -> bool:
        """Whether nothing was rounded: the model on the format's lattice is the model itself."""
        return self.weights_differing == 0 and self.kl_float == self.kl_fake_quant

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Artefact:
        """An artefact from its JSON values; unknown ones are a later version's."""
        return Artefact(**{k: v for k, v in data.items() if k in Artefact.__dataclass_fields__})


def sha256_of(path: Path) -> str:
    """The digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_bytes(path: Path) -> int:
    """Bytes of a file, or of a folder's weights."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.glob("*.safetensors"))


def digest_of(path: Path) -> str:
    """The digest of a file, or of the digests of a folder's files with weights in order of their names."""
    if path.is_file():
        return sha256_of(path)
    lines = (f"{sha256_of(file)}  {file.name}\n" for file in sorted(path.glob("*.safetensors")))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal_of(folder: Path, artefact: Artefact, card: str) -> dict[str, bytes]:
    """The files that make a folder with an exported file whole, by name, in the order in which they are written: card,
    record and, last, the list of all files."""
    made = {CARD: card_of(artefact, card), RECORD: json.dumps(artefact.to_dict(), indent=1).encode()}
    sums = {p.relative_to(folder).as_posix(): sha256_of(p) for p in folder.rglob("*") if p.is_file()}
    sums |= {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    listed = sorted((name, digest) for name, digest in sums.items() if name != SUMS)
    return made | {SUMS: "".join(f"{digest}  {name}\n" for name, digest in listed).encode()}


def card_of(artefact: Artefact, card: str) -> bytes:
    """The card of an exported file: its model's, and what is known of the file."""
    return (card + _section(artefact)).encode()


def told(artefact: Artefact) -> str:
    """How large and how near a file is, in a line."""
    parts = [f"{artefact.bytes / 1e6:,.1f} MB"]
    if artefact.kl_float is None:
        parts.append("not measured")
    elif artefact.weights_as_trained:
        parts.append(f"{artefact.kl_float:z.4f} nats in {artefact.runtime} from the model as it was trained")
    else:
        parts.append(f"{artefact.kl_float:z.4f} nats from the model before rounding")
    if artefact.kl_fake_quant is not None and not artefact.weights_as_trained:
        late = "" if artefact.within_gate else ", which is more than its runtime's arithmetic should cost"
        parts.append(f"{artefact.kl_fake_quant:z.4f} from the rounded one in {artefact.runtime}{late}")
    if artefact.tokens_per_s is not None and artefact.peak_mb is not None:
        parts.append(f"{artefact.tokens_per_s:.1f} tokens/s, {artefact.peak_mb:,.0f} MiB")
    return "; ".join(parts)


_ROWS = (
    ("KL divergence from the teacher, nats per token", "kl_teacher", "z.4f"),
    ("KL divergence from the model before rounding", "kl_float", "z.4f"),
    ("KL divergence from the rounded model, in its own arithmetic", "kl_fake_quant", "z.4f"),
    ("overconfidence: what it gives its likeliest token beyond what the teacher does", "overconfidence", "z.4f"),
    ("top-1 agreement with the model before rounding", "top1_agreement", ".1%"),
    ("perplexity", "perplexity", ".3f"),
    ("weights that differ from the rounded model's", "weights_differing", ",d"),
    ("tokens a second, two threads", "tokens_per_s", ".1f"),
    ("milliseconds to the first token, two threads", "first_token_ms", ".0f"),
    ("memory at most, MiB", "peak_mb", ",.0f"),
)


def _section(artefact: Artefact) -> str:
    """The part of a card that is of one file."""
    lines = ["", "", "## This file", "", f"{artefact.format}, {artefact.bytes:,} bytes, sha256 `{artefact.sha256}`."]
    rows = [(label, getattr(artefact, name), spec) for label, name, spec in _ROWS]
    if any(value is not None for _, value, _ in rows):
        lines += [
            f"Measured after it was written, in {artefact.runtime}, on {artefact.tokens:,} positions of "
            f"{artefact.texts:,} held-out texts:",
            *("", "| | |", "|---|---|"),
            *(f"| {label} | {value:{spec}} |" for label, value, spec in rows if value is not None),
        ]
    else:
        lines.append("It was not measured.")
    return "\n".join(lines) + "\n"
