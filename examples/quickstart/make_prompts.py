"""Write the quickstart's prompts, from the language and a seed.

    python examples/quickstart/make_prompts.py [--out examples/quickstart/prompts] [--seed 0]

For every domain, `<domain>.jsonl`: prompts to be answered by the teacher, some rows whose answer is given
already (to be scored by the teacher only), and held-out prompts for the evaluation. Held out are pairs of
attributes (for example this disease with that state) and one phrasing. All pairs in which the withheld word
is the likeliest answer are held out, so a specialist can only have met that word as a runner-up.

`probes.jsonl` asks for the withheld word: prompts that end just before it, where it is truly the first.
`tasks.jsonl` asks for the likeliest word among four, where the language has one that is likelier than not: of texts of
held-out pairs and phrasings, the withheld word's included. `parrot.jsonl` asks so of what specialists train on, and
has a variant of each question (rows with a `template`).

A few malpractice notes are listed under both law and medicine, in the grammar of law. Three rows of the
code file are broken on purpose: a run rejects them and says why.
"""

from __future__ import annotations

import argparse
import json
import random
from itertools import product
from pathlib import Path

import language

HELDOUT_SHARE = 0.19  # of the pairs of attributes, in each domain
TRAINING_PROMPTS, GIVEN_ANSWERS = 360, 36  # a domain; the second are among the first
HELDOUT_PAIR_PROMPTS, HELDOUT_PHRASING_PROMPTS = 36, 16
SHARED_PROMPTS, PROBES = 8, 6
TASK_ITEMS, TASK_CHOICES, PARROT_ITEMS = 150, 4, 100
Pair = tuple[str, str]


def likeliest_withheld(domain: str) -> dict[Pair, float]:
    """Pairs of attributes in which the withheld word is the likeliest answer, and how likely it is there."""
    first, second = language.FACTS[domain]["attributes"]
    rule = language.FACTS[domain]["withheld"]
    place = language.names(domain, rule["slot"]).index(rule["word"])
    result = {}
    for (i, a), (j, b) in product(enumerate(language.names(domain, first)), enumerate(language.names(domain, second))):
        odds = language.chances(domain, rule["slot"], (i, j))
        if odds.argmax() == place:
            result[a, b] = float(odds[place])
    return result


