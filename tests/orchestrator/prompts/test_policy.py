"""How a prompt is answered: what a source, its domains and the teacher say, and what is said where they disagree."""

from __future__ import annotations

from typing import Any

import pytest
from support.small_configuration import put, refused, small

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.notes import text_notes
from orchestrator.prompts.policy import ConfigConflict, PolicyResolver, PromptPolicy, chat_of
from orchestrator.prompts.sources import RawPrompt
from workers.teacher.config import SamplingConfig

TEACHER = {"temperature": 0.5, "top_p": 0.5, "max_new_tokens": 50, "stop": ["teacher"], "samples": 5}


def configured(**changes: Any) -> RunConfig:
    """Two teachers, of which the second is for code, and settings at every level."""
    data = small(
        teachers={"small": {"model": "s", "sampling": TEACHER}, "large": {"model": "l"}},
        prompts={"medical": "m.jsonl", "extra": {"path": "e.jsonl", "sampling": {"samples": 2, "stop": []}}},
        domains={
            "medical": {"sampling": {"temperature": 0.7, "samples": 3}, "system_prompt": "Be a physician."},
            "code": {"teacher": "large", "sampling": {"max_new_tokens": 900}},
        },
    )
    del data["teacher"]
    return validate(data | changes)


def how(source: str, *domains: str, **changes: Any) -> PromptPolicy:
    return PolicyResolver(configured(**changes)).of(source, domains)


def row(source: str = "medical", **fields: Any) -> RawPrompt:
    asked: dict[str, Any] = {"split": None, "prompt": None, "messages": None, "answer": None}
    return RawPrompt("id", source, ("medical",), **(asked | fields))


# Who has the last word ----------------------------------------------------------------------------------------


def test_a_domain_changes_what_it_names_and_no_more() -> None:
    medical = how("medical", "medical")
    changed = {"temperature": 0.7, "samples": 3, "stop": ("teacher",)}
    assert medical.sampling == SamplingConfig(**(TEACHER | changed))
    assert (medical.teacher, medical.system_prompt) == ("small", "Be a physician.")


def test_a_domain_has_its_own_teacher_and_that_one_s_sampling() -> None:
    code = how("medical", "code")
    assert (code.teacher, code.sampling) == ("large", SamplingConfig(max_new_tokens=900))


def test_a_source_has_the_last_word_and_an_empty_list_is_no_string() -> None:
    extra = how("extra", "medical")
    assert (extra.sampling.samples, extra.sampling.stop, extra.sampling.temperature) == (2, (), 0.7)
    own = {"extra": {"path": "e.jsonl", "teacher": "small", "system_prompt": ""}}
    extra = how("extra", "code", prompts={"medical": "m.jsonl", **own})
    assert (extra.teacher, extra.sampling.max_new_tokens, extra.system_prompt) == ("small", 900, None)


def test_a_domain_that_nothing_is_said_of_is_answered_as_the_teacher_says() -> None:
    law = how("medical", "law")
    assert (law.teacher, law.sampling, law.system_prompt) == ("small", SamplingConfig(**TEACHER), None)


@pytest.mark.parametrize(
    ("domains", "reason"),
    [
        (("code", "medical"), "belongs to code and medical, which disagree on teacher (large and small)"),
        (("law", "medical"), "belongs to law and medical, which disagree on system_prompt"),
    ],
)
def test_domains_that_disagree(domains: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        how("medical", *domains)
    assert str(caught.value) == reason and not isinstance(caught.value, ConfigConflict)


def test_domains_agree_where_the_source_decides() -> None:
    settings = {
        "teacher": "small",
        "system_prompt": "",
        "sampling": {"temperature": 1, "samples": 1, "max_new_tokens": 9},
    }
    both = how("medical", "code", "medical", prompts={"medical": {"path": "m.jsonl", **settings}})
    assert both.sampling.max_new_tokens == 9


def test_settings_that_contradict_one_another_name_their_key() -> None:
    with pytest.raises(ConfigConflict, match=r"^domains\.medical\.sampling, for medical and the teacher 'small': "):
        how("medical", "medical", domains={"medical": {"sampling": {"min_new_tokens": 51}}})
    with pytest.raises(ConfigConflict, match=r"^prompts\.extra\.sampling, .*`samples` is 2 at `temperature` 0"):
        how("extra", "medical", domains={"medical": {"sampling": {"temperature": 0}}})


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"min_new_tokens": 300}, "`min_new_tokens` is 300, more than the 256"),
        ({"temperature": 0, "samples": 2}, "the same text each time"),
        ({"stop": ["a", ""]}, "empty string"),
        ({"stop": "END"}, "teacher.sampling.stop"),
        ({"stop": ["\ud800"]}, "teacher.sampling.stop"),
        ({"samples": 70000}, "teacher.sampling.samples"),
        ({"min_new_tokens": -1}, "teacher.sampling.min_new_tokens"),
    ],
    ids=str,
)
def test_sampling_that_makes_no_sense(sampling: dict[str, Any], said: str) -> None:
    message = refused(put("teacher.sampling", sampling))
    assert message.startswith("teacher.sampling") and said in message


