"""Which prompts are held out: those whose rows say so, else a share by a hash of their ids; up to the caps of
`evaluate.heldout`. Nothing is tokenized for it, so that checks, plan and freezing come to the same."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.kinds import RowKind, answer_bytes
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from workers.evaluation.config import HeldoutConfig
from workers.splits import HELDOUT, TRAIN

SAYS: tuple[str | None, ...] = (None, TRAIN, HELDOUT)
"""What a row may say of its split, by number."""


@dataclass(frozen=True)
class Candidates:
    """What splits are decided by, of rows in their order; arrays are [rows]."""

    known: Sequence[RowKind]
    """The kinds of rows that there are."""
    kinds: np.ndarray
    """Which of them a row is."""
    says: np.ndarray
    """What it says of its split: its place in SAYS."""
    shares: np.ndarray
    """`hash_share` of its id (float64)."""
    answer_bytes: np.ndarray

    @staticmethod
    def of(prompts: Sequence[RawPrompt]) -> Candidates:
        """Those of rows that are at hand."""
        known: dict[RowKind, int] = {}
        kinds = [known.setdefault(RowKind.of(p), len(known)) for p in prompts]
        return Candidates(
            list(known),
            np.array(kinds, np.int64),
            np.array([SAYS.index(p.split) for p in prompts], np.int8),
            np.array([hash_share(p.id) for p in prompts], np.float64),
            np.array([answer_bytes(p) for p in prompts], np.int64),
        )

    def of_each(self, kinds: Sequence[bool]) -> np.ndarray:
        """What holds of kinds, by row."""
        return np.array(kinds, bool)[self.kinds] if len(self.kinds) else np.zeros(0, bool)

    def by_hash(self, rows: np.ndarray) -> np.ndarray:
        """Rows, by index, with the smallest hashes first; of equal ones the first."""
        return rows[np.argsort(self.shares[rows], kind="stable")]


def split_rows(config: RunConfig, rows: Candidates) -> tuple[np.ndarray, int]:
    """Whether each row is held out [rows]: as it says; else not where rows of its source say `heldout` themselves; else
    those of a share by a hash of their ids, smallest hashes first, while the caps of their domains last. And how many
    rows of the share train, as the caps have no room for them.

    Of each domain set, the row with the largest hash trains in any case. A cap makes a row's split hang on the others:
    one that is added may take the place of the held-out one with the largest hash, which trains from then on. Rows that
    say `heldout` have it whatever the caps are; those beyond are to be taken out first (`beyond`). Raises ValueError
    where a cap leaves no room for one answer.
    """
    room, heldout = _Room(config, rows), _says_heldout(config, rows)
    for i in np.flatnonzero(heldout).tolist():
        room.take(i)
    of_share = _by_share(config, rows) if config.specialists else np.zeros(0, np.int64)
    for i in of_share.tolist():
        if room.is_closed:
            break
        heldout[i] = room.take(i)
    return heldout, int(len(of_share) - heldout[of_share].sum())


def _says_heldout(config: RunConfig, rows: Candidates) -> np.ndarray:
    """Whether each row is to be held out whatever the share is: as it says, and of a run that trains nothing, all."""
    return rows.says == SAYS.index(HELDOUT) if config.specialists else np.ones(len(rows.says), bool)


def beyond(config: RunConfig, rows: Candidates) -> np.ndarray:
    """Rows, by index, that say `heldout` and for which the caps leave no room, smallest hashes first. They are
    rejected: who holds a row out wants it never to train, and a cap that they passed would bound nothing.

    Raises ValueError where a cap leaves no room for one answer.
    """
    room = _Room(config, rows)
    said = rows.by_hash(np.flatnonzero(_says_heldout(config, rows)))
    return np.array([i for i in said.tolist() if not room.take(i)], np.int64)


def beyond_reason(config: RunConfig) -> str:
    """Why a row of `beyond` is rejected."""
    return f"is held out, and evaluate.heldout has no room for it ({_in_words(config.evaluate.heldout)})"


def assign_splits(config: RunConfig, prompts: Sequence[RawPrompt]) -> list[str]:
    """The split of each prompt (`split_rows`)."""
    return splits_and_trained(config, prompts)[0]


def splits_and_trained(config: RunConfig, prompts: Sequence[RawPrompt]) -> tuple[list[str], int]:
    """The splits of `assign_splits`, and how many prompts of the share train, as the caps have no room for them."""
    heldout, trained = split_rows(config, Candidates.of(prompts))
    return [HELDOUT if held else TRAIN for held in heldout.tolist()], trained


def beyond_caps(config: RunConfig, prompts: Sequence[RawPrompt]) -> dict[int, RejectedRow]:
    """The rejected rows of `beyond`, by the index of their prompt."""
    reason = beyond_reason(config)
    return {i: prompts[i].rejected(reason) for i in beyond(config, Candidates.of(prompts)).tolist()}


def heldout_shares(
    config: RunConfig, prompts: Sequence[RawPrompt], sampled: Mapping[str, float]
) -> tuple[list[float], int]:
    """Of each prompt, the part that is held out of the rows that it stands for, and how many rows of the share train,
    as the caps have no room for them. `sampled` says of sources how many rows a prompt stands for; of others it is one,
    and the part is 1 or 0.

    Which rows of a large source are held out, their ids say; of one that was sampled, each prompt stands for rows of
    both splits, unless its row says which.
    """
    splits, trained = splits_and_trained(config, prompts)
    if not sampled:
        return [float(split == HELDOUT) for split in splits], trained
    explicit, trains = {p.source for p in prompts if p.split == HELDOUT}, bool(config.specialists)
    share = config.evaluate.heldout.share if trains else 1.0
    wanted = [
        share if p.source in sampled and p.split is None and p.source not in explicit else float(split == HELDOUT)
        for p, split in zip(prompts, splits, strict=True)
    ]
    room = _room_by_domain(config, prompts, wanted, sampled)
    parts = [min([1.0, *(room[d] for d in p.domains)]) for p in prompts]
    past = sum((1 - part) * w * sampled.get(p.source, 1.0) for p, w, part in zip(prompts, wanted, parts, strict=True))
    return [w * part for w, part in zip(wanted, parts, strict=True)], round(past) if trains else 0


def _room_by_domain(
    config: RunConfig, prompts: Sequence[RawPrompt], wanted: Sequence[float], sampled: Mapping[str, float]
) -> dict[str, float]:
    """The part of what domains would hold out that the caps have room for, by texts and by tokens."""
    policies, caps = PolicyResolver(config), config.evaluate.heldout
    texts: dict[str, float] = defaultdict(float)
    tokens: dict[str, float] = defaultdict(float)
    for prompt, part in zip(prompts, wanted, strict=True):
        kind = RowKind.of(prompt)
        answers, each = kind.answers(config, kind.how(policies), answer_bytes(prompt), heldout=True)
        rows = part * sampled.get(prompt.source, 1.0)
        for domain in prompt.domains:
            texts[domain] += rows
            tokens[domain] += rows * answers * each
    return {
        domain: min(
            1.0 if caps.max_texts is None else caps.max_texts / max(texts[domain], 1.0),
            1.0 if caps.max_tokens is None else caps.max_tokens / max(tokens[domain], 1.0),
        )
        for domain in {d for p in prompts for d in p.domains}
    }


def caps_note(config: RunConfig, trained: int) -> str | None:
    """What the caps did to the share, in a sentence; None where they did nothing."""
    caps = config.evaluate.heldout
    if not trained:
        return None
    return (
        f"evaluate.heldout: {trained:,} prompts of the share of {caps.share:g} train, as a domain holds out no more "
        f"({_in_words(caps)})"
    )


def hash_share(identity: str) -> float:
    """A number in [0, 1) from an id: the same rows are held out whatever else the file holds."""
    return int.from_bytes(id_digest(identity)[:8], "big") / 2**64


def id_digest(identity: str) -> bytes:
    """What stands for an id where ids are compared."""
    return hashlib.sha256(identity.encode(errors="surrogatepass")).digest()


def _by_share(config: RunConfig, rows: Candidates) -> np.ndarray:
    """Indices of the rows that the share holds out, smallest hashes first."""
    saying = np.unique(rows.kinds[rows.says == SAYS.index(HELDOUT)])
    explicit = {rows.known[k].source for k in saying.tolist()}
    free = (rows.says == 0) & ~rows.of_each([kind.source in explicit for kind in rows.known])
    chosen = free & (rows.shares < config.evaluate.heldout.share)
    for domains in {kind.domains for kind in rows.known}:
        silent = np.flatnonzero((rows.says == 0) & rows.of_each([kind.domains == domains for kind in rows.known]))
        if len(silent):
            chosen[silent[len(silent) - 1 - np.argmax(rows.shares[silent][::-1])]] = False
    return rows.by_hash(np.flatnonzero(chosen))


class _Room:
    """What each domain may still hold out. The first prompt without room closes a domain: else the rest of its tokens
    would go to short answers."""

    def __init__(self, config: RunConfig, rows: Candidates) -> None:
        self._config, self._caps, self._rows = config, config.evaluate.heldout, rows
        self._policies = PolicyResolver(config)
        self._texts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._open = {d for kind in rows.known for d in kind.domains}

    @property
    def is_closed(self) -> bool:
        """Whether no domain has room any more."""
        return not self._open

    def take(self, row: int) -> bool:
        """Hold a row out if all of its domains have room. Raises ValueError for answers that no room is enough for."""
        kind = self._rows.known[self._rows.kinds[row]]
        tokens, most = self._tokens_of(kind, int(self._rows.answer_bytes[row])), self._caps.max_tokens
        if most is not None and tokens > most:
            return False  # a given text; others have room
        full = {d for d in kind.domains if self._is_full(d, tokens)}
        self._open -= full
        for domain in kind.domains if not full else ():
            self._texts[domain] += 1
            self._tokens[domain] += tokens
        return not full

    def _is_full(self, domain: str, tokens: int) -> bool:
        texts, most = self._caps.max_texts, self._caps.max_tokens
        return (
            domain not in self._open
            or (texts is not None and self._texts[domain] >= texts)
            or (most is not None and self._tokens[domain] + tokens > most)
        )

    def _tokens_of(self, kind: RowKind, given: int) -> int:
        """Target tokens of a row's answers, as `max_tokens` counts them."""
        most = self._caps.max_tokens
        if most is None:
            return 0
        answers, each = kind.answers(self._config, kind.how(self._policies), given, heldout=True)
        if answers * each > most and not kind.is_given(self._config, heldout=True):
            domains = " and ".join(kind.domains)
            raise ValueError(
                f"evaluate.heldout.max_tokens: {most:,}, but the answers to one prompt of {domains} "
                f"may have {answers * each:,} (max_new_tokens x evaluate.samples); give more, or null"
            )
        return answers * each


def _in_words(caps: HeldoutConfig) -> str:
    named = {"max_texts": caps.max_texts, "max_tokens": caps.max_tokens}
    return ", ".join(f"{name} {n:,}" for name, n in named.items() if n is not None)