def pairs(domain: str, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of attributes for training, and pairs held out."""
    first, second = language.FACTS[domain]["attributes"]
    every = list(product(language.names(domain, first), language.names(domain, second)))
    heldout = list(likeliest_withheld(domain))
    others = [pair for pair in every if pair not in heldout]
    random.Random(f"{seed}/{domain}/pairs").shuffle(others)
    heldout += others[: max(0, round(HELDOUT_SHARE * len(every)) - len(heldout))]
    return [pair for pair in every if pair not in heldout], heldout


def write_text(domain: str, pair: Pair, phrasing: str, rng: random.Random, keep: bool = False) -> list[str]:
    """The words of a text with these attributes, drawn again until free of the withheld word unless `keep`
    is set; the end token is left out."""
    fixed = dict(zip(language.FACTS[domain]["attributes"], pair, strict=True)) | {"phrasing": phrasing}
    while True:
        words = language.decode(language.sample(domain, rng, fixed)).split()
        if keep or language.FACTS[domain]["withheld"]["word"] not in words:
            return words


def split_words(words: list[str]) -> tuple[str, str]:
    """Prompt and answer of a text."""
    border = language.prompt_length([language.IDS[word] for word in words])
    return " ".join(words[:border]), " ".join(words[border:])


def training_rows(domain: str, seed: int) -> list[dict]:
    """Prompts over the training pairs and phrasings, each combination at most once; some with an answer."""
    rng = random.Random(f"{seed}/{domain}/training")
    phrasings = language.names(domain, "phrasing")
    phrasings.remove(language.FACTS[domain]["heldout_phrasing"])
    combinations = list(product(pairs(domain, seed)[0], phrasings))
    rng.shuffle(combinations)
    rows = []
    for number, (pair, phrasing) in enumerate(combinations[:TRAINING_PROMPTS]):
        prompt, answer = split_words(write_text(domain, pair, phrasing, rng))
        rows.append({"id": f"{domain}-{number:03d}", "prompt": prompt})
        if number >= TRAINING_PROMPTS - GIVEN_ANSWERS:
            rows[-1]["answer"] = answer
    return rows


def heldout_rows(domain: str, seed: int) -> list[dict]:
    """Held-out prompts: held-out pairs in known phrasings, then any pairs in the held-out phrasing."""
    rng = random.Random(f"{seed}/{domain}/heldout")
    training, heldout = pairs(domain, seed)
    unseen = language.FACTS[domain]["heldout_phrasing"]
    known = [name for name in language.names(domain, "phrasing") if name != unseen]
    combinations = [
        *rng.sample(list(product(heldout, known)), HELDOUT_PAIR_PROMPTS),
        *[(pair, unseen) for pair in rng.sample(training + heldout, HELDOUT_PHRASING_PROMPTS)],
    ]
    prompts = [split_words(write_text(domain, *c, rng, keep=True))[0] for c in combinations]
    return [
        {"id": f"{domain}-h{number:02d}", "prompt": prompt, "split": "heldout"} for number, prompt in enumerate(prompts)
    ]


def shared_rows(seed: int) -> list[dict]:
    """Malpractice notes for both law and medicine; the row's own list of domains counts, not the file's."""
    rng = random.Random(f"{seed}/shared")
    notes = [pair for pair in pairs("legal", seed)[0] if pair[0] == "careless"]
    rows = []
    for number in range(SHARED_PROMPTS):
        pair = notes[number % len(notes)]
        fixed = {"claim": pair[0], "evidence": pair[1], "phrasing": "case", "party": "patient"}
        if number >= len(notes):
            fixed["phrasing"] = "this"
        words = language.decode(language.sample("legal", rng, fixed)).split()
        rows.append({"id": f"shared-{number}", "prompt": split_words(words)[0], "domain": ["medical", "legal"]})
    return rows


def broken_rows() -> list[dict]:
    """Rows that a run must reject: no prompt, a prompt that is not text, and one far too long."""
    return [
        {"id": "broken-missing"},
        {"id": "broken-type", "prompt": 404},
        {"id": "broken-long", "prompt": "code : " + " ".join(["the build shows"] * 100)},
    ]


def probe_rows(domain: str, seed: int) -> list[dict]:
    """Prompts that end just before the withheld word, in pairs where it is the likeliest by far (>= .5).

    The phrasings take turns, the held-out one included; the answers' openings come as they were drawn.
    """
    rng = random.Random(f"{seed}/{domain}/probes")
    word = language.FACTS[domain]["withheld"]["word"]
    clear = [pair for pair, chance in likeliest_withheld(domain).items() if chance >= 0.5]
    phrasings = language.names(domain, "phrasing")
    rows = []
    for number, pair in enumerate(rng.sample(clear, PROBES)):
        words: list[str] = []
        while word not in words:
            words = write_text(domain, pair, phrasings[number % len(phrasings)], rng, keep=True)
        rows.append({"domain": domain, "prompt": " ".join(words[: words.index(word)]), "answer": word})
    return rows


def task_rows(domain: str, seed: int) -> list[dict]:
    """Questions with one right answer: the beginning of a text, and four words of which one comes next most probably.

    One in five asks for the slot that has the withheld word among its options, the others for any slot of the answer.
    """
    rng = random.Random(f"{seed}/{domain}/tasks")
    training, heldout = pairs(domain, seed)
    phrasings = language.names(domain, "phrasing")
    unseen = language.FACTS[domain]["heldout_phrasing"]
    answers = set(language.names(domain, language.FACTS[domain]["withheld"]["slot"]))
    rows: dict[str, dict] = {}
    while len(rows) < TASK_ITEMS:
        phrasing = rng.choice(phrasings)
        pair = rng.choice(training + heldout if phrasing == unseen else heldout)
        words = write_text(domain, pair, phrasing, rng, keep=True)
        places = _sure_places(domain, words, answers if len(rows) % 5 == 0 else None)
        if not places:
            continue
        place, likeliest, others = rng.choice(places)
        choices = [likeliest, *rng.sample(others, TASK_CHOICES - 1)]
        rng.shuffle(choices)
        prompt = " ".join(words[:place])
        rows.setdefault(prompt, {"domain": domain, "prompt": prompt, "choices": choices, "answer": likeliest})
    return [{"id": f"{domain}-t{number:03d}", **row} for number, row in enumerate(rows.values())]


def _sure_places(domain: str, words: list[str], among: set[str] | None) -> list[tuple[int, str, list[str]]]:
    """Places in the answer at which one word is likelier than all others together, with it and them; only those at
    which it is `among` some, if given."""
    ids = [language.IDS[word] for word in words]
    start, found = language.prompt_length(ids), []
    for place, odds in enumerate(language.truth(domain, ids, start), start):
        possible = [language.VOCABULARY[i] for i in odds.nonzero()[0]]
        likeliest = language.VOCABULARY[odds.argmax()]
        if len(possible) >= TASK_CHOICES and odds.max() > 0.5 and (among is None or likeliest in among):
            found.append((place, likeliest, [word for word in possible if word != likeliest]))
    return found


def parrot_rows(domain: str, seed: int) -> list[dict]:
    """Questions about facts that specialists train on, each with a variant: every other one with an attribute changed
    such that another answer is likeliest; the rest with something changed that no answer hangs on. Who has the rule
    answers both, who has the words only the first."""
    rng = random.Random(f"{seed}/{domain}/parrot")
    training, heldout = pairs(domain, seed)
    rule = language.FACTS[domain]
    phrasings = [name for name in language.names(domain, "phrasing") if name != rule["heldout_phrasing"]]
    rows: dict[str, dict] = {}
    while len(rows) < PARROT_ITEMS:
        edit = ("entity", "names")[len(rows) % 2]
        words = write_text(domain, rng.choice(training), rng.choice(phrasings), rng)
        places = _sure_places(domain, words, set(language.names(domain, rule["withheld"]["slot"])))
        if not places:
            continue
        place, likeliest, _ = places[0]
        prompt, slot = " ".join(words[:place]), rule["withheld"]["slot"]
        varied = _varied(domain, words[:place], edit, training + heldout, rng)
        if varied is None or prompt in rows or (varied[1] == likeliest) != (edit == "names"):
            continue
        others = [name for name in language.names(domain, slot) if name not in (likeliest, varied[1])]
        choices = sorted({likeliest, varied[1]}) + rng.sample(others, TASK_CHOICES - len({likeliest, varied[1]}))
        rng.shuffle(choices)
        rows[prompt] = {
            "domain": domain,
            "template": "{text}",
            "slots": {"text": {"values": [prompt, varied[0]], "edit": edit}},
            "answer": {"text": {prompt: likeliest, varied[0]: varied[1]}},
            "choices": choices,
        }
    return [{"id": f"{domain}-p{number:03d}", **row} for number, row in enumerate(rows.values())]


def _varied(domain: str, words: list[str], edit: str, among: list[Pair], rng: random.Random) -> tuple[str, str] | None:
    """The same beginning with another attribute (`entity`) or another word that no answer hangs on, and its likeliest
    next word, if that is likelier than all others together."""
    known, slot = language.choices(language.encode(" ".join(words))), language.FACTS[domain]["withheld"]["slot"]
    first, second = language.FACTS[domain]["attributes"]
    if edit == "entity":
        near = [p for p in among if (p[0] == known[first]) != (p[1] == known[second])]
        changed = dict(zip((first, second), rng.choice(near), strict=True))
    else:
        free = [s for s in known if s not in (first, second, "phrasing", "plan", slot)]
        if not free:
            return None
        name = rng.choice(free)
        changed = {name: rng.choice([o for o in language.names(domain, name) if o != known[name]])}
    ids = language.sample(domain, rng, known | changed)
    place = next((p for p in range(len(ids)) if slot in language.choices(ids[: p + 1])), None)
    if place is None:
        return None
    odds = language.truth(domain, ids[: place + 1], place)[0]
    if odds.max() <= 0.5:
        return None
    return language.decode(ids[:place]), language.VOCABULARY[odds.argmax()]


def write_rows(path: Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description="Write the quickstart's prompts.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "prompts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    extra = {"legal": shared_rows(args.seed), "code": broken_rows()}
    for domain in language.DOMAINS:
        rows = training_rows(domain, args.seed) + extra.get(domain, []) + heldout_rows(domain, args.seed)
        write_rows(args.out / f"{domain}.jsonl", rows)
    probes = [row for domain in language.DOMAINS for row in probe_rows(domain, args.seed)]
    write_rows(args.out / "probes.jsonl", probes)
    write_rows(args.out / "tasks.jsonl", [row for domain in language.DOMAINS for row in task_rows(domain, args.seed)])
    parrot = [row for domain in language.DOMAINS for row in parrot_rows(domain, args.seed)]
    write_rows(args.out / "parrot.jsonl", parrot)


if __name__ == "__main__":
    main()
