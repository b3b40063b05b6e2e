"""What is computed on a device is what float64 gives on a CPU, but for the device's float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.borders import draw_offsets, probabilities, same_draws, same_head, same_on_grid, same_texts
from support.comparing.tolerances import in_float64, of_chain, of_logits, unit_roundoff
from support.device.devices import DEVICES
from support.model_families import WORDS

from workers.student.config import LossConfig
from workers.student.losses.fused import HeadTargets, fused_loss
from workers.student.losses.objective import divergence_of
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.sampling.capture import CaptureBuffer

pytestmark = pytest.mark.parametrize("device", DEVICES)

T, D, V, K = 700, 16, 5_000, 9


def head_targets(kind: str, device: str, dtype: torch.dtype) -> HeadTargets:
    """Random targets: kept ids with or without a tail, or whole distributions."""
    generator = torch.Generator().manual_seed(1)
    hard_T, soft_T = (torch.rand(T, generator=generator).to(device, dtype) for _ in range(2))
    labels_T = torch.randint(V, (T,), generator=generator).to(device)
    if kind == "full":
        p_TV = torch.randn(T, V, generator=generator).softmax(-1).to(device, dtype)
        return HeadTargets(labels_T, hard_T, soft_T, None, p_TV)
    ids_TK = torch.rand(T, V, generator=generator).argsort(-1)[:, :K].to(device)
    w_TK = torch.rand(T, K + 1, generator=generator).softmax(-1).to(device, dtype)
    return HeadTargets(labels_T, hard_T, soft_T, ids_TK, w_TK[:, :K], w_TK[:, K] if kind == "topk" else None)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("sparse", LossConfig()),
        ("topk", LossConfig(divergence="reverse_kl")),
        ("full", LossConfig(divergence="jsd", beta=0.3)),
    ],
    ids=["sparse", "topk", "full"],
)
def test_losses_and_gradients(device: str, kind: str, loss: LossConfig) -> None:
    found = []
    for where, dtype in ((device, torch.float32), ("cpu", torch.float64)):
        generator = torch.Generator().manual_seed(0)
        leaves = [torch.randn(n, D, generator=generator).to(where, dtype).requires_grad_() for n in (T, V)]
        value = fused_loss(*leaves, None, head_targets(kind, where, dtype), divergence_of(loss))
        value.backward()
        found.append([value.detach(), *(x.grad for x in leaves)])
    for mine, exact in zip(*found, strict=True):
        # Four sums one after another: logits, softmax, over ids and over positions.
        tolerance = of_chain(4, V) * float(exact.abs().max())
        torch.testing.assert_close(mine.cpu().double(), exact, rtol=0, atol=tolerance)


def captured(spec: CaptureSpec, logits_nV: torch.Tensor) -> UnitTargets:
    """The targets of one text that meets these distributions."""
    n, device = len(logits_nV), logits_nV.device
    text = [0, *range(1, n + 1)]
    buffer = CaptureBuffer([TextRequest("text", 0, text[:1], text[1:])], spec)
    hidden_nH = logits_nV[:, :D].float()
    tokens_n = torch.tensor(text[1:], device=device)
    buffer.add(np.zeros(n, np.int64), np.arange(1, n + 1), logits_nV, tokens_n, hidden_nH)
    return buffer.finish([text], [1])


@pytest.mark.parametrize("scheme", ["systematic", "threshold", "multinomial", "topk", "hidden"])
def test_captures(device: str, scheme: Any) -> None:
    """What is kept of distributions, against the distributions in float64."""
    spec = CaptureSpec(scheme, 21, "answer", "float32", V, 3, top_k=K)
    logits_nV = 3 * torch.randn(60, V, generator=torch.Generator().manual_seed(0))
    found = captured(spec, logits_nV.to(device))
    logp_nV = logits_nV.double().log_softmax(-1).numpy()
    p_nV, largest = np.exp(logp_nV), float(np.abs(logp_nV).max())
    tolerance = 2 * 8 * unit_roundoff() * largest  # as of_capture, of logits that are given
    if scheme == "hidden":
        assert np.array_equal(found.hidden, logits_nV[:, :D].numpy().reshape(-1))
        np.testing.assert_allclose(found.entropy, -(p_nV * logp_nV).sum(1), rtol=0, atol=tolerance)
    elif scheme == "topk":
        same_head(found.draws[0], found.tail, p_nV, K, tolerance)
    elif scheme == "systematic":
        request = [TextRequest("text", 0, [0], list(range(1, 61)))]
        exact = captured(spec, logits_nV.double())
        offset_n = draw_offsets(request, exact, spec)[:, 0]
        assert same_draws(found.draws[0], exact.draws[0], p_nV, offset_n, 21, tolerance) > 0.9
    else:
        row_E = np.repeat(np.arange(60), found.num_kept)
        assert (p_nV[row_E, found.ids] > 0).all() and len(np.unique(row_E * V + found.ids)) == len(row_E)
    if scheme != "hidden":
        same_on_grid(found.entropy, captured(spec, logits_nV.double()).entropy, "entropy")


def test_answers_and_distributions_of_an_engine(device: str, save_model: Callable[..., Path]) -> None:
    """Answers in slots that fill and empty, and texts that are given, of a mixture in float32."""
    model = save_model("qwen3_moe")
    spec = CaptureSpec("full", 21, "all", "float32", WORDS, 5)
    rng = np.random.default_rng(1)
    asked = [
        TextRequest(f"p{i}", 0, rng.integers(3, WORDS, 2 + i % 5).tolist(), None, i % 2, max_new_tokens=8)
        for i in range(9)
    ]
    exact = TransformersEngine(TeacherConfig(model=str(model), batch=4))
    in_float64(exact.model)
    theirs = exact.run(asked, spec)
    engine = TransformersEngine(TeacherConfig(model=str(model), batch=4, dtype="float32"), device=device)
    mine = engine.run(asked, spec)
    tolerance = of_logits(np.abs(theirs.logprobs).max())
    both = same_texts(mine, theirs, asked, spec, tolerance)
    of_both = [t.logprobs.reshape(-1, WORDS)[seen] for t, seen in zip((mine, theirs), both, strict=True)]
    np.testing.assert_allclose(*of_both, rtol=0, atol=tolerance)
    texts = np.split(theirs.tokens, np.cumsum(theirs.lengths)[:-1])
    given = [
        dataclasses.replace(r, answer_token_ids=t[len(r.prompt_token_ids) :].tolist())
        for r, t in zip(asked, texts, strict=True)
    ]
    scored = engine.run(given, spec)
    np.testing.assert_allclose(probabilities(scored, WORDS), probabilities(theirs, WORDS), rtol=0, atol=tolerance)
