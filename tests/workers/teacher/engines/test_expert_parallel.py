"""A teacher over two processes is the teacher of one process: same logits, same texts, fewer weights on each rank."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.borders import same_on_grid, same_texts
from support.comparing.tolerances import of_logits
from support.model_families import HYBRIDS, MIXTURES, WORDS, as_parameters, is_long
from support.programs.ranks import run_ranks

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine

RANKS, V = 2, WORDS
FAMILIES = [*MIXTURES, *HYBRIDS]
DISPATCHES = ["all_to_all", "all_reduce"]
SPECS = {
    "answer": CaptureSpec("full", 21, "answer", "float32", V, 5),
    "all": CaptureSpec("systematic", 21, "all", "float32", V, 5),
}
Outcome = dict[str, np.ndarray]
Ranks = Callable[[bool], Path]
Alone = Callable[[str], TransformersEngine]


def requests() -> list[TextRequest]:
    """Prompts to answer at several lengths, at temperature 0 and 1 in turn, and given answers."""
    rng = np.random.default_rng(1)
    asked = [
        TextRequest(f"p{i}", 0, rng.integers(3, V, 2 + i % 5).tolist(), None, i % 2, max_new_tokens=8) for i in range(7)
    ]
    answers = [rng.integers(3, V, 1 + 3 * i).tolist() for i in range(3)]
    return asked + [TextRequest(f"g{i}", 0, [4, 5, 6 + i], answer) for i, answer in enumerate(answers)]


IDLE = ["qwen3_moe", "deepseek_v3", "qwen3_next"]
"""Of which one rank is also tried without any text: what idles is the exchange, which knows no architecture, and a pass
without a cache, in which layers keep no states."""
MEMORY = 9_000
"""Bytes of keys and values: of the longest text, and with most families of no three at once."""
SHARES = {
    "unequal": [[0, 2, 3, 4, 5, 6, 7, 8, 9], [1]],  # rank 1 runs out of texts long before rank 0
    "one idle": [list(range(10)), []],
}


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Callable[[str], Path]:
    untied = {"qwen3_moe": {"num_experts": 4, "tie_word_embeddings": False}}
    return cache(lambda name: save_model(name, **untied.get(name, {})))


def case_name(architecture: str, dispatch: str, share: str) -> str:
    return f"{architecture}-{dispatch}-{share}".replace(" ", "_")


def ids() -> list[list[int]]:
    return np.random.default_rng(2).integers(3, V, (4, 9)).tolist()


@pytest.fixture(scope="module")
def ranks(model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Folder with what each rank saw of the families that are long, or of those that are not. All their cases share one
    pair of processes, whose start takes longest."""

    def run(long: bool) -> Path:
        folder = tmp_path_factory.mktemp("ranks")
        cases = [c for family in FAMILIES if is_long(family) == long for c in cases_of(family, model(family))]
        (folder / "cases.json").write_text(json.dumps(cases))
        run_ranks("expert_parallel_rank.py", RANKS, folder / "cases.json", folder)
        return folder

    return cache(run)


def cases_of(architecture: str, model: Path) -> list[dict[str, Any]]:
    """What the ranks are to run of a family, for expert_parallel_rank.py."""
    idle = [("all_to_all", "one idle")] if architecture in IDLE else []
    return [
        {
            "name": case_name(architecture, dispatch, share),
            "config": {
                **{"model": str(model), "ep_size": RANKS, "dispatch": dispatch, "batch": 3, "score_tokens": 16},
                "kv_cache_memory": MEMORY if share == "one idle" or dispatch == "all_reduce" else None,
            },
            "requests": [dataclasses.asdict(r) for r in requests()],
            "shares": SHARES[share],
            "ids": ids(),
            "specs": {name: dataclasses.asdict(spec) for name, spec in SPECS.items()},
        }
        for dispatch, share in [*((d, "unequal") for d in DISPATCHES), *idle]
    ]


def outcomes(ranks: Ranks, architecture: str, dispatch: str, share: str) -> list[Outcome]:
    folder = ranks(is_long(architecture))
    name = case_name(architecture, dispatch, share)
    return [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in range(RANKS)]


