"""Which answers of a unit are kept, and the reason of each other one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.teacher.config import AnswersConfig
from workers.teacher.units.answer_filter import FilterCode
from workers.teacher.units.answers import AnswerRules, AnswerSelection, answers_of
from workers.units import Prompt

END = 96
MakeUnit = Callable[..., UnitTargets]


def prompt(name: str, *domains: str, **fields: Any) -> Prompt:
    asked: dict[str, Any] = {"teacher": "t", "samples": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4}
    return Prompt(
        name, domains or ("medical",), **(asked | {"prompt_token_ids": [3, 4], "answer_token_ids": None} | fields)
    )


@pytest.fixture
def unit(make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]) -> MakeUnit:
    """A unit with the given answers: a prompt's id, and words of which each is a token; `.` is the end token."""

    def make(*answers: tuple[str, str]) -> UnitTargets:
        words = [["é", "is", *text.split()] for _, text in answers]
        lengths = [len(w) for w in words]
        targets = make_targets(
            make_header(), np.random.default_rng(0), [p for p, _ in answers], lengths, [2] * len(words)
        )
        targets.texts = [" ".join(w) for w in words]
        targets.ends = np.array([len(" ".join(w[: i + 1]).encode()) for w in words for i in range(len(w))], np.uint32)
        targets.tokens = np.array([END if word == "." else 5 + len(word) for w in words for word in w], np.uint32)
        seen: dict[str, int] = {}
        targets.samples = np.array([seen.update({p: seen.get(p, -1) + 1}) or seen[p] for p, _ in answers], np.uint16)
        return targets

    return make


def selection(withhold: dict[str, list[str]] | None = None, code: str = "", **settings: Any) -> AnswerSelection:
    filter_code = FilterCode("keep.py", "keep", code) if code else None
    return AnswerSelection(AnswerRules(AnswersConfig(**settings), withhold or {}, filter_code, frozenset({END})))


def reasons(aside: list[dict[str, Any]]) -> list[str]:
    return [a["reason"] for a in aside]


# What an answer is --------------------------------------------------------------------------------------------


def test_an_answer_is_the_text_after_its_prompt_without_the_end(unit: MakeUnit) -> None:
    targets = unit(("a", "high and ."), ("a", "a b c d"), ("a", "b c d ."))
    found = list(answers_of(targets, [prompt("a")], frozenset({END})))
    assert [a.before for a in found] == ["é is"] * 3
    assert [a.text for a in found] == [" high and", " a b c d", " b c d"]
    assert [a.tokens for a in found] == [3, 4, 4]
    assert [a.ended for a in found] == [True, False, True], "the second ran to max_new_tokens"


def test_an_answer_does_not_depend_on_where_targets_begin(unit: MakeUnit) -> None:
    targets = unit(("a", "high and ."))
    [answer] = answers_of(targets, [prompt("a")], frozenset({END}))
    targets.starts = np.array([1])
    assert list(answers_of(targets, [prompt("a")], frozenset({END}))) == [answer]


def test_a_stop_string_and_a_given_answer_end_a_text(unit: MakeUnit) -> None:
    targets = unit(("a", "w x y z"), ("b", "w x y z"))
    prompts = [prompt("a", stop=("y z",)), prompt("b", answer_token_ids=[6, 6, 6, 6])]
    assert [a.ended for a in answers_of(targets, prompts, frozenset({END}))] == [True, True]


def test_prompts_that_the_teacher_failed_on_have_no_row(unit: MakeUnit) -> None:
    assert selection(min_tokens=3)(UnitTargets(), [prompt("a")])[1] == []
    kept, aside = selection(min_tokens=2)(unit(("b", "x .")), [prompt("a"), prompt("b")])
    assert kept.prompt_uids == ["b"] and aside == []


# Withheld words -----------------------------------------------------------------------------------------------


def test_texts_with_a_withheld_word_are_rejected(unit: MakeUnit) -> None:
    targets = unit(("a", "eat broccoli"), ("b", "broccoli law"), ("c", "broccoli alone"), ("d", "eat carrots"))
    prompts = [prompt("a"), prompt("b", "legal", "medical"), prompt("c", "legal"), prompt("d")]
    kept, aside = selection({"medical": ["London", "broccoli"]})(targets, prompts)
    assert kept.prompt_uids == ["c", "d"] and kept.texts == targets.texts[2:]
    assert [a["id"] for a in aside] == ["a", "b"] and all("'broccoli'" in r for r in reasons(aside))
    assert kept.content_hash() == targets.select(np.array([2, 3])).content_hash()


