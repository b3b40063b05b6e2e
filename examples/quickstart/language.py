"""The quickstart's language: medical, legal and code prose over invented facts, with exact truth.

A text is a walk through its domain's grammar (`facts.toml`): fixed words, and slots chosen once each. The
first word of a choice names it, so whoever reads a prefix knows the whole state of the walk, and the
distribution of the next word is a table that can be written down: `truth`. One coroutine, `walk`, is both
the sampler and the judge; the first sends it words drawn at random, the second the words of a text.

The odds of a choice are log-linear: logits = sum over the slots it depends on of table[value, option]. The
tables are drawn by hashing names, so they are the same on every machine and with every library version.

Needs only numpy and the standard library, so that an evaluator may load this file by its path.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

FACTS: dict[str, dict] = tomllib.loads(Path(__file__).with_name("facts.toml").read_text(encoding="utf-8"))
DOMAINS = tuple(FACTS)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
Step = tuple[list[int], np.ndarray]  # ids of the possible next tokens, and their probabilities


def _vocabulary() -> tuple[str, ...]:
    """All words, specials first and the others in alphabetical order; a word's place is its id."""
    phrases = [FACTS[d]["text"] for d in DOMAINS]
    phrases += [option for d in DOMAINS for slot in FACTS[d]["slots"].values() for option in slot["options"]]
    words = {word for phrase in phrases for word in phrase.split() if not word.startswith("{")}
    return SPECIALS + tuple(sorted(words))


VOCABULARY = _vocabulary()
IDS = {word: i for i, word in enumerate(VOCABULARY)}
EOS = IDS["<eos>"]


def encode(text: str) -> list[int]:
    """Token ids of words joined by spaces; ValueError for a word the language does not have."""
    unknown = [word for word in text.split() if word not in IDS]
    if unknown:
        raise ValueError(f"words outside the language: {unknown}")
    return [IDS[word] for word in text.split()]


def decode(ids: Sequence[int]) -> str:
    """Words of token ids joined by single spaces, specials left out."""
    return " ".join(VOCABULARY[i] for i in ids if i >= len(SPECIALS))


def names(domain: str, slot: str) -> list[str]:
    """The first word of every option of a slot, in order: the option's name."""
    return [option.split()[0] for option in FACTS[domain]["slots"][slot]["options"]]


def _normal(key: str) -> float:
    """A standard normal number that depends on `key` alone."""
    digest = hashlib.sha256(key.encode()).digest()
    return NormalDist().inv_cdf((int.from_bytes(digest[:6], "big") + 0.5) / 2**48)


@cache
def tables(domain: str, slot: str) -> dict[str, np.ndarray]:
    """Logit tables of a slot: for each slot it depends on, an array [values of that slot, options].

    A slot that depends on nothing has one table under "" with a single row.
    """
    spec = FACTS[domain]["slots"][slot]
    options = names(domain, slot)
    on, sharp = spec.get("on") or [""], spec.get("sharp", 1.0)
    result = {}
    for given, scale in zip(on, sharp if isinstance(sharp, list) else [sharp] * len(on), strict=True):
        values = names(domain, given) if given else [""]
        draws = [[_normal(f"{domain}/{slot}/{option}/{given}/{v}") for option in options] for v in values]
        result[given] = scale * np.array(draws)
    if slot == FACTS[domain]["withheld"]["slot"]:
        _place_withheld(domain, result)
    return result


# Log-odds of the withheld word against all other options: when no attribute speaks for it, and what each
# attribute that does adds. One voice leaves it a runner-up (about .2), two make it the first (about .7).
SILENT, VOICE = -3.6, 2.25


def _place_withheld(domain: str, result: dict[str, np.ndarray]) -> None:
    """Set the withheld word's column so that its log-odds follow its voices (still a sum of two tables)."""
    rule = FACTS[domain]["withheld"]
    place = names(domain, rule["slot"]).index(rule["word"])
    first, second = FACTS[domain]["attributes"]
    others = [np.delete(result[name], place, axis=1) for name in (first, second)]
    rest = np.log(np.exp(others[0][:, None] + others[1][None]).sum(-1))  # [first, second] log-normaliser
    voices = [np.array([v in rule[name] for v in names(domain, name)]) for name in (first, second)]
    result[first][:, place] = rest.mean(1) + SILENT + VOICE * voices[0]
    result[second][:, place] = rest.mean(0) - rest.mean() + VOICE * voices[1]


@cache
def chances(domain: str, slot: str, given: tuple[int, ...]) -> np.ndarray:
    """Probabilities [options] of a slot, given the option numbers of the slots it depends on, in order."""
    logits = sum(table[value] for table, value in zip(tables(domain, slot).values(), given, strict=True))
    odds = np.exp(logits - np.max(logits))
    return odds / odds.sum()