def targets_of(outcome: Outcome, spec: str) -> UnitTargets:
    """What a rank made."""
    names = ("samples", "lengths", "starts", "tokens", "ends", "entropy", "token_logprob", "counts", "logprobs")
    lists = {name: outcome[f"{spec}.{name}"].tolist() for name in ("prompt_uids", "texts")}
    return UnitTargets(**lists, **{name: outcome[f"{spec}.{name}"] for name in names})


@pytest.fixture(scope="module")
def alone(model: Callable[[str], Path]) -> Alone:
    return cache(lambda name: TransformersEngine(TeacherConfig(model=str(model(name)))))


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("architecture", as_parameters(FAMILIES))
def test_logits_are_those_of_one_process(architecture: str, dispatch: str, ranks: Ranks, alone: Alone) -> None:
    with torch.no_grad():
        expected = alone(architecture).model(input_ids=torch.tensor(ids()), use_cache=False).logits.numpy()
    assert expected.std() > 0.1
    found = outcomes(ranks, architecture, dispatch, "unequal")
    own = [expected] * RANKS if dispatch == "all_reduce" else [expected[:-1], expected[-1:]]
    for outcome, mine in zip(found, own, strict=True):
        for way in [""] if dispatch == "all_reduce" else ["", "shared ", "sent "]:
            np.testing.assert_allclose(outcome[f"{way}logits"], mine, rtol=0, atol=of_logits(np.abs(mine).max()))


def test_a_layer_waits_once_for_many_tokens_and_never_for_few(ranks: Ranks, alone: Alone) -> None:
    """Two collectives and no read by the host where ranks know how many tokens there are at most; else one read."""
    layers = len(alone("qwen3_moe").model.model.layers)
    for outcome in outcomes(ranks, "qwen3_moe", "all_to_all", "unequal"):
        calls = {way: Counter(json.loads(str(outcome[f"{way}calls"]))) for way in ("", "shared ", "sent ")}
        model_reads = calls["shared "].pop("read", 0)  # of the attention's mask, before the first layer
        assert calls["shared "] == {"all_gather_into_tensor": layers, "all_to_all_single": layers}
        assert model_reads <= 2
        for way in ("", "sent "):
            assert calls[way] == {"all_to_all_single": 3 * layers, "read": layers + model_reads}


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("architecture", as_parameters(FAMILIES))
def test_a_rank_holds_a_part_of_the_weights(architecture: str, dispatch: str, ranks: Ranks, alone: Alone) -> None:
    """Experts are most of these models: half of them, and no more than all the rest."""
    model = alone(architecture).model
    whole = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    held = [int(o["weights_held"]) for o in outcomes(ranks, architecture, dispatch, "unequal")]
    assert all(n <= whole - experts / RANKS for n in held)
    assert sum(held) >= whole  # together they have everything


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "architecture, dispatch, share",
    [
        *(
            pytest.param(*family.values, dispatch, "unequal", marks=family.marks)
            for family in as_parameters(FAMILIES)
            for dispatch in DISPATCHES
        ),
        *((architecture, "all_to_all", "one idle") for architecture in IDLE),
    ],
)
def test_texts_are_those_of_one_process(
    architecture: str, dispatch: str, share: str, spec: str, ranks: Ranks, alone: Alone
) -> None:
    """With other numbers of texts on each rank, batches of 3, and texts that end at different times."""
    kept = alone(architecture).run(requests(), SPECS[spec])
    full = alone(architecture).run(requests(), dataclasses.replace(SPECS[spec], scheme="full"))
    np.testing.assert_array_equal(kept.tokens, full.tokens)
    tolerance = of_logits(np.abs(full.logprobs).max())
    found = outcomes(ranks, architecture, dispatch, share)
    shares = SHARES[share] if dispatch == "all_to_all" else [list(range(10))]
    for outcome, rows in zip(found, shares, strict=False):
        mine, whole, own = targets_of(outcome, spec), *(t.select(np.array(rows, np.int64)) for t in (full, kept))
        seen, seen_alone = same_texts(mine, whole, [requests()[i] for i in rows], SPECS[spec], tolerance)
        if spec == "answer":
            found_TV, alone_TV = mine.logprobs.reshape(-1, V)[seen], own.logprobs.reshape(-1, V)[seen_alone]
            np.testing.assert_allclose(found_TV, alone_TV, rtol=0, atol=tolerance)
        else:
            same_on_grid(mine.token_logprob[seen], own.token_logprob[seen_alone], "token_logprob")
            assert int(mine.counts.sum()) == 21 * len(mine.entropy)
