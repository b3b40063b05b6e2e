"""Answers made by the real engine on a tiny teacher: as long as asked, stopped where asked, and kept or rejected."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from support.captured_run import RUN, CapturedRun, Command, capture, found
from support.project import Project

from orchestrator.render.closing import closing_lines
from orchestrator.render.markdown import markdown
from orchestrator.reporting.report import build_report
from orchestrator.reporting.timing import Timing
from orchestrator.stages.capture import replica_job
from workers.manifest import Manifest, read_plan
from workers.teacher.units.unit_runner import requests_for
from workers.units import Prompt

END = 1
"""The end token of the fixture's tokenizer."""


def prompts(captured: CapturedRun, split: str = "train") -> list[Prompt]:
    manifest = Manifest(captured.run.storage, split)
    return [p for unit in read_plan(captured.run.storage, split).units for p in manifest.prompts(unit.index)]


def made(captured: CapturedRun, split: str = "train") -> Iterator[tuple[Prompt, list[int], list[str]]]:
    """The answers that the teacher made: prompt, token ids, and the word of each."""
    known = {p.id: p for p in prompts(captured, split)}
    for entry in captured.entries(split):
        unit, begin = captured.targets(entry.unit, split), 0
        for row, name in enumerate(unit.prompt_uids):
            end, prompt = begin + int(unit.lengths[row]), known[name]
            ids = unit.tokens[begin + len(prompt.prompt_token_ids) : end].tolist()
            if prompt.answer_token_ids is None:
                yield prompt, ids, unit.texts[row].split()[-len(ids) :]
            begin = end


def aside(captured: CapturedRun) -> Counter[str]:
    return Counter(item["reason"] for e in captured.entries() for item in e.rejected)


def test_answers_are_as_long_as_their_domain_says(capture_project: Project) -> None:
    capture_project.set("domains.medical.sampling", {"min_new_tokens": 5, "max_new_tokens": 7})
    capture_project.set("domains.legal.sampling", {"max_new_tokens": 3, "samples": 6})
    captured = capture(capture_project)
    lengths: dict[str, list[int]] = {"medical": [], "legal": []}
    for prompt, ids, _ in made(captured):
        lengths[prompt.domains[0]].append(len(ids))
        assert END not in ids[:-1]
    assert min(lengths["medical"]) >= 5 and max(lengths["medical"]) == 7
    assert min(lengths["legal"]) < 3 == max(lengths["legal"])
    assert len(list(made(captured, "heldout"))) == len(prompts(captured, "heldout"))


def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(capture_project: Project) -> None:
    capture_project.set("teacher.sampling", {"max_new_tokens": 12, "samples": 3, "stop": ["binds", "fever"]})
    stopped = 0
    for _, _, words in made(capture(capture_project)):
        at = [i for i, word in enumerate(words) if word in ("binds", "fever")]
        assert at in ([], [len(words) - 1]), words
        stopped += bool(at)
    assert stopped


def test_what_is_rejected_is_not_in_the_store_and_all_else_is(capture_project: Project, stillhouse: Command) -> None:
    code = "def keep(prompt, answer, about):\n    return 'is given' if about['given'] else 'rule' not in answer\n"
    capture_project.text("keep.py", code)
    capture_project.set("teacher.sampling", {"max_new_tokens": 8, "samples": 6})
    capture_project.set("answers", {"filter": "keep.py:keep", "min_tokens": 4, "unfinished": "drop"})
    captured = capture(capture_project)
    kept, reasons = list(made(captured)), aside(captured)
    assert kept and all(len(ids) >= 4 and ids[-1] == END and "rule" not in words for _, ids, words in kept)
    given = sum(p.answer_token_ids is not None for p in prompts(captured))
    assert reasons.pop("the filter says: is given") == given > 0
    assert set(reasons) == {"is shorter than 4 tokens", "is cut off at 8 tokens", "the filter refused it"}
    assert len(kept) + reasons.total() + given == len(requests_for(prompts(captured)))
    header = found(stillhouse, "info", RUN)["header"]["answers"]
    assert (header["filter"], header["min_tokens"], header["unfinished"]) == ("keep.py:keep", 4, "drop")
    said = stillhouse("targets", "info", RUN).out
    assert "filter keep.py:keep" in said and header["filter_sha256"][:10] in said


