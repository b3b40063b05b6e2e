"""The engine in one process: what it captures while it generates is what scoring the same text gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.borders import draw_offsets, probabilities, same_draws, same_texts
from support.comparing.tolerances import in_float64, of_capture, unit_roundoff

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine

V = 300
EOS = 1
FULL = CaptureSpec("full", 21, "answer", "float32", V, 11)
SYSTEMATIC = CaptureSpec("systematic", 21, "answer", "float32", V, 11)


@pytest.fixture(scope="module")
def engine(tiny_moe: Path) -> TransformersEngine:
    """In float64, so that nothing but what is tested would change a text."""
    return engine_of(tiny_moe, batch=32)


def engine_of(model: Path, **settings: Any) -> TransformersEngine:
    made = TransformersEngine(TeacherConfig(model=str(model), **settings))
    in_float64(made.model)
    return made


def requests(n: int = 7, new_tokens: int = 10, **fields: Any) -> list[TextRequest]:
    """Prompts of unequal lengths, to be answered."""
    rng = np.random.default_rng(0)
    return [
        TextRequest(
            f"p{i}", i % 2, rng.integers(3, V, 2 + (5 * i) % 9).tolist(), None, max_new_tokens=new_tokens, **fields
        )
        for i in range(n)
    ]


def texts(targets: UnitTargets) -> list[list[int]]:
    return [t.tolist() for t in np.split(targets.tokens, np.cumsum(targets.lengths)[:-1])]


def given(asked: list[TextRequest], targets: UnitTargets) -> list[TextRequest]:
    """The same texts as requests to score."""
    return [
        dataclasses.replace(r, answer_token_ids=text[len(r.prompt_token_ids) :])
        for r, text in zip(asked, texts(targets), strict=True)
    ]


def assert_same(mine: UnitTargets, other: UnitTargets, asked: list[TextRequest], spec: CaptureSpec = FULL) -> None:
    """The same texts and the same distributions."""
    tolerance = of_capture(np.abs(other.logprobs).max())
    both = same_texts(mine, other, asked, spec, tolerance)
    found = [t.logprobs.reshape(-1, V)[seen] for t, seen in zip((mine, other), both, strict=True)]
    np.testing.assert_allclose(*found, rtol=0, atol=tolerance)


def with_positions(spec: CaptureSpec, positions: str) -> CaptureSpec:
    return dataclasses.replace(spec, positions=positions)  # type: ignore[arg-type]


# Capture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_generating_and_scoring_capture_the_same(positions: str, engine: TransformersEngine) -> None:
    spec = with_positions(FULL, positions)
    made = engine.run(requests(), spec)
    scored = engine.run(given(requests(), made), spec)
    assert texts(scored) == texts(made)
    tolerance = of_capture(np.abs(made.logprobs).max())
    for name in ("logprobs", "token_logprob", "entropy"):  # the last is a mean of log-probabilities
        np.testing.assert_allclose(getattr(made, name), getattr(scored, name), rtol=0, atol=tolerance, err_msg=name)
    assert made.texts == scored.texts and np.array_equal(made.ends, scored.ends)


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_captured_distributions_are_those_of_the_model(positions: str, engine: TransformersEngine) -> None:
    """Against one plain forward pass over each text."""
    made = engine.run(requests(), with_positions(FULL, positions))
    logp, token_logprob, entropy = [], [], []
    for r, text in zip(requests(), texts(made), strict=True):
        first = len(r.prompt_token_ids) if positions == "answer" else 1
        logp_SV = engine.model(torch.tensor([text])).logits[0].detach().double().log_softmax(-1)[first - 1 : -1]
        logp.append(logp_SV)
        token_logprob.append(logp_SV.gather(1, torch.tensor(text)[first:, None])[:, 0])
        entropy.append(-(logp_SV.exp() * logp_SV).sum(-1))
    tolerance = of_capture(np.abs(made.logprobs).max())
    exact = {
        "logprobs": torch.cat(logp).flatten(),
        "token_logprob": torch.cat(token_logprob),
        "entropy": torch.cat(entropy),
    }
    for name, values in exact.items():
        np.testing.assert_allclose(getattr(made, name), values.numpy(), rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("answered", [True, False], ids=["given", "asked"])
def test_target_positions(answered: bool, engine: TransformersEngine) -> None:
    asked = requests()
    work = given(asked, engine.run(asked, SYSTEMATIC)) if answered else asked
    for positions, starts in (("answer", [len(r.prompt_token_ids) for r in asked]), ("all", [1] * len(asked))):
        targets = engine.run(work, with_positions(SYSTEMATIC, positions))
        assert targets.starts.tolist() == starts
        T = int(targets.target_lengths.sum())
        assert len(targets.entropy) == len(targets.token_logprob) == len(targets.num_kept) == T
        assert int(targets.num_kept.sum()) == len(targets.ids) == len(targets.counts)
        assert int(targets.counts.sum()) == 21 * T


def test_sampled_targets_are_a_sample_of_the_full_ones(engine: TransformersEngine) -> None:
    """Counts are floor or ceil of N p, and the same text is drawn alike when it is scored again."""
    asked = requests()
    drawn, full = engine.run(asked, SYSTEMATIC), engine.run(asked, FULL)
    assert texts(drawn) == texts(full)
    tolerance = of_capture(np.abs(full.logprobs).max())
    share_TV = 21 * probabilities(full, V)
    counts_TV = np.zeros_like(share_TV)
    counts_TV[np.repeat(np.arange(len(drawn.num_kept)), drawn.num_kept), drawn.ids] = drawn.counts
    off = 21 * tolerance
    assert (counts_TV >= np.floor(share_TV - off)).all() and (counts_TV <= np.ceil(share_TV + off)).all()
    again = engine.run(given(asked, drawn), SYSTEMATIC)
    offset_T = draw_offsets(asked, drawn, SYSTEMATIC)[:, 0]
    assert same_draws(again.draws[0], drawn.draws[0], share_TV / 21, offset_T, 21, tolerance) > 0.9


def test_distributions_are_over_the_tokenizers_ids_only(save_model: Callable[..., Path]) -> None:
    """A model padded beyond its tokenizer: nothing captured, nothing sampled, and mass 1 on what remains."""
    padded = engine_of(save_model("qwen3_moe", vocab_size=384))
    targets = padded.run(requests(3), FULL)
    assert targets.tokens.max() < V
    mass_T = np.exp(targets.logprobs.reshape(-1, V).astype(np.float64)).sum(-1)
    np.testing.assert_allclose(mass_T, 1, atol=of_capture(np.abs(targets.logprobs).max()))


def test_half_precision_is_what_the_store_asks_for(engine: TransformersEngine) -> None:
    half = engine.run(requests(2), dataclasses.replace(FULL, precision="float16"))
    assert half.logprobs.dtype == np.float16
    whole = engine.run(requests(2), FULL)
    # The same computation twice, then rounded to eleven bits.
    np.testing.assert_allclose(half.logprobs, whole.logprobs, rtol=unit_roundoff(torch.float16), atol=1e-7)


def test_the_capture_is_at_temperature_1_whatever_the_sampling(engine: TransformersEngine) -> None:
    cold = requests(4, temperature=0.0, top_p=0.5)
    made = engine.run(cold, FULL)
    scored = engine.run(given(cold, made), FULL)
    tolerance = of_capture(np.abs(made.logprobs).max())
    np.testing.assert_allclose(made.logprobs, scored.logprobs, rtol=0, atol=tolerance)


# Texts ------------------------------------------------------------------------------------------------------


def test_greedy_text_is_the_most_probable_token_each_time(engine: TransformersEngine) -> None:
    targets = engine.run(requests(4, temperature=0.0), FULL)
    answers = np.concatenate([t[s:] for t, s in zip(texts(targets), targets.starts, strict=True)])
    logp_TV = targets.logprobs.reshape(-1, V)
    missed_T = logp_TV.max(-1) - logp_TV[np.arange(len(logp_TV)), answers]
    assert missed_T.max() <= of_capture(np.abs(logp_TV).max())


def test_the_end_of_text_token_ends_a_text(engine: TransformersEngine) -> None:
    """With an end token that the model often says (0 is what idle texts are fed, so it is no good here)."""
    usual = engine.run(requests(12, 24), SYSTEMATIC)
    answers = [t[s:] for t, s in zip(texts(usual), usual.starts, strict=True)]
    often = max({t for a in answers for t in a} - {0}, key=lambda t: sum(t in a for a in answers))
    before, engine.stop_ids = engine.stop_ids, {often}
    try:
        stopped = engine.run(requests(12, 24), SYSTEMATIC)
    finally:
        engine.stop_ids = before
    ended = 0
    for usual_answer, text, start in zip(answers, texts(stopped), stopped.starts, strict=True):
        cut = usual_answer[: usual_answer.index(often) + 1] if often in usual_answer else usual_answer
        assert text[start:] == cut
        ended += len(cut) < 24
    assert ended > 0


def test_the_engine_knows_the_end_tokens(engine: TransformersEngine, save_model: Callable[..., Path]) -> None:
    assert engine.stop_ids == {EOS}
    assert engine.describe()["stop_ids"] == [EOS]
    assert TransformersEngine(TeacherConfig(model=str(save_model("qwen3_moe", eos_token_id=[7, 9])))).stop_ids == {
        1,
        7,
        9,
    }


@pytest.mark.parametrize("new_tokens", [1, 2, 5])
def test_no_answer_is_longer_than_asked(new_tokens: int, engine: TransformersEngine) -> None:
    targets = engine.run(requests(7, new_tokens), SYSTEMATIC)
    answer_lengths = targets.target_lengths
    assert answer_lengths.max() == new_tokens and answer_lengths.min() >= 1
    longer = texts(engine.run(requests(7, 10), SYSTEMATIC))
    for short, long in zip(texts(targets), longer, strict=True):
        assert long[: len(short)] == short


def test_prompts_are_kept_and_rows_are_in_the_order_of_requests(engine: TransformersEngine) -> None:
    asked = requests(9)
    mixed = [
        r if i % 2 else dataclasses.replace(r, answer_token_ids=[5, 6, EOS][: 1 + i % 3]) for i, r in enumerate(asked)
    ]
    targets = engine.run(mixed, SYSTEMATIC)
    assert targets.prompt_uids == [r.prompt_uid for r in mixed]
    assert targets.samples.tolist() == [r.sample for r in mixed]
    for r, text in zip(mixed, texts(targets), strict=True):
        assert text[: len(r.prompt_token_ids)] == r.prompt_token_ids
        if r.answer_token_ids is not None:
            assert text[len(r.prompt_token_ids) :] == r.answer_token_ids


def test_nothing_asked_is_nothing_made(engine: TransformersEngine) -> None:
    for spec in (SYSTEMATIC, FULL):
        targets = engine.run([], spec)
        assert targets.rows == 0 and targets.texts == [] and len(targets.tokens) == 0


def test_an_empty_answer_has_no_target(engine: TransformersEngine) -> None:
    targets = engine.run([dataclasses.replace(r, answer_token_ids=[]) for r in requests(2)], SYSTEMATIC)
    assert targets.target_lengths.tolist() == [0, 0]


# Batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_padding_does_not_change_a_text(positions: str, engine: TransformersEngine) -> None:
    """Unequal prompts in one batch, and one by one."""
    spec = with_positions(FULL, positions)
    alone = UnitTargets.join([engine.run([r], spec) for r in requests()])
    assert_same(engine.run(requests(), spec), alone, requests(), spec)


def test_a_request_is_answered_alike_in_any_company(engine: TransformersEngine, tiny_moe: Path) -> None:
    asked = requests(9)
    usual = dict(zip([r.prompt_uid for r in asked], texts(engine.run(asked, SYSTEMATIC)), strict=True))
    small = engine_of(tiny_moe, batch=2, score_tokens=8)
    for work, by in ((asked[::-1], engine), (asked[3:7], engine), (asked, small), (asked[::2], small)):
        targets = by.run(work, SYSTEMATIC)
        assert dict(zip(targets.prompt_uids, texts(targets), strict=True)) == {
            r.prompt_uid: usual[r.prompt_uid] for r in work
        }


@pytest.mark.parametrize("score_tokens", [1, 25, 60])
def test_scores_do_not_depend_on_the_size_of_batches(
    score_tokens: int, engine: TransformersEngine, tiny_moe: Path
) -> None:
    work = given(requests(), engine.run(requests(), FULL))
    whole = engine.run(work, FULL)
    engine.config, before = engine.config.model_copy(update={"score_tokens": score_tokens}), engine.config
    try:
        parts = engine.run(work, FULL)
    finally:
        engine.config = before
    assert_same(parts, whole, work)


def test_samples_and_seeds_differ(engine: TransformersEngine) -> None:
    one = requests(1)[0]
    asked = [dataclasses.replace(one, sample=s) for s in range(4)]
    first = texts(engine.run(asked, SYSTEMATIC))
    assert len({tuple(t) for t in first}) > 1
    assert texts(engine.run(asked, SYSTEMATIC)) == first
    assert texts(engine.run(asked, dataclasses.replace(SYSTEMATIC, seed=12))) != first


def test_padding_does_not_change_a_text_of_absolute_positions(save_model: Callable[..., Path]) -> None:
    """GPT-2 learns an embedding for each position, so a padded prompt must be told where it begins."""
    engine = engine_of(save_model("gpt2"))
    alone = UnitTargets.join([engine.run([r], FULL) for r in requests()])
    assert_same(engine.run(requests(), FULL), alone, requests())


# Statistics -------------------------------------------------------------------------------------------------


@pytest.fixture
def first_tokens(engine: TransformersEngine) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Many samples of one position: the distribution [V], sampled tokens [n], drawn counts [n, V]."""
    n, prompt = 2000, requests(1)[0].prompt_token_ids
    asked = [TextRequest("p", sample, prompt, None, max_new_tokens=1) for sample in range(n)]
    targets = engine.run(asked, SYSTEMATIC)
    p_V = np.exp(engine.run(asked[:1], FULL).logprobs.astype(np.float64))
    counts_nV = np.zeros((n, V))
    counts_nV[np.repeat(np.arange(n), targets.num_kept), targets.ids] = targets.counts
    return p_V, np.array([t[-1] for t in texts(targets)]), counts_nV


