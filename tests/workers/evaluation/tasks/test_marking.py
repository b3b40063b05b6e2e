"""Which answers are right, and programs and patterns that do not end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workers.evaluation.tasks.items import TaskItem
from workers.evaluation.tasks.marking import mark_choice, mark_texts
from workers.evaluation.tasks.sandbox import full_matches, runs_to_its_end

ITEM = TaskItem("u", "t", "d", "p", "choice", ("long and long", "short"), "long and long")


def test_the_most_probable_choice_is_taken() -> None:
    answer = mark_choice(ITEM, [-6.0, -4.0], "none")
    assert (answer.correct, answer.given) == (False, "short")
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-2)))
    assert answer.answer_probability == pytest.approx(1 - answer.confidence)


def test_by_character_the_longer_choice_may_be_taken() -> None:
    answer = mark_choice(ITEM, [-6.0, -4.0], "characters")  # -6 / 13 > -4 / 5
    assert answer.correct and answer.logprobs == (-6.0, -4.0)
    assert answer.confidence == answer.answer_probability == pytest.approx(1 / (1 + math.exp(2)))


def test_log_probabilities_far_below_zero_are_a_distribution_still() -> None:
    assert mark_choice(ITEM, [-2000.0, -2001.0], "none").confidence == pytest.approx(1 / (1 + math.exp(-1)))


def marked(item: TaskItem, text: str) -> bool:
    [answer] = mark_texts([item], [(text, -1.0)])
    assert answer.confidence == pytest.approx(math.exp(-1)) and answer.given == text
    return answer.correct


def test_exact_means_equal_but_for_white_space_around_it() -> None:
    item = TaskItem("u", "t", "d", "p", "exact", answer="42")
    assert marked(item, " 42\n") and not marked(item, "42.") and not marked(item, "4 2")


def test_a_pattern_has_to_match_all_of_it() -> None:
    item = TaskItem("u", "t", "d", "p", "regex", answer=r"(the )?\d+")
    assert marked(item, "the 42\n") and not marked(item, "the 42 men")


def test_a_pattern_that_never_ends_does_not_match_and_stops_nothing() -> None:
    endless = "(a+)+b", "a" * 200
    assert full_matches([("x*", "xx"), endless, ("y", "y")], seconds=0.2) == [True, False, True]
    assert full_matches([]) == []


CODE = TaskItem("u", "t", "d", "def double(n):\n", "tests", tests="assert double(2) == 4")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("def double(n):\n    return 2 * n", True),
        ("    return 2 * n", True),  # behind the prompt
        ("Here it is:\n```python\ndef double(n):\n    return n + n\n```\nAnd done.", True),
        ("def double(n):\n    return 3 * n", False),
        ("no program", False),
        ("import sys\nsys.exit(0)", False),
        ("import os\nos._exit(0)", False),
        ("print('ran to its end')\nimport os\nos._exit(0)", False),
    ],
)
def test_a_program_has_to_pass_the_tests_behind_it(text: str, right: bool) -> None:
    assert marked(CODE, text) is right


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "x = bytearray(1 << 31)",
        "open('big', 'wb').write(bytes(1 << 22))",
        "import os\nassert 'HOME' in os.environ",
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n1 / 0",
    ],
)
def test_limits_end_a_program(program: str) -> None:
    assert not runs_to_its_end(program, seconds=1)


def test_a_program_may_write_small_files_in_a_folder_that_is_gone_afterwards() -> None:
    assert runs_to_its_end("import os\nopen('a', 'w').write('x')\nassert sorted(os.listdir()) == ['a', 'program.py']")


def test_confidences_of_choices_add_up_to_one() -> None:
    logprobs = np.random.default_rng(0).normal(-5, 3, 2)
    answer = mark_choice(ITEM, logprobs.tolist(), "none")
    assert answer.answer_probability in (answer.confidence, pytest.approx(1 - answer.confidence))