def test_held_out_answers_are_all_kept(capture_project: Project) -> None:
    capture_project.text("keep.py", "def keep(prompt, answer, about):\n    return False\n")
    capture_project.set("answers", {"filter": "keep.py:keep", "max_tokens": 1})
    captured = capture(capture_project)
    assert not any(e.rows for e in captured.entries())
    held = captured.entries("heldout")
    assert sum(e.rows for e in held) == len(prompts(captured, "heldout")) and not any(e.rejected for e in held)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_equal_answers_stay_only_where_text_is_a_sample_of_the_targets(
    capture_project: Project, temperature: float
) -> None:
    capture_project.set("teacher.sampling", {"max_new_tokens": 2, "samples": 12, "temperature": temperature})
    captured = capture(capture_project)
    texts = [(prompt.id, tuple(ids)) for prompt, ids, _ in made(captured)]
    asked = sum(p.samples for p in prompts(captured) if p.answer_token_ids is None)
    repeated = aside(captured)["repeats another answer to its prompt"]
    assert len(texts) + repeated == asked
    if temperature == 1:
        assert repeated == 0 and len(set(texts)) < len(texts)
    else:
        assert repeated > 0 and len(set(texts)) == len(texts)


def test_the_same_answers_are_kept_when_a_unit_is_recomputed(capture_project: Project) -> None:
    capture_project.text("keep.py", "def keep(prompt, answer, about):\n    return len(answer) % 3 > 0\n")
    capture_project.set("answers", {"filter": "keep.py:keep", "duplicates": "drop"})
    first = capture(capture_project)
    capture_project.set("name", "second")
    second = capture(capture_project)
    pairs = list(itertools.zip_longest(first.entries(), second.entries()))
    assert all(a.content_hash == b.content_hash and a.rejected == b.rejected for a, b in pairs)


def test_the_report_counts_by_reason_and_domain_and_says_where_text_and_targets_disagree(
    capture_project: Project,
) -> None:
    rows = [{"id": str(i), "prompt": f"the medical fever is {i % 7}"} for i in range(8)]
    capture_project.rows("medical.jsonl", *rows, "{")
    capture_project.set("domains.medical.sampling", {"temperature": 0.5})
    capture_project.set("answers", {"max_tokens": 4})
    captured = capture(capture_project)
    report = build_report(captured.run, capture_project.load().located(), None, {}, Timing())
    by_domain = report.targets.rejected_by_domain
    assert set(by_domain) == {"medical", "legal"}
    assert sum((Counter(c) for c in by_domain.values()), Counter()) == aside(captured)
    assert report.targets.answers == {"duplicates": "auto", "max_tokens": 4}
    assert report.prompts.reasons_by_source == {"medical": {"is not JSON": 1, "repeats an earlier prompt": 1}}
    short = f"{by_domain['legal']['is longer than 4 tokens']} × is longer than 4 tokens"
    for text in (markdown(report), "\n".join(closing_lines(report))):
        assert "rows of prompts.medical rejected: 1 × repeats an earlier prompt; 1 × is not JSON" in text
        assert f"answers of legal rejected: {short}" in text
        assert "medical: answers are sampled at temperature 0.5, targets are at temperature 1" in text
        assert "answers are rejected by answers.max_tokens" in text


def test_a_replica_is_given_the_filter_that_the_run_began_with(capture_project: Project) -> None:
    capture_project.text("keep.py", "def keep(prompt, answer, about):\n    return True\n")
    capture_project.set("answers", {"filter": "keep.py:keep"})
    captured, config = capture(capture_project, units={"train": 0, "heldout": 0}), capture_project.load().located()
    rules = replica_job(captured.run.uri, config, "teacher", 1, "").rules
    assert rules.filter is not None and "return True" in rules.filter.source and rules.stop_ids == {END}
    capture_project.text("keep.py", "def keep(prompt, answer, about):\n    return False\n")
    with pytest.raises(ValueError, match="not the one that this run began with"):
        replica_job(captured.run.uri, config, "teacher", 1, "")
