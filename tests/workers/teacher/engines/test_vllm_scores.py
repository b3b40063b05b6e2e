"""What is made of vLLM's log-probabilities, and how texts are walked through: no vLLM is needed for either."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.comparing.borders import same_head, same_on_grid
from support.comparing.tolerances import of_capture

from workers.targets.encoding.scalars import PROBABILITIES
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.row_capture import RowCapture
from workers.teacher.engines.vllm_scores import expected, kept_of_scores, scores, scores_suffice, tails
from workers.teacher.engines.vllm_settings import engine_arguments
from workers.teacher.sampling.capture import CaptureBuffer

V, K = 40, 5
TOPK = CaptureSpec("topk", 21, "answer", "float32", V, 3, top_k=K)


def asked_of(logp_TV: np.ndarray, tokens_T: list[int]) -> tuple[list[int], list[float]]:
    """What vLLM answers: of each position the token there, then the K most probable ids."""
    order_TK = np.argsort(-logp_TV, axis=1)[:, :K]
    ids = [i for t, top in zip(tokens_T, order_TK, strict=True) for i in (t, *top.tolist())]
    positions = np.repeat(np.arange(len(tokens_T)), K + 1)
    return ids, logp_TV[positions, ids].astype(np.float32).tolist()


@pytest.fixture
def logits_TV() -> torch.Tensor:
    return 3 * torch.randn(200, V, generator=torch.Generator().manual_seed(0))


def test_scores_give_the_same_top_k_as_the_logits(logits_TV: torch.Tensor) -> None:
    tokens = (np.arange(200) * 7 % V).tolist()
    request = TextRequest("p", 0, [0], tokens)
    rows, positions = np.zeros(200, np.int64), np.arange(1, 201)
    ours, theirs = CaptureBuffer([request], TOPK), CaptureBuffer([request], TOPK)
    ours.add(rows, positions, logits_TV, torch.tensor(tokens))
    logp_TV = logits_TV.double().log_softmax(-1).numpy()
    asked = scores(*asked_of(logp_TV, tokens), K)
    theirs.add_kept(rows, positions, kept_of_scores(*asked, theirs.uniforms(rows, positions)))
    a, b = (x.finish([[0, *tokens]], [1]) for x in (ours, theirs))
    for found in (a, b):  # a code's coin belongs to a place among the head's ids, whose order is not the same
        same_head(found.draws[0], found.tail, np.exp(logp_TV), K, of_capture(np.abs(logp_TV).max()))
    same_on_grid(a.token_logprob, b.token_logprob, "token_logprob")


def test_the_entropy_is_that_of_the_head_and_the_rest_as_one() -> None:
    p = np.array([[0.5, 0.25, 0.125, 0.0625, 0.03125], [1, 0, 0, 0, 0]])
    with np.errstate(divide="ignore"):
        logp = np.log(np.concatenate([p[:, :1], p], 1))
    ids = np.tile(np.arange(K + 1), (2, 1))
    many = 4000
    uniforms = np.random.default_rng(0).random((2 * many, 4))
    kept = kept_of_scores(np.tile(ids, (many, 1)), np.tile(logp, (many, 1)), uniforms)
    six = np.append(p[0], 0.03125)
    mean = kept.entropy.reshape(many, 2).mean(0)
    np.testing.assert_allclose(mean, [-(six * np.log(six)).sum(), 0], atol=2e-3)
    np.testing.assert_allclose(PROBABILITIES[kept.tail.reshape(many, 2)].mean(0), [0.03125, 0], atol=1e-5)


def test_a_tail_is_never_negative() -> None:
    assert tails(np.array([[0.6, 0.4000001], [0.5, 0.25]])).tolist() == [0, 0.25]


def test_expected_frequencies_add_up_heads() -> None:
    ids, logp = np.array([[9, 1, 2], [9, 2, 3]]), np.log([[0.1, 0.5, 0.25], [0.1, 0.75, 0.125]])
    np.testing.assert_allclose(expected(ids, logp, 5), [0, 0.5, 1, 0.125, 0])


def test_scores_suffice_only_for_plain_top_k_over_all_ids() -> None:
    assert scores_suffice(TOPK, V)
    for other in ({"scheme": "systematic"}, {"temperature": 2.0}, {"always": (3,)}, {"vocabulary": V - 1}):
        assert not scores_suffice(dataclasses.replace(TOPK, **other), V), other


# Walking ----------------------------------------------------------------------------------------------------


def test_known_tokens_are_walked_through_and_then_new_ones_are_chosen(logits_TV: torch.Tensor) -> None:
    spec = dataclasses.replace(TOPK, scheme="full", top_k=0)
    requests = [TextRequest("given", 0, [1], [4, 5]), TextRequest("asked", 0, [1, 2], None, max_new_tokens=3)]
    capture = RowCapture(requests, spec, {0}, [1, 1])
    made = [[1], [1]]
    for step in range(2):
        tokens = capture.next_tokens(np.array([0, 1]), np.array([step, step]), logits_TV[2 * step : 2 * step + 2])
        for text, token in zip(made, tokens.tolist(), strict=True):
            text.append(token)
    assert made[0] == [1, 4, 5] and made[1][:2] == [1, 2]
    alone = RowCapture(requests, spec, {0}, [1, 2])
    assert alone.next_tokens(np.array([1]), np.array([0]), logits_TV[3:4]).tolist() == made[1][2:]
    targets = capture.buffer.finish(made, [1, 1])
    expected = logits_TV[[0, 2, 1, 3]].log_softmax(-1).numpy()
    np.testing.assert_allclose(
        targets.logprobs.reshape(-1, V), expected, rtol=0, atol=of_capture(np.abs(expected).max())
    )


def test_a_position_that_comes_twice_counts_once_and_what_is_beyond_the_end_not(logits_TV: torch.Tensor) -> None:
    """vLLM shows a prompt's row after each piece of the prompt, and runs on for a step after an end."""
    request = TextRequest("p", 0, [1], [4, 5])
    once, again = CaptureBuffer([request], TOPK), CaptureBuffer([request], TOPK)
    once.add(np.zeros(2, int), np.array([1, 2]), logits_TV[:2], torch.tensor([4, 5]))
    again.add(np.zeros(2, int), np.array([1, 2]), logits_TV[5:7], torch.tensor([4, 5]))
    again.add(np.zeros(2, int), np.array([1, 2]), logits_TV[:2], torch.tensor([4, 5]))
    two = again.finish([[1, 4]], [1])
    assert two.lengths.tolist() == [2] and len(two.entropy) == 1
    assert again.finish([[1, 4, 5]], [1]).content_hash() == once.finish([[1, 4, 5]], [1]).content_hash()


# Settings ---------------------------------------------------------------------------------------------------


def test_what_vllm_is_told() -> None:
    config = TeacherConfig(
        model="m", engine="vllm", batch=8, vllm={"tensor_parallel": 2, "engine_kwargs": {"max_model_len": 99}}
    )
    told = engine_arguments(config, "folder", device="cuda", experts=16)
    assert told["max_num_seqs"] == 8 and told["tensor_parallel_size"] == 2 and told["max_model_len"] == 99
    assert told["enable_expert_parallel"] is True and told["dtype"] == "bfloat16"
    dense = engine_arguments(config, "folder", device="cpu", experts=0)
    assert dense["enable_expert_parallel"] is False and dense["dtype"] == "float32"
