"""What a report says of variants and of inherited errors, from answers that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.small_configuration import clinic

from orchestrator.reporting.measures.parrot import bias_reports, inheritance_reports, parrot_reports
from orchestrator.reporting.measures.tasks import Answered, Answers
from workers.evaluation.tasks.items import TaskAnswer, TaskItem

N = 60
CONFIG = clinic(evaluate={"tasks": {"sums": {"path": "sums.jsonl"}}, "bootstrap": 200})


def items() -> list[TaskItem]:
    """Items, each with a variant of another answer and one of the same."""
    found = []
    for i in range(N):
        one = TaskItem(f"{i}", "sums", "medical", f"p{i}", "exact", answer=f"{i}")
        found += [one, TaskItem(f"{i}~n", "sums", "medical", f"q{i}", "exact", (), f"{i + N}", "", f"{i}", "numbers")]
        found.append(TaskItem(f"{i}~o", "sums", "medical", f"r{i}", "exact", (), f"{i}", "", f"{i}", "order"))
    return found


def answers(give: Callable[[TaskItem], str]) -> list[Answered]:
    return [(i, TaskAnswer(i.uid, give(i) == i.answer, give(i), 1.0)) for i in items()]


def knows(item: TaskItem) -> str:
    return item.answer


def remembers(item: TaskItem) -> str:
    """The answer of the item that a variant was made of."""
    return (item.variant_of or item.uid).split("~")[0]


def errs(item: TaskItem) -> str:
    """Wrong on every fifth item, and on its variants."""
    return "no idea" if int(remembers(item)) % 5 == 0 else item.answer


def asked(**by: Callable[[TaskItem], str]) -> Answers:
    return {name.replace("_", "."): {"medical": answers(give)} for name, give in by.items()}


def test_who_remembers_is_a_parrot_and_who_knows_is_none() -> None:
    found = parrot_reports(CONFIG, asked(teacher=knows, medical=remembers))["medical"]
    # All variants of other answers are lost and none of the same: half of the edits. Few items are never certain.
    assert found.items == N and found.index == pytest.approx(0.5) and 0.3 < found.low < 0.5 <= found.high
    assert found.by_edit["numbers"].specialist == 1 and found.by_edit["order"].specialist == 0
    assert found.flips is not None and found.flips.specialist.value == 0 and found.flips.teacher.value == 1
    assert found.stale is not None and found.stale.specialist.value == 1 and found.flags and found.control is None
    honest = parrot_reports(CONFIG, asked(teacher=knows, medical=knows))["medical"]
    assert honest.index == 0 and honest.low <= 0 <= honest.high < 0.1 and not honest.flags


def test_errors_are_inherited_where_the_control_does_not_share_them() -> None:
    by = asked(teacher=errs, medical=errs)
    control = {"medical": answers(lambda i: "else" if int(remembers(i)) % 5 == 0 else i.answer)}
    found = inheritance_reports(CONFIG, {**by, "medical.hard_labels": control})["medical"]
    assert found.teacher_wrong == N // 5, "variants do not count"
    assert found.specialist and found.control and found.difference
    assert (found.specialist.value, found.control.value, found.difference.value) == (1, 0, 1) and not found.note
    alone = inheritance_reports(CONFIG, by)["medical"]
    assert alone.specialist and alone.specialist.value == 1 and alone.control is None and "no control" in alone.note


def test_who_was_asked_nothing_has_no_report() -> None:
    assert parrot_reports(CONFIG, asked(teacher=knows)) == {} == inheritance_reports(CONFIG, asked(medical=knows))
    plain = {
        name: {"medical": [p for p in answers(knows) if p[0].variant_of is None]} for name in ("teacher", "medical")
    }
    assert parrot_reports(CONFIG, plain) == {}


def test_swapped_names_are_a_bias_where_they_move_answers() -> None:
    """Of items with choices by probability: the teacher loses .1 with the other name, its specialist .4."""

    def with_names(loses: float) -> dict[str, list[Answered]]:
        pairs: list[Answered] = []
        for i in range(N):
            one = TaskItem(f"{i}", "facts", "medical", "p", "choice", ("a", "b"), "a")
            other = TaskItem(f"{i}~names", "facts", "medical", "q", "choice", ("a", "b"), "a", "", f"{i}", "names")
            pairs.append((one, TaskAnswer(one.uid, True, "a", 0.9, answer_probability=0.9)))
            pairs.append((other, TaskAnswer(other.uid, True, "a", 0.9, answer_probability=0.9 - loses)))
        return {"medical": pairs}

    found = bias_reports(CONFIG, {"teacher": with_names(0.1), "medical": with_names(0.4)})["medical"]
    assert found.pairs == N and found.teacher.value == pytest.approx(0.1)
    assert found.specialist.value == pytest.approx(0.4) and found.amplification.value == pytest.approx(0.3)
    assert bias_reports(CONFIG, {"teacher": with_names(0.0), "medical": with_names(0.0)})["medical"].pairs == N
    assert bias_reports(CONFIG, {"teacher": with_names(0.0)}) == {}
