"""Where a specialist is farthest from its teacher."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.render.page.farthest import SHOWN, farthest
from orchestrator.render.page.tokens import TokenText

WORDS = [" the", " fever", " is", " high", "\\n", " today"]


def text(*kl: float, control: bool = True) -> TokenText:
    guesses = [[(word, 0.75), (" else", 0.25)] for word in WORDS]
    columns = {"teacher": guesses, "specialist": [[(" no", 0.5)]] * len(WORDS)}
    columns |= {"hard labels": [[(" so", 1.0)]] * len(WORDS)} if control else {}
    return TokenText("t", "", "asked :", WORDS, [0.0] * len(WORDS), "", [[]] * len(WORDS), columns, kl)


def test_the_farthest_of_all_texts_come_first_each_in_its_context() -> None:
    first, second, *others = farthest([text(0.1, 2.5, 0, 0, 0, 0), text(0, 0, 0, 4, 0, 0.3)])
    assert (first.kl, first.token, first.before) == (4, " high", "asked : the fever is"[-8 - len(" the fever is") :])
    assert first.choices == [("teacher", " high 75%"), ("specialist", " no 50%"), ("hard labels", " so 100%")]
    assert (second.kl, second.token) == (2.5, " fever") and [t.kl for t in others] == [0.3, 0.1, 0]
    assert len([first, second, *others]) == SHOWN


def test_a_model_that_a_text_is_not_shown_of_has_no_choice_there() -> None:
    far = farthest([text(1, 0, 0, 0, 0, 0), text(2, 0, 0, 0, 0, 0, control=False)])
    assert [len(token.choices) for token in far] == [3] * SHOWN and far[0].choices[2] == ("hard labels", "")


def test_texts_that_are_told_apart_by_nothing_have_none() -> None:
    assert farthest([replace(text(), kl=())]) == [] and farthest([]) == []
