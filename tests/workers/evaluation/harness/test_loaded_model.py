"""A model that is loaded already answers lm-evaluation-harness as its own class would have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from support.captured_run import give_weights
from support.comparing.tolerances import of_capture
from support.project import Project
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.evaluation.harness.loaded_model import LoadedModel
from workers.two_part_model import TwoPartModel

TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}a{% endif %}"
HELD = 12
"""Tokens that the model holds."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[HFLM, LoadedModel]:
    """Their class and ours, with one model."""
    torch.set_num_threads(1)
    project = Project(tmp_path_factory.mktemp("model"))
    folder: Path = project.model("dense", experts=0, head_dim=16, num_key_value_heads=2, max_position_embeddings=HELD)
    project.json(
        "dense/tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "chat_template": TEMPLATE},
    )
    give_weights(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ours = LoadedModel(TwoPartModel(model, "cpu"), tokenizer, batch_tokens=24, stop_ids=[1])
    assert tokenizer.pad_token_id is None, "the run's tokenizer stays as it is"
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder)), ours


def asked(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


LONG = " ".join(["the fever is high", "a contract binds", "rest pay rule"] * 2)
"""20 tokens: more than the model holds."""


def test_continuations(both: tuple[HFLM, LoadedModel]) -> None:
    """Of one and of several tokens, behind texts of unequal lengths, behind nothing, behind one that is too long."""
    texts = ["the fever", "the fever is high a contract", "rest", "", LONG]
    pairs = [(text, f" {end}") for text in texts for end in ("high", "pay", "pay rule", "high a contract")]
    theirs, ours = (model.loglikelihood(asked("loglikelihood", *pairs)) for model in both)
    largest = max(abs(value) for value, _ in theirs)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], rtol=0, atol=of_capture(largest))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_whole_texts(both: tuple[HFLM, LoadedModel]) -> None:
    texts = [(text,) for text in ("the fever is", LONG, "pay", f"{LONG} {LONG}")]
    theirs, ours = (model.loglikelihood_rolling(asked("loglikelihood_rolling", *texts)) for model in both)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=of_capture(max(map(abs, theirs))))


def test_what_is_written(both: tuple[HFLM, LoadedModel]) -> None:
    """Several texts at once end where each of them ends by itself."""
    how = {"until": ["binds"], "max_gen_toks": 5}
    texts = [(f"the {a} {b}", how) for a in ("fever", "rule", "pay") for b in ("is", "high a", "rest")]
    theirs, ours = (model.generate_until(asked("generate_until", *texts)) for model in both)
    assert both[1].batch_size > 1 and ours == theirs and len(set(ours)) > 1


def test_chats(both: tuple[HFLM, LoadedModel]) -> None:
    turns = [{"role": "user", "content": "the fever"}]
    theirs, ours = (model.apply_chat_template(turns) for model in both)
    assert ours == theirs == "user the fever a"


def test_what_cannot_be_asked(both: tuple[HFLM, LoadedModel]) -> None:
    with pytest.raises(ValueError, match="'' adds no token to the text before it"):
        both[1].loglikelihood(asked("loglikelihood", ("the fever", "")))
    with pytest.raises(ValueError, match=f"an answer has 20 tokens, and the model holds {HELD}"):
        both[1].loglikelihood(asked("loglikelihood", ("the fever", f" {LONG}")))
