"""Variants of items: what an edit changes, what it leaves, and that nothing but seed and uid moves it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workers.evaluation.tasks.items import Edit, TaskItem
from workers.evaluation.tasks.variants.edits import EditSources, variants_of
from workers.evaluation.tasks.variants.sentences import listing_of, sentences

CLOZE = TaskItem(
    "c1", "t", "med", "Ada is ill. Her pulse is weak. Which drug helps?", "choice", (" velorin", " ibrasol", " serovax")
)
CLOZE = replace(CLOZE, answer=" ibrasol")
LETTERS = TaskItem(
    "l1",
    "t",
    "med",
    "A man has a fever. He coughs.\nWhat is it?\nA. Flu\nB. Gout\nC. A broken leg\nAnswer:",
    "choice",
    (" A", " B", " C"),
    " A",
)
TEXTS = TaskItem(
    "x1", "t", "law", "The deed is old. Is it valid, void or open?", "choice", ("valid", "void", "open"), "void"
)
FREE = TaskItem("f1", "t", "med", "Anna weighs 60 kg. Bob weighs 70 kg. What do they weigh?", "exact", answer="130 kg")
CODE = TaskItem("p1", "t", "code", 'def add(a, b):\n    """Adds. Sums."""\n', "tests", tests="assert add(1, 2) == 3")
ITEMS = [CLOZE, LETTERS, TEXTS, FREE, CODE]
SOURCES = EditSources(
    names={"Anna": ["Carla", "Dora"], "Bob": ["Carla", "Emil"], "add": ["plus"], "fever": ["rash"]},
    clauses={"law": ["the sun shone that day"]},
)
ALL: tuple[Edit, ...] = ("names", "order", "irrelevant", "shuffled", "none_of_them", "no_question")


def variant(item: TaskItem, edit: Edit, seed: int = 3, others: list[TaskItem] = ITEMS) -> TaskItem | None:
    made = variants_of(others, [edit], seed, SOURCES).items
    return next((v for v in made if v.variant_of == item.uid), None)


def must(item: TaskItem, edit: Edit, seed: int = 3) -> TaskItem:
    found = variant(item, edit, seed)
    assert found is not None and found.edit == edit and found.uid == f"{item.uid}~{edit}"
    assert (found.task, found.domain, found.marking) == (item.task, item.domain, item.marking)
    return found


def test_variants_hang_on_seed_and_uid_alone() -> None:
    once = variants_of(ITEMS, ALL, 3, SOURCES)
    again = variants_of(ITEMS[::-1], ALL[::-1], 3, SOURCES)
    assert {v.uid: v for v in once.items} == {v.uid: v for v in again.items}
    assert once.skipped == again.skipped
    prompts = {must(LETTERS, "shuffled", seed).prompt for seed in range(20)}
    assert len(prompts) == 5  # all orders of three but the first


def test_nothing_is_dropped_in_silence() -> None:
    made = variants_of(ITEMS, ALL, 3, SOURCES)
    assert len(made.items) + sum(made.skipped.values()) == len(ITEMS) * len(ALL)
    assert not [
        v
        for v in made.items
        if (v.prompt, v.choices) == next((i.prompt, i.choices) for i in ITEMS if i.uid == v.variant_of)
    ]


def test_shuffled_letters_move_the_texts_and_the_answer() -> None:
    for seed in range(8):
        found = must(LETTERS, "shuffled", seed)
        assert found.choices == LETTERS.choices and found.prompt != LETTERS.prompt
        assert f"{found.answer.strip()}. Flu\n" in found.prompt
        assert sorted(found.prompt) == sorted(LETTERS.prompt)


def test_shuffled_texts_move_with_the_choices() -> None:
    found = must(TEXTS, "shuffled")
    assert found.answer == "void" and sorted(found.choices) == ["open", "valid", "void"]
    assert found.prompt == f"The deed is old. Is it {found.choices[0]}, {found.choices[1]} or {found.choices[2]}?"


def test_an_order_that_no_model_sees_is_not_shuffled() -> None:
    assert variant(CLOZE, "shuffled") is None
    ((edit, reason),) = variants_of([CLOZE], ["shuffled"], 0, SOURCES).skipped
    assert edit == "shuffled" and "order is not seen" in reason


def test_none_of_the_others_is_last_right_and_unreviewed() -> None:
    cloze, letters, texts = (must(i, "none_of_them") for i in (CLOZE, LETTERS, TEXTS))
    assert cloze.choices == (" velorin", " serovax", " none of the others") and cloze.answer == cloze.choices[-1]
    assert letters.choices == LETTERS.choices and letters.answer == " C"
    assert "A. Gout\nB. A broken leg\nC. None of the others\nAnswer:" in letters.prompt and "Flu" not in letters.prompt
    assert texts.prompt.endswith("Is it valid, open or none of the others?") and texts.answer == "none of the others"
    assert not any(v.reviewed for v in (cloze, letters, texts))


def test_without_the_question_the_choices_stay() -> None:
    assert must(CLOZE, "no_question").prompt == "Answer:"
    assert must(LETTERS, "no_question").prompt == "A. Flu\nB. Gout\nC. A broken leg\nAnswer:"
    assert must(LETTERS, "no_question").answer == " A"
    assert variant(TEXTS, "no_question") is None  # they are one sentence
    lines = replace(TEXTS, prompt="Is the deed good?\nOptions: valid, void, open")
    assert variants_of([lines], ["no_question"], 0, SOURCES).items[0].prompt == "Options: valid, void, open"


def test_a_foreign_clause_stands_before_the_question() -> None:
    assert must(TEXTS, "irrelevant").prompt == "The deed is old. the sun shone that day. Is it valid, void or open?"
    assert must(TEXTS, "irrelevant").reviewed
    found = must(CLOZE, "irrelevant")
    clause = found.prompt.removeprefix("Ada is ill. Her pulse is weak. ").removesuffix(" Which drug helps?")
    assert clause in ("A man has a fever.", "Anna weighs 60 kg.") and not found.reviewed
    assert must(LETTERS, "irrelevant").prompt.index("What is it?") > must(LETTERS, "irrelevant").prompt.index(
        "He coughs."
    )


def test_sentences_change_places_unless_one_leans_on_another() -> None:
    assert must(FREE, "order").prompt == "Bob weighs 70 kg. Anna weighs 60 kg. What do they weigh?"
    assert variant(CLOZE, "order") is None and variant(LETTERS, "order") is None  # "Her pulse", "He coughs"


def test_names_are_swapped_whole_in_their_case_and_apart() -> None:
    found = must(FREE, "names")
    words = found.prompt.split()
    assert words[0] in ("Carla", "Dora") and words[4] in ("Carla", "Emil") and words[0] != words[4]
    assert found.answer == FREE.answer and found.reviewed
    code = must(CODE, "names")
    assert code.prompt.startswith("def plus(a, b)") and code.tests == "assert plus(1, 2) == 3"
    loud = replace(LETTERS, uid="l2", prompt="FEVER, Fever or feverish?", choices=("x", "y"), answer="x")
    swapped = variants_of([loud], ["names"], 0, SOURCES).items[0]
    assert swapped.prompt == "RASH, Rash or feverish?"


def test_edits_that_only_templates_give_are_refused() -> None:
    with pytest.raises(ValueError, match="templates"):
        variants_of(ITEMS, ["numbers"], 0, SOURCES)
    with pytest.raises(ValueError, match="table"):
        variants_of(ITEMS, ["names"], 0, EditSources())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("Dr. Ada takes 2.5 mg. She sleeps.", ["Dr. Ada takes 2.5 mg.", "She sleeps."]),
        ("a cough . a rash . treatment :", ["a cough .", "a rash .", "treatment :"]),
        ("Take 5 mg. of it, e.g. daily. Why?", ["Take 5 mg. of it, e.g. daily.", "Why?"]),
        ('He said "no." Then he left. ', ['He said "no."', "Then he left."]),
        ("  ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert [text[a:b] for a, b in sentences(text)] == parts


def test_a_list_is_found_only_where_all_of_it_stands_in_order() -> None:
    assert listing_of(CLOZE) is None
    assert listing_of(replace(TEXTS, choices=("void", "valid", "open"))) is None
    assert listing_of(replace(LETTERS, choices=(" A", " B", " C", " D"))) is None
    found = listing_of(LETTERS)
    assert found is not None and found.labelled and found.texts(LETTERS.prompt) == ["Flu", "Gout", "A broken leg"]
