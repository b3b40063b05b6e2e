"""Which prompts are held out: those whose rows say so, else a share by a hash of their ids; up to the caps of
`evaluate.heldout`. Nothing is tokenized for it, so that checks, plan and freezing come to the same."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.lengths import answers_of, is_given
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from workers.evaluation.config import HeldoutConfig
from workers.splits import HELDOUT, TRAIN


def assign_splits(config: RunConfig, prompts: Sequence[RawPrompt]) -> list[str]:
    """Split of each prompt: what its row says; else `train` where rows of its source say `heldout` themselves; else
    `heldout` for a share by a hash of its id, smallest hashes first, while the caps of its domains last.

    Of each domain set, the prompt with the largest hash trains in any case. A cap makes a prompt's split hang on the
    others: one that is added may take the place of the held-out one with the largest hash, which trains from then on.
    Rows that say `heldout` have it whatever the caps are; those beyond are to be taken out first (`beyond_caps`).
    Raises ValueError where a cap leaves no room for one answer.
    """
    return splits_and_trained(config, prompts)[0]


def splits_and_trained(config: RunConfig, prompts: Sequence[RawPrompt]) -> tuple[list[str], int]:
    """The splits of `assign_splits`, and how many prompts of the share train, as the caps have no room for them."""
    room, trained = _Room(config), 0
    splits = [p.split or TRAIN for p in prompts]
    for prompt in (p for p in prompts if p.split == HELDOUT):
        room.take(prompt)
    for i in _by_share(config, prompts):
        if room.take(prompts[i]):
            splits[i] = HELDOUT
        else:
            trained += 1
    return splits, trained


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
    explicit, share = {p.source for p in prompts if p.split == HELDOUT}, config.evaluate.heldout.share
    wanted = [
        share if p.source in sampled and p.split is None and p.source not in explicit else float(split == HELDOUT)
        for p, split in zip(prompts, splits, strict=True)
    ]
    room = _room_by_domain(config, prompts, wanted, sampled)
    parts = [min([1.0, *(room[d] for d in p.domains)]) for p in prompts]
    past = sum((1 - part) * w * sampled.get(p.source, 1.0) for p, w, part in zip(prompts, wanted, parts, strict=True))
    return [w * part for w, part in zip(wanted, parts, strict=True)], round(past)


def _room_by_domain(
    config: RunConfig, prompts: Sequence[RawPrompt], wanted: Sequence[float], sampled: Mapping[str, float]
) -> dict[str, float]:
    """The part of what domains would hold out that the caps have room for, by texts and by tokens."""
    policies, caps = PolicyResolver(config), config.evaluate.heldout
    texts: dict[str, float] = defaultdict(float)
    tokens: dict[str, float] = defaultdict(float)
    for prompt, part in zip(prompts, wanted, strict=True):
        answers, each = answers_of(config, prompt, policies.of(prompt.source, prompt.domains), heldout=True)
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


def beyond_caps(config: RunConfig, prompts: Sequence[RawPrompt]) -> dict[int, RejectedRow]:
    """Prompts, by index, whose rows say `heldout` and for which the caps leave no room, smallest hashes first. They are
    rejected: who holds a row out wants it never to train, and a cap that they passed would bound nothing.

    Raises ValueError where a cap leaves no room for one answer.
    """
    room, found, caps = _Room(config), {}, config.evaluate.heldout
    for i in sorted((i for i, p in enumerate(prompts) if p.split == HELDOUT), key=lambda i: hash_share(prompts[i].id)):
        if not room.take(prompts[i]):
            found[i] = prompts[i].rejected(f"is held out, and evaluate.heldout has no room for it ({_in_words(caps)})")
    return found


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
    return int.from_bytes(hashlib.sha256(identity.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64


def _by_share(config: RunConfig, prompts: Sequence[RawPrompt]) -> list[int]:
    """Indices of the prompts that the share holds out, smallest hashes first."""
    explicit = {p.source for p in prompts if p.split == HELDOUT}
    shares = {i: hash_share(p.id) for i, p in enumerate(prompts) if p.split is None}
    largest: dict[tuple[str, ...], int] = {}
    for i, share in shares.items():
        if share >= shares[largest.setdefault(prompts[i].domains, i)]:
            largest[prompts[i].domains] = i
    of_share = {i for i, s in shares.items() if s < config.evaluate.heldout.share and prompts[i].source not in explicit}
    return sorted(of_share - set(largest.values()), key=lambda i: shares[i])


class _Room:
    """What each domain may still hold out. The first prompt without room closes a domain: else the rest of its tokens
    would go to short answers."""

    def __init__(self, config: RunConfig) -> None:
        self._config, self._caps = config, config.evaluate.heldout
        self._policies = PolicyResolver(config)
        self._texts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._closed: set[str] = set()

    def take(self, prompt: RawPrompt) -> bool:
        """Hold a prompt out if all of its domains have room. Raises ValueError for answers that no room is enough
        for."""
        tokens, most = self._tokens_of(prompt), self._caps.max_tokens
        if most is not None and tokens > most:
            return False  # a given text; others have room
        full = {d for d in prompt.domains if self._is_full(d, tokens)}
        self._closed |= full
        for domain in prompt.domains if not full else ():
            self._texts[domain] += 1
            self._tokens[domain] += tokens
        return not full

    def _is_full(self, domain: str, tokens: int) -> bool:
        texts, most = self._caps.max_texts, self._caps.max_tokens
        return (
            domain in self._closed
            or (texts is not None and self._texts[domain] >= texts)
            or (most is not None and self._tokens[domain] + tokens > most)
        )

    def _tokens_of(self, prompt: RawPrompt) -> int:
        """Target tokens of a prompt's answers, as `max_tokens` counts them."""
        most = self._caps.max_tokens
        if most is None:
            return 0
        how = self._policies.of(prompt.source, prompt.domains)
        answers, each = answers_of(self._config, prompt, how, heldout=True)
        if answers * each > most and not is_given(self._config, prompt, heldout=True):
            domains = " and ".join(prompt.domains)
            raise ValueError(
                f"evaluate.heldout.max_tokens: {most:,}, but the answers to one prompt of {domains} "
                f"may have {answers * each:,} (max_new_tokens x evaluate.samples); give more, or null"
            )
        return answers * each


def _in_words(caps: HeldoutConfig) -> str:
    named = {"max_texts": caps.max_texts, "max_tokens": caps.max_tokens}
    return ", ".join(f"{name} {n:,}" for name, n in named.items() if n is not None)