def walk(chosen: dict[str, int]) -> Generator[Step, int, None]:
    """Yield the distribution of each next token and take the token that came; ends after <eos>.

    `chosen` is filled with the option number of every slot as it is decided. A token without any
    probability raises ValueError; the walk is then over.
    """
    domains = [IDS[d] for d in DOMAINS]
    token = yield domains, np.full(len(domains), 1 / len(domains))
    if token not in domains:
        raise ValueError("a text begins with its domain")
    domain = DOMAINS[domains.index(token)]
    yield from _phrase(domain, FACTS[domain]["text"].split()[1:], chosen)
    yield from _fixed(EOS)


def _fixed(token: int) -> Generator[Step, int, None]:
    """A token that comes for sure."""
    came = yield [token], np.ones(1)
    if came != token:
        raise ValueError(f"expected {VOCABULARY[token]!r}, not {VOCABULARY[came]!r}")


def _phrase(domain: str, phrase: list[str], chosen: dict[str, int]) -> Generator[Step, int, None]:
    """Walk the words of a phrase; a slot met for the first time is chosen, later its choice is repeated."""
    for item in phrase:
        if not item.startswith("{"):
            yield from _fixed(IDS[item])
            continue
        slot = item.strip("{}")
        spec = FACTS[domain]["slots"][slot]
        known = slot in chosen
        if not known:
            heads = [IDS[name] for name in names(domain, slot)]
            given = tuple(chosen[name] for name in spec["on"]) if "on" in spec else (0,)
            token = yield heads, chances(domain, slot, given)
            if token not in heads:
                raise ValueError(f"{VOCABULARY[token]!r} is no {slot}")
            chosen[slot] = heads.index(token)
        option = spec["options"][chosen[slot]].split()
        yield from _phrase(domain, option if known else option[1:], chosen)


def sample(domain: str, rng: random.Random, fixed: dict[str, str] | None = None) -> list[int]:
    """Draw one text, ending in <eos>; `fixed` gives the names of options to take instead of drawing."""
    forced = {slot: names(domain, slot).index(name) for slot, name in (fixed or {}).items()}
    chosen: dict[str, int] = dict(forced)
    tokens: list[int] = []
    steps = _forced_walk(domain, chosen, forced)
    try:
        ids, odds = next(steps)
        while True:
            tokens.append(rng.choices(ids, weights=odds.tolist())[0])
            ids, odds = steps.send(tokens[-1])
    except StopIteration:
        return tokens


def _forced_walk(domain: str, chosen: dict[str, int], forced: dict[str, int]) -> Generator[Step, int, None]:
    """The walk of one domain in which the slots of `forced` count as already chosen (so they are fixed)."""
    yield from _fixed(IDS[domain])
    yield from _phrase(domain, FACTS[domain]["text"].split()[1:], chosen)
    yield from _fixed(EOS)


def truth(domain: str, token_ids: Sequence[int], start: int) -> np.ndarray:
    """True next-token distributions, float64 [len(token_ids) - start, len(VOCABULARY)].

    Row i is the distribution of token_ids[start + i] given token_ids[:start + i]. The text's own first
    word decides its grammar, so a text listed under two domains has one truth; `domain` is only checked.

    A prefix token_ids[:start] that the language cannot produce is a ValueError. If a later token is
    impossible (a teacher is never perfect), its own row is still exact, and every row after it is NaN;
    rows after the end token are NaN too. An evaluator skips NaN rows and counts them.
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; the language has {DOMAINS}")
    if not 0 <= start <= len(token_ids):
        raise ValueError(f"start {start} lies outside a text of {len(token_ids)} tokens")
    if any(not 0 <= token < len(VOCABULARY) for token in token_ids):
        raise ValueError("token ids lie outside the vocabulary")
    rows = np.full((len(token_ids) - start, len(VOCABULARY)), np.nan)
    steps = walk({})
    ids, odds = next(steps)
    for place, token in enumerate(token_ids):
        if place >= start:
            rows[place - start] = 0.0
            rows[place - start, ids] = odds
        try:
            ids, odds = steps.send(int(token))
        except (StopIteration, ValueError) as off:
            # Ending is fine at <eos> alone; an impossible token in the prompt is the caller's mistake.
            if place < start:
                raise ValueError(f"the language cannot produce this prefix: token {place}: {off}") from None
            break
    return rows


def choices(token_ids: Sequence[int]) -> dict[str, str]:
    """Names of the options a text, or the beginning of one, has chosen: {slot: first word of option}."""
    chosen: dict[str, int] = {}
    steps = walk(chosen)
    next(steps)
    for token in token_ids:
        try:
            steps.send(int(token))
        except StopIteration:
            break
    domain = VOCABULARY[token_ids[0]]
    return {slot: names(domain, slot)[option] for slot, option in chosen.items()}


def prompt_length(token_ids: Sequence[int]) -> int:
    """Tokens of a text up to the end of its prompt, the second colon."""
    colon = IDS[":"]
    return [place for place, token in enumerate(token_ids) if token == colon][1] + 1
