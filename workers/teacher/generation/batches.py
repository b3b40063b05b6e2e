"""Which texts run together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from workers.teacher.engine import TextRequest

_MOST_PADDING = 0.1


def by_tokens(chosen: Sequence[int], requests: Sequence[TextRequest], most: int) -> list[list[int]]:
    """Batches of texts of similar length, longest first: at most `most` tokens with padding, which is a tenth of them
    at most. A text longer than that is a batch of its own."""
    batches: list[list[int]] = []
    tokens = longest = 0
    for i in sorted(chosen, key=lambda i: (-length_of(requests[i]), i)):
        length = length_of(requests[i])
        room = longest * (len(batches[-1]) + 1) if batches else 0
        if not batches or room > most or tokens + length < room * (1 - _MOST_PADDING):
            batches.append([])
            tokens, longest = 0, length
        batches[-1].append(i)
        tokens += length
    return batches


def waiting_order(chosen: Sequence[int], requests: Sequence[TextRequest]) -> list[int]:
    """The order in which prompts take slots: those that may grow longest first, so that few run on alone at the end;
    then like lengths together, and the samples of one prompt, which share its prefill."""
    return sorted(
        chosen,
        key=lambda i: (-requests[i].max_new_tokens, len(requests[i].prompt_token_ids), requests[i].prompt_token_ids, i),
    )


def length_of(request: TextRequest) -> int:
    """Tokens of a prompt and its given answer."""
    return len(request.prompt_token_ids) + len(request.answer_token_ids or ())
