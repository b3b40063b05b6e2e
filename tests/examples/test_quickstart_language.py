"""The quickstart's language, prompts and committed teacher are what the example says they are."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def load(name: str) -> ModuleType:
    """A module of the example by its path, as the evaluator loads it."""
    spec = importlib.util.spec_from_file_location(f"quickstart_{name}", QUICKSTART / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


language = load("language")
FILES = {
    domain: [json.loads(line) for line in (QUICKSTART / "prompts" / f"{domain}.jsonl").open(encoding="utf-8")]
    for domain in language.DOMAINS
}
PROBES = [json.loads(line) for line in (QUICKSTART / "prompts" / "probes.jsonl").open(encoding="utf-8")]
each_domain = pytest.mark.parametrize("domain", language.DOMAINS)


def sound_rows(domain: str, *, heldout: bool) -> list[dict]:
    """Rows of a domain's file that are not broken on purpose, of one split."""
    rows = [row for row in FILES[domain] if not row["id"].startswith("broken")]
    return [row for row in rows if (row.get("split") == "heldout") == heldout]


def attributes(row: dict) -> tuple[str, ...]:
    """The pair of attributes a prompt names."""
    ids = language.encode(row["prompt"])
    chosen = language.choices(ids)
    return tuple(chosen[name] for name in language.FACTS[language.VOCABULARY[ids[0]]]["attributes"])


@each_domain
def test_truth_rows_are_distributions_that_allow_what_came(domain: str) -> None:
    rng = random.Random(1)
    for _ in range(50):
        text = language.sample(domain, rng)
        rows = language.truth(domain, text, 0)
        assert rows.shape == (len(text), len(language.VOCABULARY)) and rows.dtype == np.float64
        np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-12)
        assert (rows >= 0).all() and (rows[np.arange(len(text)), text] > 0).all()
        assert text[-1] == language.EOS and len(text) <= 80
        assert 8 <= language.prompt_length(text) <= 20


@each_domain
def test_sampler_follows_the_truth(domain: str) -> None:
    """Counts of every slot's options agree with the truth summed over the texts that chose the slot."""
    rng = random.Random(2)
    first, second = language.FACTS[domain]["attributes"]
    pair = {first: language.names(domain, first)[3], second: language.names(domain, second)[4]}
    texts = [language.sample(domain, rng, pair) for _ in range(600)]
    texts += [language.sample(domain, rng) for _ in range(600)]
    came, expected, variance = (np.zeros(len(language.VOCABULARY)) for _ in range(3))
    for text in texts:
        start = language.prompt_length(text)
        rows = language.truth(domain, text, start)
        np.add.at(came, text[start:], 1)
        expected += rows.sum(0)
        variance += (rows * (1 - rows)).sum(0)
    uncertain = variance > 5
    z = (came - expected)[uncertain] / np.sqrt(variance[uncertain])
    assert uncertain.sum() > 60
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(came[variance == 0], expected[variance == 0])


@each_domain
def test_answer_odds_are_log_linear_in_the_two_attributes(domain: str) -> None:
    rule = language.FACTS[domain]["withheld"]
    logs = np.log([[language.chances(domain, rule["slot"], (i, j)) for j in range(10)] for i in range(12)])
    odds = logs - logs[..., :1]
    mixed = odds - odds[:1] - odds[:, :1] + odds[:1, :1]
    np.testing.assert_allclose(mixed, 0.0, atol=1e-9)


def test_truth_off_the_grammar() -> None:
    text = language.encode("medical : a child with marsh fever and weak pulse asks for help ; treatment :")
    wrong = language.IDS["semaphore"]
    rows = language.truth("medical", [*text, wrong, wrong], len(text))
    assert np.isclose(rows[0].sum(), 1.0) and rows[0, wrong] == 0 and np.isnan(rows[1]).all()
    whole = language.sample("code", random.Random(3))
    after = language.truth("code", [*whole, language.EOS], len(whole) - 1)
    assert after[0, language.EOS] == 1.0 and np.isnan(after[1]).all()
    for domain, ids, start in [
        ("cooking", text, 0),
        ("medical", [*text, wrong, wrong], len(text) + 1),
        ("medical", text, len(text) + 1),
        ("medical", [-1], 0),
    ]:
        with pytest.raises(ValueError):
            language.truth(domain, ids, start)


@each_domain
def test_withheld_word_is_absent_from_training_but_a_frequent_runner_up(domain: str) -> None:
    rule = language.FACTS[domain]["withheld"]
    places = [language.names(domain, name).index for name in language.FACTS[domain]["attributes"]]
    word = language.names(domain, rule["slot"]).index(rule["word"])
    chances = []
    for row in sound_rows(domain, heldout=False):
        assert rule["word"] not in (row["prompt"] + " " + row.get("answer", "")).split()
        pair = attributes(row)
        odds = language.chances(domain, rule["slot"], tuple(p(v) for p, v in zip(places, pair, strict=True)))
        assert odds.argmax() != word
        chances.append(odds[word])
    assert np.mean(np.array(chances) > 0.05) > 0.3  # it is seen at .05 and more in many contexts
    assert np.mean(chances) < 0.2  # and few sampled rows are lost for it


def test_heldout_prompts_share_no_pair_or_phrasing_with_training() -> None:
    for domain in language.DOMAINS:
        unseen = language.FACTS[domain]["heldout_phrasing"]
        trained = {attributes(row) for row in sound_rows(domain, heldout=False)}
        held = sound_rows(domain, heldout=True)
        assert 40 <= len(held) <= 60 and all("answer" not in row for row in held)
        for row in sound_rows(domain, heldout=False):
            assert language.choices(language.encode(row["prompt"]))["phrasing"] != unseen
        for row in held:
            phrasing = language.choices(language.encode(row["prompt"]))["phrasing"]
            assert phrasing == unseen or attributes(row) not in trained
        every = 12 * 10
        assert 0.75 * every <= len(trained) <= 0.85 * every


