"""What is asked of an evaluator and what it answers: records that cross between processes. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from workers.evaluation.metrics import TokenScores


@dataclass(frozen=True)
class ModelToScore:
    """A model and the domains that it is scored on. `kind` says what `source` is: a key of the run, or a model."""

    name: str
    kind: str
    """`stored` (a folder below the run) or `single_expert` (the teacher at `source`, cut down for the domain)."""
    source: str
    domains: tuple[str, ...]
    revision: str | None = None
    """Of a Hugging Face id."""


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluator's work."""

    run_uri: str
    models: tuple[ModelToScore, ...]
    truth: str | None
    batch_tokens: int
    threads: int
    device: str
    board: str


@dataclass
class Results:
    """What an evaluator found, by model (or reference) and domain."""

    scores: dict[str, dict[str, TokenScores]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    """Rank and probability of each probe's answer, in the order of the probes; `teacher` is the teacher's own."""
    unigram: dict[str, float]
    """truth_excess_kl of the domain's unigram, where the truth is known."""
