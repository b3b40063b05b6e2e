"""`stillhouse targets show` on real stores of a tiny teacher."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from support.captured_run import RUN, CapturedRun, Command, capture, found
from support.comparing.tolerances import of_logits
from support.project import Project
from transformers import AutoModelForCausalLM

from orchestrator.render.looking.text import print_text
from orchestrator.stores.opening import open_targets
from orchestrator.stores.show import Question, show_text
from workers.token_text import visible


def test_show_prints_the_first_text_token_by_token(captured: CapturedRun, stillhouse: Command) -> None:
    targets = captured.targets(0)
    shown = found(stillhouse, "show", RUN)
    start, length = int(targets.starts[0]), int(targets.lengths[0])
    assert (shown["prompt_uid"], shown["text"]) == (targets.prompt_uids[0], targets.texts[0])
    assert [p["position"] for p in shown["positions"]] == list(range(start, length))
    assert [p["token"][0] for p in shown["positions"]] == targets.tokens[start:length].tolist()
    assert " ".join(p["token"][1] for p in shown["positions"]) == shown["text"].split(" ", start)[-1]
    assert "".join(p["behind"] for p in shown["positions"]).replace("␣", " ").lstrip() in shown["text"]
    at = 0
    for t, position in enumerate(shown["positions"]):
        stored, kept = position["stored"], int(targets.num_kept[t])
        counts = dict(zip(targets.ids[at : at + kept].tolist(), targets.counts[at : at + kept].tolist(), strict=True))
        assert {i: round(w * 21) for i, _, w in stored["ids"]} == counts
        assert sum(w for *_, w in stored["ids"]) == pytest.approx(1)
        assert [w for *_, w in stored["ids"]] == sorted((w for *_, w in stored["ids"]), reverse=True)
        assert stored["entropy"] == pytest.approx(targets.entropy[t])
        assert stored["token_logprob"] == pytest.approx(targets.token_logprob[t])
        at += kept
    said = stillhouse("targets", "show", RUN).out
    assert targets.texts[0] in said and "noisy and unbiased" in said and "--exact" in said


def test_show_finds_a_prompt_and_a_sample(captured: CapturedRun, stillhouse: Command) -> None:
    targets = captured.targets(1)
    row = max(r for r, sample in enumerate(targets.samples) if sample == 1)
    shown = found(stillhouse, "show", RUN, "--prompt", targets.prompt_uids[row], "--sample", "1")
    assert (shown["unit"], shown["sample"], shown["text"]) == (1, 1, targets.texts[row])
    assert found(stillhouse, "show", RUN, "--unit", "1")["text"] == targets.texts[0]


def test_show_of_topk_ends_with_the_tail_and_names_what_is_exact(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets", {"prompts_per_unit": 2, "scheme": "topk", "top_k": 3, "always_keep": ["<eos>"]})
    capture(capture_project)
    shown = found(stillhouse, "show", RUN)
    for position in shown["positions"]:
        stored = position["stored"]
        assert len(stored["ids"]) == 4 and "<eos>" in [text for _, text, _ in stored["ids"]]
        assert sum(w for *_, w in stored["ids"]) + stored["tail"] == pytest.approx(1, abs=1e-3)
    said = stillhouse("targets", "show", RUN).out
    assert "tail " in said and "Exact at every position: <eos>" in said and "unbiased" not in said


def test_show_stops_at_the_limit_and_says_so(captured: CapturedRun, stillhouse: Command) -> None:
    targets = captured.targets(0)
    left = int(targets.lengths[0] - targets.starts[0]) - 2
    assert left > 0 and len(found(stillhouse, "show", RUN, "--limit", "2")["positions"]) == 2
    assert f"{left} more positions" in stillhouse("targets", "show", RUN, "--limit", "2").out


@pytest.mark.parametrize("temperature", [None, 0.5, 3.0])
def test_show_of_a_full_store_is_exact_at_any_temperature(
    captured: CapturedRun, stillhouse: Command, temperature: float | None
) -> None:
    targets = captured.targets(0, "heldout")
    logits_TV = torch.from_numpy(targets.logprobs.reshape(-1, 12).copy()).double() / (temperature or 1)
    p_TV = logits_TV.softmax(-1)
    words = [] if temperature is None else ["--temperature", str(temperature)]
    shown = found(stillhouse, "show", RUN, "--split", "heldout", "--top", "5", *words)
    for t, position in enumerate(shown["positions"]):
        stored, best = position["stored"], p_TV[t].topk(5)
        assert [i for i, *_ in stored["ids"]] == best.indices.tolist()
        assert [p for *_, p in stored["ids"]] == pytest.approx(best.values.tolist())
        assert stored["entropy"] == pytest.approx(torch.distributions.Categorical(p_TV[t]).entropy().item())
        assert stored["token_logprob"] == pytest.approx(p_TV[t][position["token"][0]].log().item())
    assert "noisy" not in stillhouse("targets", "show", RUN, "--split", "heldout").out


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_show_of_a_hidden_store_says_what_a_full_one_does(
    capture_project: Project, stillhouse: Command, split: str
) -> None:
    shown = []
    capture_project.set("targets", {"positions": "all", "temperature": 1.5} if split == "train" else {})
    for kept in ("full", "hidden"):
        capture_project.set("targets.scheme" if split == "train" else "evaluate.targets", kept)
        capture_project.set("name", kept)
        capture(capture_project)
        shown.append(found(stillhouse, "show", kept, "--split", split, "--temperature", "2"))
    for full, hidden in zip(*(text["positions"] for text in shown), strict=True):
        assert full["token"] == hidden["token"]
        one, other = ([p for *_, p in text["stored"]["ids"]] for text in (hidden, full))
        assert one == pytest.approx(other, rel=1e-4)
    assert "hidden states, float32" in stillhouse("targets", "info", "hidden", "--split", split).out


def test_exact_shows_the_teachers_own_distribution(
    captured: CapturedRun, capture_project: Project, stillhouse: Command
) -> None:
    targets = captured.targets(0)
    start, length = int(targets.starts[0]), int(targets.lengths[0])
    model = AutoModelForCausalLM.from_pretrained(capture_project.folder / "dense", dtype=torch.float32)
    with torch.no_grad():
        logits_SV = model(torch.from_numpy(targets.tokens[:length].astype(np.int64))[None]).logits[0]
    for words, temperature in (([], 1.0), (["--temperature", "2"], 2.0)):
        p_TV = (logits_SV[start - 1 : length - 1].double() / temperature).softmax(-1)
        tolerance = 2 * of_logits(p_TV.log().abs().max())
        shown = found(stillhouse, "show", RUN, "--exact", "--top", "4", *words)
        assert len(shown["positions"]) == length - start and shown["notes"] == []
        for t, position in enumerate(shown["positions"]):
            exact, best = position["exact"], p_TV[t].topk(4)
            assert len({i for i, *_ in exact["ids"]}) == 4
            for i, _, p in exact["ids"]:
                assert p == pytest.approx(float(p_TV[t, i]), rel=tolerance)
            assert [p for *_, p in exact["ids"]] == pytest.approx(best.values.tolist(), rel=tolerance)
            if temperature == 1:  # what is stored is the same on a grid, whose steps are 6 % and .004 wide
                assert exact["entropy"] == pytest.approx(position["stored"]["entropy"], rel=0.1, abs=0.02)
                assert exact["token_logprob"] == pytest.approx(position["stored"]["token_logprob"], rel=0.1, abs=0.02)
    said = stillhouse("targets", "show", RUN, "--exact").out
    assert "kept" in said and "exact" in said and "--exact asks" not in said


def test_exact_says_that_the_teacher_has_changed(
    captured: CapturedRun, capture_project: Project, stillhouse: Command
) -> None:
    config = json.loads((capture_project.folder / "dense" / "config.json").read_text())
    (capture_project.folder / "dense" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert "has changed since" in stillhouse("targets", "show", RUN, "--exact").out


REFUSED = {
    "units 0 ... ": ["--unit", "99"],
    "give one of the two": ["--unit", "0", "--prompt", "medical/1"],
    "none of the 11 train prompts has this id; there are ": ["--prompt", "medical/x"],
    "the stored weights are a sample at temperature 1": ["--temperature", "0.7"],
    "must be more than 0": ["--temperature", "0", "--exact"],
    "stored are the samples 0": ["--sample", "7"],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_show_refuses_what_it_cannot_answer(reason: str, captured: CapturedRun, stillhouse: Command) -> None:
    assert reason in stillhouse("targets", "show", RUN, *REFUSED[reason]).error


def test_show_says_what_is_captured_and_where_else_a_prompt_is(capture_project: Project, stillhouse: Command) -> None:
    captured = capture(capture_project, units={"train": 2})
    assert (
        "--unit 4 is not captured yet; captured are 0-1 of" in stillhouse("targets", "show", RUN, "--unit", "4").error
    )
    other = captured.targets(0, "heldout").prompt_uids[0]
    assert "add --split heldout" in stillhouse("targets", "show", RUN, "--prompt", other).error


def test_show_before_anything_is_captured(capture_project: Project, stillhouse: Command) -> None:
    capture(capture_project, units={"train": 0})
    assert "is captured yet; `stillhouse capture CONFIG`" in stillhouse("targets", "show", RUN).error


def test_show_of_a_text_that_was_rejected_gives_the_reason(capture_project: Project, stillhouse: Command) -> None:
    capture_project.set("targets.withhold", {"medical": ["the"]})
    capture(capture_project)
    assert "rejected: contains the withheld" in stillhouse("targets", "show", RUN, "--prompt", "medical/1").error


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_a_shown_text_is_wider_than_the_terminal(captured: CapturedRun, width: int) -> None:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    shown = show_text(open_targets(RUN, "train"), Question(exact=True, top=12))
    print_text(shown, out)
    said = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, said.splitlines())) <= width
    for position in shown["positions"]:
        for distribution in (position["stored"], position["exact"]):
            assert f"{distribution['entropy']:.2f}" in said and f"{distribution['ids'][0][1]} " in said
            assert f"{max(w for *_, w in distribution['ids']):.0%}" in said


def test_what_does_not_print_is_made_visible() -> None:
    assert visible(" a\n\t\u200b") == "␣a\\n\\t\\u200b"
