"""Files of tasks before anything is loaded: what is asked, what is rejected, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from support.project import Project

from orchestrator.preflight.checks import Checked, check
from workers.evaluation.tasks.asked import TokenizedItem

CHOICE = {"prompt": "the fever is", "choices": ["high", "a rule"], "answer": "high", "domain": "medical"}
TEMPLATE = "{% for m in messages %}{{ m.content }} a {% endfor %}{% if add_generation_prompt %}the{% endif %}"


def checked(project: Project, *rows: Any, **task: Any) -> Checked:
    project.rows("tasks.jsonl", *rows)
    project.set("evaluate.tasks", {"facts": {"path": "tasks.jsonl", **task}})
    return check(project.load())


def asked(found: Checked) -> list[TokenizedItem]:
    [task] = found.tasks
    return [one for unit in task.units for one in unit.items]


def test_choices_continue_the_prompt(project: Project) -> None:
    [one] = asked(checked(project, CHOICE))
    ids = {w: i for i, w in enumerate(["<unk>", "<eos>", "the", "fever", "is", "high", "a", "contract", "binds"])}
    assert one.prompt_token_ids == (ids["the"], ids["fever"], ids["is"])
    assert one.choice_token_ids[0] == (ids["high"],) and len(one.choice_token_ids[1]) == 2


def test_rows_that_cannot_be_asked_are_counted_with_their_reason(project: Project) -> None:
    project.model("short", max_position_embeddings=64)
    project.set("teacher.model", "short")
    project.set("teacher.sampling", {"max_new_tokens": 8})
    long = CHOICE | {"prompt": "the fever " * 40}
    found = checked(project, CHOICE, CHOICE, {"prompt": "p"}, "{no json", long)
    assert len(asked(found)) == 1
    reasons = [row.reason for row in found.tasks[0].rejected]
    for reason, expected in zip(reasons, ("repeats the id", "has neither", "", "longer than the 64"), strict=True):
        assert expected in reason
    assert any(note.startswith("evaluate.tasks.facts: 4 rows rejected") for note in found.notes)


def test_only_so_many_rows_are_read(project: Project) -> None:
    rows = [CHOICE | {"id": i} for i in range(9)]
    assert len(asked(checked(project, *rows, limit=4))) == 4


def test_a_chat_is_written_by_the_template_of_its_domains_teacher(project: Project) -> None:
    project.model("chatty", template=TEMPLATE)
    project.set("teacher.model", "chatty")
    [one] = asked(checked(project, CHOICE, chat=True))
    assert one.prompt_token_ids == (2, 3, 4, 6, 2)  # the fever is | a | the
    assert one.choice_token_ids[0] == (5,)


@pytest.mark.parametrize(
    ("rows", "task", "why"),
    [
        ([], {}, "no row of .* can be asked .it is empty"),
        ([{"prompt": "p"}], {}, "no row of .* can be asked .1 rejected; 1 of them: has neither"),
        ([{"prompt": "p", "tests": "x", "domain": "d"}], {}, "tasks.facts: has tests, .* evaluate.run_code is off"),
        ([CHOICE], {"chat": True}, "tasks.facts.chat: the tokenizer of .* has no chat template"),
        ([CHOICE], {"path": "none.jsonl"}, "tasks.facts: no such file"),
        ([CHOICE], {"path": "none"}, "tasks.facts: no such file"),
        ([CHOICE], {"marking": "tests"}, "tasks.facts: has tests"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(project: Project, rows: Any, task: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^evaluate.*{why}"):
        checked(project, *rows, **task)


def test_tests_are_read_where_programs_may_run(project: Project) -> None:
    project.set("evaluate.run_code", True)
    [one] = asked(checked(project, {"prompt": "the rule", "tests": "assert f()", "domain": "medical"}))
    assert one.item.tests == "assert f()"


def test_a_gate_without_tasks_is_refused_and_one_that_tells_nothing_is_noted(project: Project) -> None:
    project.set("evaluate.gate", {"retention": "95%"})
    with pytest.raises(ValueError, match=r"evaluate: gate: retention 0.95 is of scores on tasks, and there are none"):
        project.load()
    notes = checked(project, CHOICE | {"domain": "elsewhere"}).notes
    assert any("no specialist's mix has elsewhere" in note for note in notes)
    assert any("evaluate.gate: no task has items of a domain of" in note for note in notes)
    [few, _] = [note for note in checked(project, CHOICE).notes if note.startswith("evaluate.gate: 1 items of medical")]
    assert few.endswith("it takes 59")
    rows = [CHOICE | {"id": f"{d}{i}", "domain": d} for i in range(59) for d in ("medical", "legal")]
    assert not any(note.startswith("evaluate.gate") for note in checked(project, *rows).notes)


# Variants ---------------------------------------------------------------------------------------------------

FILLED = {
    "template": "the fever is {n}",
    "slots": {"n": {"values": [1, 2, 3]}},
    "answer": "=n + 1",
    "domain": "medical",
    "id": "sum",
}


def test_edits_make_variants_that_are_asked_beside_their_items(project: Project) -> None:
    rows = [CHOICE | {"id": "a"}, CHOICE | {"id": "b", "prompt": "a contract is"}]
    found = checked(project, *rows, edits=["none_of_them", "names"], names={"fever": ["contract"]})
    variants = {one.item.uid: one.item for one in asked(found) if one.item.variant_of is not None}
    assert {(v.variant_of, v.edit) for v in variants.values()} == {
        ("a", "none_of_them"),
        ("b", "none_of_them"),
        ("a", "names"),
    }
    named = next(v for v in variants.values() if v.edit == "names")
    assert named.prompt == "the contract is" and named.answer == "high"
    assert any("names is not done to 1 items" in note for note in found.notes)
    again = checked(project, *reversed(rows), edits=["none_of_them", "names"], names={"fever": ["contract"]})
    assert {one.item.uid: one.item for one in asked(again) if one.item.variant_of is not None} == variants


def test_rows_with_a_template_are_items_and_variants_with_other_answers(project: Project) -> None:
    items = [one.item for one in asked(checked(project, FILLED, CHOICE, edits=["numbers"], variants=2))]
    given = [item for item in items if item.variant_of is None]
    assert {(i.prompt, i.answer) for i in given} == {("the fever is 1", "2"), ("the fever is", "high")}
    assert {(i.prompt, i.answer) for i in items if i.variant_of == "sum"} == {
        ("the fever is 2", "3"),
        ("the fever is 3", "4"),
    }


def test_variants_of_an_item_that_cannot_be_asked_are_not_asked(project: Project) -> None:
    project.model("short", max_position_embeddings=64)
    project.set("teacher.model", "short")
    project.set("teacher.sampling", {"max_new_tokens": 8})
    long = CHOICE | {"id": "long", "prompt": "the fever " * 40}
    found = checked(project, CHOICE | {"id": "a"}, long, edits=["no_question"])
    assert {(one.item.uid, one.item.variant_of) for one in asked(found)} == {("a", None), ("a~no_question", "a")}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"edits": ["numbers"]}, "numbers are made of rows with a `template`, and there is none"),
        ({"edits": ["names"]}, "`names` needs `names`, a table"),
        ({"edits": ["nonsense"]}, "evaluate.tasks.facts.edits"),
        ({"edits": ["names"], "names": {"fever": ["fever"]}}, "fever"),
    ],
)
def test_edits_that_need_what_is_not_there_are_refused(project: Project, task: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked(project, CHOICE, **task)


SCHEMA = {"type": "object", "required": ["dose"]}


def test_a_format_is_read_from_its_file(project: Project) -> None:
    project.json("schemas/dose.json", SCHEMA)
    row = {"prompt": "the fever is", "domain": "medical"}
    found = checked(project, CHOICE, row, format={"json_schema": "schemas/dose.json"})
    [unit] = found.tasks[0].units
    assert unit.format is not None and unit.format.json_schema == SCHEMA
    assert [one.item.marking for one in unit.items] == ["choice", "format"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"format": {"regex": "("}}, r"evaluate.tasks.facts.format.regex: is no regular expression .*\(got '\('\)"),
        ({"format": {"json_schema": {"type": "x"}}}, "evaluate.tasks.facts.format.json_schema: is no JSON schema"),
        ({"format": {"json_schema": "none.json"}}, "facts.format.json_schema: cannot read '.*none.json': No such file"),
        ({"format": {"json_schema": "bad.json"}}, "facts.format.json_schema: '.*bad.json': is list, not a JSON schema"),
        ({"format": {}}, "evaluate.tasks.facts.format: give one of regex and json_schema"),
        ({"format": {"regex": "a", "json_schema": SCHEMA}}, "evaluate.tasks.facts.format: give one"),
        ({"format": {"regexp": "a"}}, "evaluate.tasks.facts.format.regexp: unknown key; did you mean 'regex'"),
        ({"format": {"regex": "a"}}, "facts.format: is of texts that are written, and all rows have choices"),
        ({"format": {"regex": "a"}, "marking": "choice"}, "evaluate.tasks.facts: format: is of texts"),
        ({"marking": "format"}, "evaluate.tasks.facts: marking: format, and there is no format"),
    ],
)
def test_formats_that_mean_nothing_are_refused(project: Project, task: dict[str, Any], said: str) -> None:
    project.json("bad.json", ["type"])
    with pytest.raises(ValueError, match=said):
        checked(project, CHOICE, **task)


def test_bridges_are_of_items_that_are_written(project: Project) -> None:
    project.set("evaluate.bridges", {"texts": 2, "positions": 3})
    with pytest.raises(ValueError, match="evaluate: bridges: are tokens of answers to tasks, and there are none"):
        check(project.load())
    with pytest.raises(ValueError, match=r"evaluate\.bridges: .* written and marked, and no"):
        checked(project, CHOICE)
    rows = [{"prompt": f"the fever is {i}", "answer": "high", "domain": "medical"} for i in range(9)]
    notes = checked(project, CHOICE, *rows, max_new_tokens=7).notes
    [note] = [note for note in notes if note.startswith("evaluate.bridges: ")]
    for words in ("in 1 domains", "8 answers more", "behind at most 6 changed tokens", "up to 7 tokens", "most 6 in"):
        assert words in note


def test_a_rows_counterfactual_is_a_variant_with_the_same_answer(project: Project) -> None:
    rows = [
        CHOICE | {"id": "given", "counterfactual": "the rule is"},
        CHOICE | {"id": "same", "counterfactual": CHOICE["prompt"]},
        CHOICE | {"id": "empty", "counterfactual": ""},
        CHOICE | {"id": "plain"},
    ]
    found = checked(project, *rows, edits=["names"], names={"fever": ["contract"]})
    items = {one.item.uid: one.item for one in asked(found)}
    assert items.keys() == {"given", "given~names", "plain", "plain~names"}
    swapped = items["given~names"]
    assert (swapped.prompt, swapped.answer, swapped.edit, swapped.variant_of) == (
        "the rule is",
        "high",
        "names",
        "given",
    )
    assert "contract" in items["plain~names"].prompt  # of a row that has none, by the table
    assert [row.reason for row in found.tasks[0].rejected] == [
        "'counterfactual' is the prompt itself",
        "'counterfactual' is empty",
    ]
