"""What `stillhouse compare` asks is a configuration like any other: of models that are only measured."""

from __future__ import annotations

import pytest

from orchestrator.config.comparing import comparison


def test_names_are_given_or_taken_from_what_is_named() -> None:
    file = comparison("acme/teacher", ["acme/small.gguf", "b=models/x"], ["p/medical.jsonl", "law=l.jsonl"], [], None)
    config = file.config
    assert {n: m.model for n, m in config.evaluate.models.items()} == {"small": "acme/small.gguf", "b": "models/x"}
    assert {n: s.path for n, s in config.prompts.items()} == {"medical": "p/medical.jsonl", "law": "l.jsonl"}
    assert not config.specialists and config.teachers["teacher"].model == "acme/teacher"


def test_a_run_is_named_by_teacher_prompts_and_settings_so_that_a_further_student_finds_it() -> None:
    def name(teacher: str = "t", students: tuple[str, ...] = ("s",), prompts: str = "p", *sets: str) -> str:
        return comparison(teacher, students, [prompts], sets, None).config.name

    assert name() == name(students=("s", "u"))
    others = [name("other"), name(prompts="other"), name("t", ("s",), "p", "teacher.batch=2")]
    assert len({name(), *others}) == 4
    assert comparison("t", ["s"], ["p"], [], "mine").config.name == "mine"


@pytest.mark.parametrize(
    ("students", "said"),
    [
        (["a/x", "b/x"], "there is another 'x'"),
        (["=b"], "expected NAME=WHAT"),
        (["teacher=b"], "evaluate.models: 'teacher' is the name of something else"),
        (["a b=c"], "'a b' is not a name"),
        ([], "evaluate.models names no model"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(students: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        comparison("t", students, ["p"], [], None)