def test_a_domain_that_names_no_teacher() -> None:
    message = refused(put("domains.medical.teacher", "bigger"))
    assert message.startswith("domains.medical.teacher: 'bigger'") and "['teacher']" in message


def test_the_teacher_of_a_domain() -> None:
    assert [configured().teacher_of(d) for d in ("code", "medical", "law")] == ["large", "small", "small"]


# Chat ---------------------------------------------------------------------------------------------------------

ASKED = {"role": "user", "content": "why?"}
PROMPTED = PromptPolicy("t", SamplingConfig(), "Be brief.")
PLAIN = PromptPolicy("t", SamplingConfig(), None)


def test_a_system_prompt_stands_before_the_messages() -> None:
    assert chat_of(row(messages=[ASKED]), PROMPTED) == [{"role": "system", "content": "Be brief."}, ASKED]
    assert chat_of(row(messages=[ASKED]), PLAIN) == [ASKED]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_row_s_own_system_message_wins(role: str) -> None:
    messages = [{"role": role, "content": "Be long."}, ASKED]
    assert chat_of(row(messages=messages), PROMPTED) == messages


def test_text_has_no_messages() -> None:
    assert chat_of(row(prompt="why?"), PLAIN) is None


def test_text_takes_no_system_prompt() -> None:
    with pytest.raises(ValueError, match=r"^is text, .* prompts\.medical\.chat: true"):
        chat_of(row(prompt="why?"), PROMPTED)


def test_settings_of_the_chat_template_go_by_key_and_the_source_wins() -> None:
    extra = {"extra": {"path": "e.jsonl", "chat_template_kwargs": {"enable_thinking": False}}}
    medical = {"chat_template_kwargs": {"enable_thinking": True, "date": "today"}}
    settings = {"prompts": {"medical": "m.jsonl", **extra}, "domains": {"medical": medical}}
    found = [how(source, domain, **settings).chat_template_kwargs for source, domain in PAIRS]
    assert found == [medical["chat_template_kwargs"], {"enable_thinking": False, "date": "today"}, {}]


PAIRS = [("medical", "medical"), ("extra", "medical"), ("medical", "law")]


# Where text and distributions disagree ------------------------------------------------------------------------


def notes(*asked: tuple[str, ...], **changes: Any) -> list[str]:
    data = small(prompts={"medical": "m", "legal": "l"}) | changes
    return text_notes(validate(data), [(source, tuple(domains)) for source, *domains in asked])


BOTH = (("medical", "medical"), ("legal", "legal"))


def test_text_that_is_a_sample_of_the_targets_needs_no_word() -> None:
    assert notes(*BOTH) == []
    sampled = {"model": "t", "sampling": {"temperature": 2, "samples": 4, "stop": ["END"], "max_new_tokens": 3}}
    assert notes(*BOTH, teacher=sampled, targets={"temperature": 2}) == []


def test_a_colder_domain_is_named_with_both_temperatures() -> None:
    [note] = notes(*BOTH, domains={"medical": {"sampling": {"temperature": 0.7}}})
    assert note.startswith("medical: answers are sampled at temperature 0.7, targets are at temperature 1: the student")
    assert "more typical" in note


def test_what_is_true_of_several_domains_is_said_once() -> None:
    [note] = notes(*BOTH, ("medical", "legal", "medical"), teacher={"model": "t", "sampling": {"top_p": 0.9}})
    assert note.startswith("legal, legal and medical, medical: answers never hold")
    assert "top_p 0.9" in note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"model": "t", "sampling": {"temperature": 1.5}}}, "stranger"),
        ({"teacher": {"model": "t", "sampling": {"temperature": 0}}}, "the most probable text"),
        ({"targets": {"temperature": 2}}, "at temperature 1, targets are at temperature 2"),
        ({"teacher": {"model": "t", "sampling": {"min_new_tokens": 9}}}, "no answer ends before 9 tokens"),
        ({"answers": {"duplicates": "drop"}, "teacher": {"model": "t", "sampling": {"samples": 2}}}, "equal answers"),
        ({"answers": {"filter": "f.py:f", "min_tokens": 3}}, "rejected by answers.min_tokens, answers.filter"),
        ({"answers": {"unfinished": "drop"}}, "rejected by answers.unfinished"),
        ({"targets": {"withhold": {"medical": ["a"]}}}, "rejected by targets.withhold"),
    ],
    ids=str,
)
def test_each_way_to_disagree_has_a_sentence(changes: dict[str, Any], words: str) -> None:
    [note] = notes(("medical", "medical"), **changes)
    assert words in note


def test_a_source_that_is_answered_otherwise_is_named() -> None:
    prompts = {"medical": "m", "cold": {"path": "c", "sampling": {"temperature": 0.1}}}
    [note] = notes(("medical", "medical"), ("cold", "medical"), prompts=prompts)
    assert note.startswith("medical (prompts.cold): ")


def test_one_sample_has_no_duplicates() -> None:
    assert notes(*BOTH, answers={"duplicates": "drop"}) == []