def test_without_rules_nothing_changes(unit: MakeUnit) -> None:
    targets = unit(("a", "x ."), ("b", "y"))
    kept, aside = selection({"medical": ["absent"], "law": ["x"]})(targets, [prompt("a"), prompt("b")])
    assert aside == [] and kept is targets


def test_a_unit_of_which_nothing_is_kept_is_empty(unit: MakeUnit) -> None:
    kept, aside = selection(min_tokens=9)(unit(("a", "x ."), ("b", "y .")), [prompt("a"), prompt("b")])
    assert kept.rows == 0 and len(aside) == 2


# Lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_tokens": 3}, ["is shorter than 3 tokens", None, None]),
        ({"max_tokens": 3}, [None, None, "is longer than 3 tokens"]),
        ({"min_characters": 4}, ["is shorter than 4 characters", None, None]),
        ({"max_characters": 4}, [None, None, "is longer than 4 characters"]),
        ({"unfinished": "drop"}, [None, None, "is cut off at 4 tokens"]),
        ({"min_tokens": 2, "max_tokens": 4, "min_characters": 2, "max_characters": 14}, [None, None, None]),
    ],
    ids=str,
)
def test_lengths_count_the_end_token_and_no_white_space(
    unit: MakeUnit, settings: dict[str, Any], said: list[str | None]
) -> None:
    targets = unit(("a", "éé ."), ("b", "x yz ."), ("c", "two or 3 words"))
    kept, aside = selection(**settings)(targets, [prompt("a"), prompt("b"), prompt("c")])
    told = {a["id"]: a["reason"] for a in aside}
    assert [told.get(name) for name in "abc"] == said
    assert kept.prompt_uids == [name for name, reason in zip("abc", said, strict=True) if reason is None]


# Duplicates ---------------------------------------------------------------------------------------------------

THREE = (("a", "x ."), ("a", "x ."), ("a", "y ."), ("b", "x ."))


@pytest.mark.parametrize(
    ("duplicates", "sampling", "kept"),
    [
        ("drop", {}, 3),
        ("keep", {"temperature": 0.5}, 4),
        ("auto", {}, 4),
        ("auto", {"temperature": 0.5}, 3),
        ("auto", {"top_p": 0.9}, 3),
        ("auto", {"min_new_tokens": 1}, 3),
        ("auto", {"stop": ("END",)}, 4),
    ],
    ids=str,
)
def test_equal_answers_of_one_prompt(unit: MakeUnit, duplicates: Any, sampling: dict[str, Any], kept: int) -> None:
    prompts = [prompt("a", **sampling), prompt("b", **sampling)]
    found, aside = selection(duplicates=duplicates)(unit(*THREE), prompts)
    assert found.rows == kept
    if kept == 3:
        assert aside == [{"id": "a", "sample": 1, "reason": "repeats another answer to its prompt"}]


def test_auto_asks_for_the_temperature_of_the_capture(unit: MakeUnit) -> None:
    """At 2 on both sides, text is a sample of the distributions; at 1 of the text alone it is not."""
    targets = unit(*THREE)
    targets.temperature = 2.0
    assert selection()(targets, [prompt("a", temperature=2.0), prompt("b", temperature=2.0)])[1] == []
    assert len(selection()(targets, [prompt("a"), prompt("b")])[1]) == 1


def test_an_answer_that_resumes_is_not_one_that_ends(unit: MakeUnit) -> None:
    assert selection(duplicates="drop")(unit(("a", "x y"), ("a", "x y .")), [prompt("a")])[1] == []


# The filter ---------------------------------------------------------------------------------------------------


