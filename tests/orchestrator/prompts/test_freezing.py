"""Freezing prompts with a real tokenizer into a run folder: what is written, split, blocked, and rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.project import Project

from cluster.storage import open_storage
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import limited, missing_units
from workers.layout import PROMPTS_REJECTED, PROMPTS_SUMMARY
from workers.manifest import Manifest, read_plan
from workers.splits import HELDOUT, PROBES, TRAIN
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore
from workers.units import Prompt, UnitPlan

UNKNOWN, END, THE, FEVER, IS, HIGH = range(6)
"""Ids of the fixture's tokenizer: <unk> <eos> the fever is high ..."""
CHAT = (
    "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('only users speak') }}{% endif %}"
    "{{ m['content'] }}{% endfor %} is"
)


class Frozen:
    """A configuration frozen into `runs/trial`."""

    def __init__(self, project: Project) -> None:
        config = project.load().located()
        self.run = RunFolder.of(config)
        self.storage = open_storage(self.run.uri)
        self.summary = freeze(config, self.run.uri)

    def plan(self, split: str) -> UnitPlan:
        return read_plan(self.storage, split)

    def prompts(self, split: str) -> dict[str, Prompt]:
        manifest = Manifest(self.storage, split)
        return {p.id: p for unit in self.plan(split).units for p in manifest.prompts(unit.index)}

    def rejected(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.storage.read(PROMPTS_REJECTED).splitlines()]


def frozen_bytes(frozen: Frozen) -> dict[str, bytes]:
    """All that is written of a run's prompts, by key."""
    return {stored.key: frozen.storage.read(stored.key) for stored in frozen.storage.listing("prompts")}


def medical(project: Project, *rows: dict[str, Any]) -> Frozen:
    """Frozen rows of the domain medical, each with an id, beside one of the domain legal."""
    project.rows("medical.jsonl", *({"id": f"r{i}", "split": "train"} | row for i, row in enumerate(rows)))
    project.rows("legal.jsonl", {"id": "l", "prompt": "a rule", "split": "train"})
    return Frozen(project)


def test_a_prompt_is_tokenized_and_carries_its_sampling(project: Project) -> None:
    project.set("teacher.sampling", {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 5, "samples": 3})
    assert medical(project, {"prompt": "the fever is"}).prompts(TRAIN)["medical/r0"] == Prompt(
        id="medical/r0",
        domains=("medical",),
        teacher="teacher",
        samples=3,
        temperature=0.5,
        top_p=0.9,
        max_new_tokens=5,
        prompt_token_ids=[THE, FEVER, IS],
        answer_token_ids=None,
    )


def test_a_source_may_have_its_own_sampling(project: Project) -> None:
    project.set("prompts.medical", {"path": "medical.jsonl", "sampling": {"samples": 2, "max_new_tokens": 3}})
    prompts = medical(project, {"prompt": "the"}).prompts(TRAIN)
    assert [(p.samples, p.max_new_tokens) for _, p in sorted(prompts.items())] == [(1, 8), (2, 3)]


def test_a_given_answer_ends_with_the_end_token(project: Project) -> None:
    prompt = medical(project, {"prompt": "the fever", "answer": "is high"}).prompts(TRAIN)["medical/r0"]
    assert prompt.answer_token_ids == [IS, HIGH, END]


def test_given_and_generated_answers_never_share_a_unit(project: Project) -> None:
    rows = [{"prompt": f"the {'fever ' * i}"} | ({"answer": "high"} if i % 2 else {}) for i in range(8)]
    frozen = medical(project, *rows)
    manifest = Manifest(frozen.storage, TRAIN)
    for unit in frozen.plan(TRAIN).units:
        assert {p.answer_token_ids is None for p in manifest.prompts(unit.index)} == {unit.generates}


def test_a_held_out_prompt_is_sampled_at_temperature_1_and_top_p_1(project: Project) -> None:
    """Whatever training text is: the targets' own distribution is what scores are measured under."""
    project.set("teacher.sampling", {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 5, "samples": 3})
    project.set("evaluate.samples", 2)
    frozen = medical(project, {"prompt": "the", "split": "heldout", "answer": "high"}, {"prompt": "a rule"})
    [prompt] = frozen.prompts(HELDOUT).values()
    assert (prompt.temperature, prompt.top_p, prompt.samples, prompt.max_new_tokens) == (1.0, 1.0, 2, 5)
    assert prompt.answer_token_ids is None, "held-out text is the teacher's own unless evaluate.text says given"


