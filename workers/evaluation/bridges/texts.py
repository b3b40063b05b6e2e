"""What is kept of bridges: a teacher's answers with the tokens that were changed, and what a student does there.

Legend: B texts, S tokens, n positions that were changed, of all texts, H hidden size.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class BridgeTexts:
    """Right answers that a teacher wrote, and tokens of them that it was sure of and that were changed."""

    asked: int
    """Items that it was asked for them."""
    names: list[str]
    """[B] of the questions."""
    tokens: list[np.ndarray]
    """[B] of [S] ids, the prompt's too, without the end."""
    starts: list[int]
    """[B] where the answer begins."""
    text_n: np.ndarray
    """Which text a position is of, rising."""
    place_n: np.ndarray
    """Where the token stands in the answer, from 0."""
    bridge_n: np.ndarray
    """Whether the answer is wrong where the runner-up stands in its place."""
    hidden_nH: np.ndarray
    """What the teacher's head was given for it, float32."""

    def to_bytes(self) -> bytes:
        """As a NumPy archive."""
        sink = io.BytesIO()
        np.savez_compressed(
            sink,
            asked=np.array(self.asked),
            names=np.array(self.names, np.str_),
            tokens=np.concatenate(self.tokens) if self.tokens else np.zeros(0, np.int64),
            lengths=np.array([len(t) for t in self.tokens], np.int64),
            starts=np.array(self.starts, np.int64),
            text=self.text_n,
            place=self.place_n,
            bridge=self.bridge_n,
            hidden=self.hidden_nH,
        )
        return sink.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> BridgeTexts:
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            lengths = found["lengths"]
            tokens = np.split(found["tokens"], np.cumsum(lengths)[:-1]) if len(lengths) else []
            names, starts = found["names"].tolist(), found["starts"].tolist()
            positions = (found[name] for name in ("text", "place", "bridge", "hidden"))
            return BridgeTexts(int(found["asked"]), names, tokens, starts, *positions)

    def answer(self, text: int, tokens: int) -> tuple[int, ...]:
        """The first so many ids of an answer."""
        start = self.starts[text]
        return tuple(self.tokens[text][start : start + tokens].tolist())


@dataclass(frozen=True)
class BridgeFindings:
    """What one student does on the texts of BridgeTexts."""

    asked: int
    """Items that the teacher was asked for them."""
    texts: int
    """B"""
    text: list[int]
    """[n] which text a position is of."""
    bridge: list[bool]
    """[n]"""
    kl: list[float]
    """[n] KL(teacher ‖ student) in nats, the teacher exact."""
    agree: list[bool]
    """[n] whether both find the same token most probable."""
    correct: list[bool]
    """[B] whether it answers the question rightly by itself."""
    repaired: list[bool | None]
    """[B] where it does not: whether it does from the teacher's answer up to and with the token of the bridge at which
    it is farthest from the teacher. None of the others, and where there is no bridge."""
    repaired_without: list[bool | None]
    """[B] the same from the teacher's answer up to that token and without it."""

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> BridgeFindings:
        """The inverse of `to_bytes`."""
        return BridgeFindings(**json.loads(data))