def test_probes_have_the_withheld_word_as_their_true_first_answer() -> None:
    trained = {(domain, *attributes(row)) for domain in FILES for row in sound_rows(domain, heldout=False)}
    for row in PROBES:
        ids = language.encode(row["prompt"])
        last = language.truth(row["domain"], [*ids, language.EOS], len(ids))[0]
        assert row["answer"] == language.FACTS[row["domain"]]["withheld"]["word"]
        assert last.argmax() == language.IDS[row["answer"]] and last.max() >= 0.5
        assert (row["domain"], *attributes(row)) not in trained
    assert min(Counter(row["domain"] for row in PROBES).values()) >= 3


def test_items_of_tasks_have_one_answer_that_is_likelier_than_not() -> None:
    rows = [json.loads(line) for line in (QUICKSTART / "prompts" / "tasks.jsonl").read_text().splitlines()]
    assert set(Counter(row["domain"] for row in rows).values()) == {150}
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    trained = {(domain, *attributes(row)) for domain in FILES for row in sound_rows(domain, heldout=False)}
    for row in rows:
        ids = language.encode(row["prompt"])
        odds = language.truth(row["domain"], [*ids, language.EOS], len(ids))[0]
        choices = [language.IDS[word] for word in row["choices"]]
        assert len(set(choices)) == 4 and (odds[choices] > 0).all(), "any of them may come"
        assert odds.argmax() == language.IDS[row["answer"]] and odds.max() > 0.5
        unseen = language.FACTS[row["domain"]]["heldout_phrasing"]
        phrasing = language.choices(ids)["phrasing"]
        assert phrasing == unseen or (row["domain"], *attributes(row)) not in trained


def test_variants_have_another_answer_just_where_their_edit_says_so() -> None:
    rows = [json.loads(line) for line in (QUICKSTART / "prompts" / "parrot.jsonl").read_text().splitlines()]
    assert Counter((row["domain"], row["slots"]["text"]["edit"]) for row in rows) == {
        (domain, edit): 50 for domain in language.DOMAINS for edit in ("entity", "names")
    }
    trained = {(domain, *attributes(row)) for domain in FILES for row in sound_rows(domain, heldout=False)}
    for row in rows:
        texts, likeliest = row["slots"]["text"]["values"], []
        for text in texts:
            ids = language.encode(text)
            odds = language.truth(row["domain"], [*ids, language.EOS], len(ids))[0]
            assert odds.max() > 0.5 and (odds[[language.IDS[word] for word in row["choices"]]] > 0).all()
            likeliest.append(language.VOCABULARY[odds.argmax()])
        assert row["answer"] == {"text": dict(zip(texts, likeliest, strict=True))}
        assert (likeliest[0] == likeliest[1]) == (row["slots"]["text"]["edit"] == "names") and texts[0] != texts[1]
        assert set(likeliest) <= set(row["choices"]) and len(set(row["choices"])) == 4
        assert (row["domain"], *attributes({"prompt": texts[0]})) in trained


def test_given_answers_and_shared_rows_are_texts_of_the_language() -> None:
    for domain in language.DOMAINS:
        given = [row for row in sound_rows(domain, heldout=False) if "answer" in row]
        assert given
        for row in given:
            ids = [*language.encode(row["prompt"] + " " + row["answer"]), language.EOS]
            assert np.isfinite(language.truth(domain, ids, 0)).all()
    shared = [row for row in FILES["legal"] if "domain" in row]
    assert shared and all(row["domain"] == ["medical", "legal"] for row in shared)
    assert [row["id"].startswith("broken") for row in FILES["code"]].count(True) == 3


def test_prompts_are_reproduced_byte_for_byte(tmp_path: Path) -> None:
    script = [sys.executable, str(QUICKSTART / "make_prompts.py"), "--out", str(tmp_path)]
    subprocess.run(script, check=True, timeout=60)
    for path in sorted((QUICKSTART / "prompts").glob("*.jsonl")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
        assert path.stat().st_size < 300_000


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A model this small is slower on several threads, by far on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_committed_teacher_is_small_and_close_to_the_truth() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    weights = list((QUICKSTART / "teacher").glob("*.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) <= 12e6
    tokenizer = transformers.AutoTokenizer.from_pretrained(QUICKSTART / "teacher")
    teacher = transformers.AutoModelForCausalLM.from_pretrained(QUICKSTART / "teacher", dtype=torch.float32)
    assert next(teacher.parameters()).dtype == torch.float32 and teacher.config.num_experts == 8
    rng = random.Random(4)
    for domain in language.DOMAINS:
        texts = [language.sample(domain, rng) for _ in range(40)]
        for text in texts:
            words = language.decode(text)
            assert tokenizer(words).input_ids == text[:-1] and tokenizer.decode(text[:-1]) == words
        longest = max(map(len, texts))
        padded = torch.tensor([text + [0] * (longest - len(text)) for text in texts])  # causal: no mask needed
        with torch.no_grad():
            predicted = torch.log_softmax(teacher(input_ids=padded).logits.double(), dim=-1).numpy()
        excess, tokens = 0.0, 0
        for text, logs in zip(texts, predicted, strict=True):
            start = language.prompt_length(text)
            true = language.truth(domain, text, start)
            logs = logs[start - 1 : len(text) - 1]
            excess += float(np.sum(true * (np.log(np.where(true > 0, true, 1.0)) - logs)))
            tokens += len(true)
        assert 0 <= excess / tokens < 0.02, domain