def test_held_out_text_may_be_the_given_answers(project: Project) -> None:
    project.set("evaluate.text", "given")
    frozen = medical(project, {"prompt": "the", "split": "heldout", "answer": "high"}, {"prompt": "a rule"})
    assert [p.answer_token_ids for p in frozen.prompts(HELDOUT).values()] == [[HIGH, END]]


def test_every_usable_row_is_in_exactly_one_split(project: Project) -> None:
    project.set("evaluate.heldout", "30%")
    rows = [{"id": i, "prompt": f"the {i}"} for i in range(60)]
    project.rows("medical.jsonl", *rows)
    frozen = Frozen(project)
    train, heldout = frozen.prompts(TRAIN), frozen.prompts(HELDOUT)
    assert train.keys() & heldout.keys() == set() and train and heldout
    assert {k for k in train | heldout if k.startswith("medical/")} == {f"medical/{i}" for i in range(60)}


def test_units_hold_at_most_so_many_prompts_of_one_kind(project: Project) -> None:
    project.set("targets.prompts_per_unit", 4)
    project.rows("medical.jsonl", *({"prompt": f"the {i}", "split": "train"} for i in range(10)))
    frozen = Frozen(project)
    units = frozen.plan(TRAIN).units
    assert [u.index for u in units] == list(range(len(units)))
    assert sorted(u.prompts for u in units if u.domains == ("medical",)) == [2, 4, 4]
    assert all(u.tokens == u.prompts * 8 for u in units), "an upper bound of the answers' tokens"


def test_freezing_twice_gives_the_same_bytes(project: Project) -> None:
    first = Frozen(project)
    project.set("name", "second")
    assert frozen_bytes(first) == frozen_bytes(Frozen(project))


def test_the_seed_orders_the_units_and_splits_nothing_anew(project: Project) -> None:
    project.rows("medical.jsonl", *({"id": i, "prompt": f"the {i}"} for i in range(80)))
    project.set("targets.prompts_per_unit", 2)
    first = Frozen(project)
    project.data |= {"name": "second", "seed": 1}
    second = Frozen(project)
    assert first.prompts(HELDOUT).keys() == second.prompts(HELDOUT).keys()
    assert list(first.prompts(TRAIN)) != list(second.prompts(TRAIN))
    assert first.prompts(TRAIN) == second.prompts(TRAIN)


# What is rejected --------------------------------------------------------------------------------------------


def test_rows_rejected_are_counted_and_kept_with_their_reasons(project: Project) -> None:
    frozen = medical(project, {"prompt": "the"}, {"prompt": ""}, {"prompt": " "}, {"prompt": 5}, {"prompt": "~"})
    reasons = {"'prompt' is empty": 2, "'prompt' is int, not text": 1, "has no tokens": 1}
    assert frozen.summary["reasons"] == reasons and frozen.summary["rejected"] == 4
    kept = frozen.rejected()
    assert sorted(k["reason"] for k in kept) == sorted(r for r, n in reasons.items() for _ in range(n))
    assert {k["source"] for k in kept} == {"medical"} and {k["id"] for k in kept} >= {"r1", "r2", "r3"}


@pytest.mark.parametrize(("words", "fits"), [(8, True), (9, False)])
def test_a_generated_answer_must_fit_the_teacher_in_full(project: Project, words: int, fits: bool) -> None:
    project.model("short", max_position_embeddings=16)
    project.set("teacher.model", "short")
    frozen = medical(project, {"prompt": "the " * words}, {"prompt": "fever"})
    assert ("medical/r0" in frozen.prompts(TRAIN)) == fits
    if not fits:
        [aside] = frozen.rejected()
        assert aside["id"] == "medical/r0"
        assert "16" in aside["reason"] and "teacher" in aside["reason"]


@pytest.mark.parametrize(("words", "fits"), [(14, True), (15, False)])
def test_a_given_answer_takes_the_room_that_it_has(project: Project, words: int, fits: bool) -> None:
    project.model("short", max_position_embeddings=16)
    project.set("teacher.model", "short")
    frozen = medical(project, {"prompt": "the " * words, "answer": "high"}, {"prompt": "fever"})
    assert ("medical/r0" in frozen.prompts(TRAIN)) == fits


def test_chat_goes_through_the_template(project: Project) -> None:
    project.model("chatty", template=CHAT)
    project.set("teacher.model", "chatty")
    frozen = medical(project, {"messages": [{"role": "user", "content": "the fever"}]})
    assert frozen.prompts(TRAIN)["medical/r0"].prompt_token_ids == [THE, FEVER, IS]


