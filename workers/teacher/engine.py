"""What a teacher engine does, as a protocol and the records that cross its border.

An engine knows one model and one place in a worker group. It knows nothing of Ray, units, stores or students.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

from workers.targets.config import Precision, Scheme
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader


@dataclass(frozen=True)
class TextRequest:
    """One text to make or to score: from a prompt and, where it is given, its answer."""

    prompt_uid: str
    sample: int
    prompt_token_ids: list[int]
    answer_token_ids: list[int] | None
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 0
    min_new_tokens: int = 0
    """Tokens before which nothing ends an answer."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer with the token that completes one."""


@dataclass(frozen=True)
class CaptureSpec:
    """What is captured at each target position."""

    scheme: Scheme
    draws: int
    positions: Literal["answer", "all"]
    precision: Precision
    vocabulary: int
    """Ids of the tokenizer; distributions are renormalised over ids below this."""
    seed: int
    top_k: int = 0
    redraws: int = 1
    always: tuple[int, ...] = ()
    temperature: float = 1.0
    """Of the softmax that is captured, whatever the text is sampled at."""
    marginal: bool = False
    """Add up the distributions, for the store's vocabulary order."""

    @staticmethod
    def of(header: StoreHeader, domains: Sequence[str], *, marginal: bool = False) -> CaptureSpec:
        """What a store captures of texts of these domains."""
        own: dict[str, Any] = {"temperature": header.temperature_of(domains), "marginal": marginal}
        shared = {f.name: getattr(header, f.name) for f in fields(CaptureSpec) if f.name not in own}
        return CaptureSpec(**shared, **own)

    @property
    def uniforms(self) -> int:
        """Random numbers of a position: three to round its scalars and its exact stratum, then those of its draws."""
        draw = {"multinomial": self.draws, "threshold": 2, "systematic": 1, "topk": 1}.get(self.scheme, 0)
        return 3 + self.redraws * draw


class TeacherEngine(Protocol):
    """One rank's part of a model."""

    tokenizer: Any
    """The model's, of transformers."""

    @property
    def steps(self) -> int:
        """Forward passes so far. A rank whose number stands still for long is hung."""

    @property
    def at_work(self) -> int:
        """Texts that are in its slots now."""

    def describe(self) -> dict[str, Any]:
        """Facts for the record: weights held, dtype, ranks."""

    def run(
        self,
        requests: list[TextRequest],
        spec: CaptureSpec,
        *,
        batch_scale: float = 1.0,
        texts: bool = True,
        then: Sequence[TextRequest] = (),
    ) -> UnitTargets:
        """Make or score texts, with their targets; one row a request, in order. `batch_scale` is the share of the
        configured batch sizes to use, above 0. Without `texts`, the texts and their tokens' ends are left out, for
        another process to put there while the next run is under way. `then` are the requests of the next call, with the
        same `spec`: an engine that can begins to answer them in slots that become free, and goes on there if the next
        call is of them. Raises OutOfMemory.

        Every rank of a worker group calls it at the same time, with texts of its own or (all_reduce) the same ones.
        """