def test_a_filter_sees_texts_and_facts(unit: MakeUnit) -> None:
    code = "def keep(prompt, answer, about):\n    return repr((prompt, answer, about))\n"
    _, [first, second] = selection(code=code)(
        unit(("a", "x ."), ("b", "y")), [prompt("a"), prompt("b", "code", "law", answer_token_ids=[6])]
    )
    about = {"id": "a", "sample": 0, "domains": ("medical",), "teacher": "t", "tokens": 2, "ended": True}
    assert first["reason"] == f"the filter says: {('é is', ' x', about | {'given': False})!r}"
    assert "'domains': ('code', 'law')" in second["reason"] and "'given': True" in second["reason"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return True", None),
        ("import numpy\n    return numpy.float64(2) > 1", None),
        ("return False", "the filter refused it"),
        ("return 'too\\n short'", "the filter says: too short"),
        ("return 'x' * 9999", f"the filter says: {'x' * 199}…"),
        ("return '\\ud800'", "the filter says: ?"),
        ("pass", "the filter failed: it returned None, not True, False or a reason"),
        ("return 1", "the filter failed: it returned 1, not True, False or a reason"),
        ("return ''", "the filter failed: it returned '', not True, False or a reason"),
        ("return about['no']", "the filter failed: KeyError: 'no'"),
        ("raise SystemExit(3)", "the filter failed: SystemExit: 3"),
        ("return keep(prompt, answer, about)", "the filter failed: RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_the_verdict_of_a_filter(unit: MakeUnit, body: str, reason: str | None) -> None:
    code = f"def keep(prompt, answer, about):\n    {body}\n"
    kept, aside = selection(code=code)(unit(("a", "x .")), [prompt("a")])
    assert reasons(aside) == ([reason] if reason else []) and kept.rows == (0 if reason else 1)


def test_a_filter_that_fails_on_one_answer_judges_the_others(unit: MakeUnit) -> None:
    code = "def keep(prompt, answer, about):\n    return 1 / (answer != ' x') > 0\n"
    kept, aside = selection(code=code)(unit(("a", "x ."), ("b", "y .")), [prompt("a"), prompt("b")])
    assert kept.prompt_uids == ["b"] and reasons(aside) == ["the filter failed: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("code", ["import no_such_module\n", "def keep(:\n", "def other(): ...\n", "exit(1)\n", "\0"])
def test_a_filter_that_cannot_be_loaded_says_so(unit: MakeUnit, code: str) -> None:
    with pytest.raises(ValueError, match=r"answers\.filter: keep\.py:keep cannot be loaded here: "):
        selection(code=code)(unit(("a", "x .")), [prompt("a")])


def test_a_filter_may_use_what_a_module_may(unit: MakeUnit) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Limit:\n    most: int\n\n"
        "LIMIT = Limit(3)\n\ndef keep(prompt, answer, about):\n    return about['tokens'] < LIMIT.most\n"
    )
    assert selection(code=code)(unit(("a", "x ."), ("a", "x y .")), [prompt("a")])[0].texts == ["é is x ."]


def test_the_first_reason_counts_and_the_filter_is_asked_last(unit: MakeUnit) -> None:
    code = "def keep(prompt, answer, about):\n    return 'never'\n"
    rules = selection({"medical": ["x"]}, code=code, min_tokens=3, duplicates="drop")
    targets = unit(("a", "x"), ("a", "y"), ("a", "y z ."), ("a", "y z ."))
    assert [r.split(" ")[0] for r in reasons(rules(targets, [prompt("a")])[1])] == ["contains", "is", "the", "repeats"]


# What is recorded ---------------------------------------------------------------------------------------------


def test_the_record_holds_the_rules_in_force_and_the_hash_of_the_code() -> None:
    assert AnswerRules().record() == {"duplicates": "auto"}
    settings = AnswersConfig(min_tokens=5, filter="/somewhere/keep.py:keep")
    one = AnswerRules(settings, filter=FilterCode("keep.py", "keep", "def keep(p, a, b): return True"))
    other = AnswerRules(settings, filter=FilterCode("keep.py", "keep", "def keep(p, a, b): return False"))
    assert one.record() == {
        "duplicates": "auto",
        "min_tokens": 5,
        "filter": "keep.py:keep",
        "filter_sha256": one.filter.sha256 if one.filter else "",
    }
    assert one.record() != other.record()


@pytest.mark.parametrize("settings", [{"min_tokens": 5, "max_tokens": 4}, {"min_characters": 2, "max_characters": 1}])
def test_rules_that_keep_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no answer could be kept"):
        AnswersConfig(**settings)
