"""Pages of stored texts and of answers: the same component, whatever the tokens are."""

from __future__ import annotations

import re
from typing import Any

from support.pages.guesses import guesses_of

from orchestrator.render.page.token_page import answers_page, stored_page


def shades_of(page: str) -> list[float]:
    return [float(v) for v in re.findall(r'class="t" style="--v:([\d.]+)"', page)]


def position(token: str, logprob: float, exact: bool) -> dict[str, Any]:
    stored = {"entropy": 1.5, "token_logprob": logprob, "ids": [[1, token, 0.5], [2, "b", 0.25], [3, "c", 0.125]]}
    return {"position": 4, "token": [1, token], "behind": f"␣{token}", "stored": stored} | (
        {"exact": stored} if exact else {}
    )


def test_a_stored_text_is_coloured_by_its_surprise() -> None:
    found = {
        **{"run": "runs/x", "split": "train", "scheme": "systematic", "prompt_uid": "<p>", "sample": 0, "unit": 3},
        **{
            "teacher": "teacher",
            "text": "ä before</script> after",
            "target_byte": 10,
            "tokens": 9,
            "start": 4,
            "top": 2,
        },
        "positions": [position("␣a", -0.5, True), position("</script>", -50.0, True)],
    }
    page = stored_page(found)
    assert shades_of(page) == [0.1, 1.0] and "3 more positions" in page and "&lt;p&gt;" in page
    [one] = guesses_of(page)
    assert one["says"] == ["log p -0.50; entropy 1.50 nats", "log p -50.00; entropy 1.50 nats"]
    assert one["columns"].keys() == {"stored", "teacher"} and one["columns"]["stored"][0] == [["␣a", 0.5], ["b", 0.25]]
    assert one["tokens"] == ["␣␣a", "␣</script>"] and "ä before" in page and "before</script>" not in page


def test_answers_are_coloured_by_how_unsure_they_were() -> None:
    steps = [{"token": " fever", "probability": 0.75, "next": [[" fever", 0.75], [" rule", 0.25]]}]
    answers = {
        "teacher": {"text": " fever", "next": [], "steps": steps},
        "legal": {"text": "", "next": [], "steps": []},
    }
    page = answers_page("the <b>", answers)
    assert shades_of(page) == [0.25] and "it ends at once" in page and "the &lt;b&gt;" in page
    first, second = guesses_of(page)
    assert first["columns"] == {"teacher": [[[" fever", 0.75], [" rule", 0.25]]]} and second["tokens"] == []
    assert first["tokens"] == [" fever"] and first["says"] == ["taken with 75.0%"]


def test_a_token_takes_few_bytes_however_long_its_words_are() -> None:
    word = "incomprehensibilities"
    steps = [{"token": word, "probability": 0.5, "next": [[f"{word}{i}", 0.5 - i / 10] for i in range(5)]}] * 500
    one, many = (len(answers_page("x", {"teacher": {"steps": some}})) for some in (steps[:1], steps))
    assert (many - one) / 499 < len(word) + 150