def test_text_and_draws_follow_the_distribution_and_not_each_other(
    first_tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    p_V, tokens_n, counts_nV = first_tokens
    n = len(tokens_n)
    # Tokens: chi-square over ids expected 5 times, the others taken together.
    seen_V, often = np.bincount(tokens_n, minlength=V), p_V * n >= 5
    seen = np.append(seen_V[often], seen_V[~often].sum())
    expected = np.append(p_V[often], p_V[~often].sum()) * n
    freedom = len(seen) - 1
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)
    # Draws: the mean count of an id is N p, and its variance that of a coin.
    fraction_V = (21 * p_V) % 1
    z_V = (counts_nV.mean(0) - 21 * p_V) / np.sqrt(fraction_V * (1 - fraction_V) / n)
    assert np.abs(z_V[p_V * n > 1]).max() < 4.5
    # A token that was sampled is drawn neither more nor less often than otherwise.
    excess_n = counts_nV[np.arange(n), tokens_n] - 21 * p_V[tokens_n]
    assert abs(excess_n.mean()) < 4.5 * excess_n.std() / np.sqrt(n)


# Strings ----------------------------------------------------------------------------------------------------


def test_ends_cut_a_text_into_its_tokens(engine: TransformersEngine) -> None:
    targets = engine.run(requests(), SYSTEMATIC)
    ends = np.split(targets.ends, np.cumsum(targets.lengths)[:-1])
    for ids, text, own in zip(texts(targets), targets.texts, ends, strict=True):
        assert text.split() == engine.tokenizer.convert_ids_to_tokens(ids)
        assert own[-1] == len(text.encode())
        pieces = [text.encode()[a:b].decode() for a, b in zip([0, *own[:-1]], own, strict=True)]
        assert [p.strip() for p in pieces] == engine.tokenizer.convert_ids_to_tokens(ids)
        assert "".join(pieces) == text


def test_the_engine_says_what_it_holds(tiny_moe: Path) -> None:
    engine = TransformersEngine(TeacherConfig(model=str(tiny_moe)))
    facts = engine.describe()
    assert facts["weights_held"] == sum(p.numel() for p in engine.model.parameters())
    assert facts["dtype"] == "float32" and facts["device"] == "cpu"
