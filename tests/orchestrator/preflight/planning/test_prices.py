"""What `plan` says that baselines add."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file
from support.project import Project

BASELINES = ["initial", "hard_labels", "given_answers", "generalist", "single_expert", "teacher_4bit"]


def planned(project: Project, stillhouse: Callable[..., Any]) -> dict[str, Any]:
    outcome = stillhouse("plan", project.write(), "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def priced(project: Project) -> None:
    """Two specialists of one model, eight held-out answers of 8 tokens; a teacher of 4 experts, of which 1 is used."""
    for domain in ("medical", "legal"):
        split = [*["train"] * 8, *["heldout"] * 4]
        rows = [{"prompt": f"the {domain} {i}", "answer": "rest is the rule", "split": s} for i, s in enumerate(split)]
        project.rows(f"{domain}.jsonl", *rows)
    layer = "model.layers.0.mlp.experts"
    tensors = {f"{layer}.{e}.up_proj.weight": torch.zeros(10, 10) for e in range(4)}
    project.model("mixture", num_experts_per_tok=1, num_hidden_layers=1)
    save_file(
        {**tensors, "model.embed_tokens.weight": torch.zeros(50)}, project.folder / "mixture" / "model.safetensors"
    )
    project.set("teacher.model", "mixture")
    project.set("specialists.legal.train", {"tokens": 3000})
    project.set("evaluate", {"baselines": BASELINES, "control_tokens": "10%"})


def test_each_baseline_has_its_price(project: Project, stillhouse: Callable[..., Any]) -> None:
    priced(project)
    plan = planned(project, stillhouse)
    prices, heldout = plan["baselines"], plan["heldout_tokens"]
    assert list(prices) == BASELINES and heldout == 64
    N = prices["initial"]["held_bytes"] // 4
    assert N > 1000 and prices["initial"]["trained_tokens"] == prices["initial"]["stored_bytes"] == 0
    assert prices["initial"]["flops"] == 2 * N * heldout
    for control in ("hard_labels", "given_answers"):
        assert prices[control]["trained_tokens"] == 100 + 300 and prices[control]["stored_bytes"] == 2 * 4 * N
        assert prices[control]["flops"] == 6 * N * 400 + 2 * N * heldout
    assert prices["generalist"]["trained_tokens"] == 1000 and prices["generalist"]["scored_tokens"] == heldout
    assert prices["teacher_4bit"]["held_bytes"] == 4 * 450, "loaded whole, as it is"
    assert prices["teacher_4bit"]["flops"] == 2 * (50 + 100) * heldout, "of the experts that a token is sent to"
    assert prices["single_expert"]["scored_tokens"] == heldout and prices["single_expert"]["stored_bytes"] == 0


def test_how_often_given_answers_are_read_is_noted(project: Project, stillhouse: Callable[..., Any]) -> None:
    """16 characters are 4 tokens and an end: 8 texts have 40, of which `medical` wants 100."""
    priced(project)
    notes = [n for n in planned(project, stillhouse)["notes"] if "reads the given answers" in n]
    assert notes[0] == (
        "medical.given_answers reads the given answers of medical about 2.5 times: they have about 40 target tokens"
    )
    assert len(notes) == 3, "and legal, of a mix"


def test_a_specialist_beside_another_has_a_price(project: Project, stillhouse: Callable[..., Any]) -> None:
    project.set("evaluate", {"baselines": [], "beside": {"medical": ["legal"]}})
    plan = planned(project, stillhouse)
    assert list(plan["baselines"]) == ["legal"] and plan["baselines"]["legal"]["trained_tokens"] == 1000
    said = stillhouse("plan", project.write()).out
    assert "baseline legal: trains on 1,000 target tokens, scores " in said and " in the storage" in said


def test_quantised_siblings_have_a_price(project: Project, stillhouse: Callable[..., Any]) -> None:
    project.set("evaluate", {"baselines": []})
    before = planned(project, stillhouse)
    project.set("specialists.medical.quantised", {"format": "q4_0", "keep": ["o_proj"], "train": {"tokens": "20%"}})
    plan = planned(project, stillhouse)
    price = plan["baselines"]["quantised"]
    assert before["baselines"] == {} and price["trained_tokens"] == 200
    memory = [{p["name"]: p["memory"] for p in one["parts"]} for one in (before, plan)]
    assert memory[1]["specialist medical"] > memory[0]["specialist medical"], "masters beside rounded weights"
    assert memory[1]["specialist legal"] == memory[0]["specialist legal"]
    said = " ".join(stillhouse("plan", project.write()).out.split())
    assert "quantised siblings: trains on 200 target tokens" in said
    assert "then its quantised sibling (q4_0) on 200" in said