def test_chat_for_a_teacher_without_a_template_is_rejected(project: Project) -> None:
    frozen = medical(project, {"prompt": "the"}, {"messages": [{"role": "user", "content": "the fever"}]})
    [aside] = frozen.rejected()
    assert "no chat template" in aside["reason"]


def test_chat_that_the_template_refuses_is_rejected(project: Project) -> None:
    """Many templates refuse a system message, or roles that do not alternate, by raise_exception."""
    project.model("chatty", template=CHAT)
    project.set("teacher.model", "chatty")
    turns = [{"role": "system", "content": "the"}, {"role": "user", "content": "the"}]
    frozen = medical(project, {"prompt": "the"}, {"messages": turns})
    assert [a["id"] for a in frozen.rejected()] == ["medical/r1"]


def test_text_that_is_no_unicode_is_rejected(project: Project) -> None:
    """JSON can say it, UTF-8 cannot."""
    frozen = medical(project, {"prompt": "the"}, {"prompt": "the \ud800"})
    assert len(frozen.rejected()) == 1 and "medical/r0" in frozen.prompts(TRAIN)


# Summary, probes, work left -----------------------------------------------------------------------------------


def test_the_summary_counts_what_the_plans_hold(project: Project) -> None:
    project.rows("medical.jsonl", {"prompt": "the", "domain": ["medical", "tax"]}, {"prompt": "fever"})
    frozen = Frozen(project)
    assert frozen.summary == json.loads(frozen.storage.read(PROMPTS_SUMMARY))
    assert frozen.summary["vocabulary"] == 12
    for split in (TRAIN, HELDOUT):
        told, prompts = frozen.summary["splits"][split], frozen.prompts(split)
        assert told["units"] == len(frozen.plan(split).units) and told["prompts"] == len(prompts)
        for domain, count in told["domains"].items():
            assert count == sum(domain in p.domains for p in prompts.values()) > 0
    assert PROBES not in frozen.summary["splits"]
    with pytest.raises(FileNotFoundError):
        frozen.plan(PROBES)


def test_probes_are_a_split_of_their_own(project: Project) -> None:
    project.rows(
        "probes.jsonl",
        {"domain": "medical", "prompt": "the fever is", "answer": "high rest"},
        {"domain": "legal", "prompt": "the rule", "answer": "binds"},
    )
    project.set("evaluate.probes", "probes.jsonl")
    frozen = Frozen(project)
    probes = frozen.prompts(PROBES)
    assert sorted(probes) == ["probe-0000", "probe-0001"]
    first = probes["probe-0000"]
    assert (first.prompt_token_ids, first.answer_token_ids, first.domains) == ([THE, FEVER, IS], [HIGH], ("medical",))
    assert frozen.summary["splits"][PROBES]["prompts"] == 2
    assert not probes.keys() & (frozen.prompts(TRAIN) | frozen.prompts(HELDOUT)).keys()


def entry(unit: int) -> Entry:
    """A commit of a unit of nothing but rows rejected."""
    numbers: dict[str, Any] = dict.fromkeys(
        ("rows", "tokens", "targets", "num_kept", "epoch", "started", "finished"), 0
    )
    return Entry(unit, parts=(), content_hash="", teacher="teacher", teacher_fingerprint="", **numbers)


def test_missing_units_are_those_that_no_entry_commits(project: Project) -> None:
    project.set("targets.prompts_per_unit", 2)
    project.rows("medical.jsonl", *({"prompt": f"the {i}"} for i in range(40)))
    frozen = Frozen(project)
    wanted = [(split, unit.index) for split in (TRAIN, HELDOUT) for unit in frozen.plan(split).units]
    work = missing_units(frozen.run)
    assert [(w["split"], w["unit"]) for w in work["teacher"]] == wanted
    assert TargetStore(frozen.storage, TRAIN).log.commit(entry(1))
    left = [(w["split"], w["unit"]) for w in missing_units(frozen.run)["teacher"]]
    assert left == [w for w in wanted if w != (TRAIN, 1)]
    assert [(w["split"], w["unit"]) for w in limited(work, 3)["teacher"]] == wanted[:3]


def test_nothing_is_missing_before_prompts_are_frozen(tmp_path: Any) -> None:
    assert missing_units(RunFolder(str(tmp_path))) == {}


def test_a_limit_is_shared_by_the_teachers() -> None:
    work = {"a": [{"unit": i} for i in range(3)], "b": [{"unit": i} for i in range(3)]}
    assert limited(work, 4) == {"a": work["a"], "b": work["b"][:1]}
    assert limited(work, None) == work
