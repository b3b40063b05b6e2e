"""Which tokens of its right answers a teacher's answer hangs on.

The teacher writes greedily; of the tokens that it is sure of, some are changed one at a time to the runner-up, and it
goes on from there. Where its answer then is wrong, the token is a bridge (research/methods.md section 3, 6).

Legend: T target positions, n some of them, H hidden size, V the tokenizer's ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.evaluation.bridges.config import BRIDGE_QUESTIONS, BridgesConfig
from workers.evaluation.bridges.texts import BridgeTexts
from workers.evaluation.bridges.writing import Begun, Finished, Question, Writer
from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.heldout.token_scores import hidden_of
from workers.evaluation.own_text import text_row
from workers.randomness import generator


@dataclass(frozen=True)
class _Sure:
    """Tokens of one answer that the teacher is sure of and that are changed."""

    places_n: np.ndarray
    """In the answer, rising."""
    runner_up_n: np.ndarray
    """Ids to put in their place."""
    hidden_nH: np.ndarray


@torch.no_grad()
def find_bridges(writer: Writer, questions: Sequence[Question], settings: BridgesConfig, seed: int) -> BridgeTexts:
    """Change tokens of a teacher's right answers to questions. Which questions and tokens depends on the seed and on
    their names, not on their order.

    Raises ValueError for an architecture whose head cannot be run alone.
    """
    if not writer.model.parted:
        raise ValueError("bridges: this architecture's head cannot be run alone; leave evaluate.bridges out")
    asked, right = _right_answers(writer, questions, settings, seed)
    sure = list(_sure_tokens(writer, right, settings, seed))
    begun = [
        Begun(question, (*answer.ids[:place], runner_up))
        for (question, answer), found in zip(right, sure, strict=True)
        for place, runner_up in zip(found.places_n.tolist(), found.runner_up_n.tolist(), strict=True)
    ]
    changed = writer.finish(begun)
    return BridgeTexts(
        asked=asked,
        names=[question.name for question, _ in right],
        tokens=[np.array([*q.asked.prompt_token_ids, *a.ids], np.int64) for q, a in right],
        starts=[len(q.asked.prompt_token_ids) for q, _ in right],
        text_n=np.repeat(np.arange(len(sure)), np.array([len(found.places_n) for found in sure], np.int64)),
        place_n=np.concatenate([np.zeros(0, np.int64), *(found.places_n for found in sure)]),
        bridge_n=np.array([not answer.correct for answer in changed], bool),
        hidden_nH=np.concatenate([found.hidden_nH for found in sure]) if sure else np.zeros((0, 0), np.float32),
    )


_Answered = tuple[Question, Finished]


def _right_answers(
    writer: Writer, questions: Sequence[Question], settings: BridgesConfig, seed: int
) -> tuple[int, list[_Answered]]:
    """How many questions were asked, and answers that are right: as many as are wanted, if there are."""
    ordered = sorted(questions, key=lambda q: generator(seed, "bridge questions", q.name).random())
    right: list[_Answered] = []
    asked = 0
    while len(right) < settings.texts and asked < min(len(ordered), BRIDGE_QUESTIONS * settings.texts):
        some = ordered[asked : asked + settings.texts]
        answers = writer.finish([Begun(question) for question in some])
        right += [pair for pair in zip(some, answers, strict=True) if pair[1].correct]
        asked += len(some)
    return asked, right[: settings.texts]


def _sure_tokens(writer: Writer, right: Sequence[_Answered], settings: BridgesConfig, seed: int) -> Iterator[_Sure]:
    """Of each answer, in their order."""
    rows = [
        text_row(question.name, np.array([*question.asked.prompt_token_ids, *answer.ids]), n)
        for question, answer in right
        for n in [len(question.asked.prompt_token_ids)]
    ]
    counting = {id(row): answer.counting for row, (_, answer) in zip(rows, right, strict=True)}
    found: dict[int, _Sure] = {}
    for row, hidden_TH in hidden_of(writer.model, rows, writer.batch_tokens):
        hidden_TH = hidden_TH[: counting[id(row)]]
        top_p_T, ids_T2 = _two_most_probable(writer, hidden_TH)
        written_T = row.tokens[row.start : row.start + len(hidden_TH)]
        sure = np.flatnonzero((top_p_T > settings.sure) & (ids_T2[:, 0] == written_T))
        if len(sure) > settings.positions:
            rng = generator(seed, "bridge positions", row.prompt_uid)
            sure = np.sort(rng.choice(sure, settings.positions, replace=False))
        found[id(row)] = _Sure(sure, ids_T2[sure, 1], hidden_TH[torch.from_numpy(sure)].float().cpu().numpy())
    yield from (found[id(row)] for row in rows)


def _two_most_probable(writer: Writer, hidden_TH: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the most probable id [T], and that id and the next one [T, 2]."""
    logp, ids = [np.zeros((0, 2), np.float32)], [np.zeros((0, 2), np.int64)]
    for _, logits_nV in writer.model.logits_by_chunk(hidden_TH, CHUNK_NUMBERS[writer.model.device]):
        top = logits_nV[:, : writer.vocabulary].float().log_softmax(-1).topk(2)
        logp.append(top.values.cpu().numpy())
        ids.append(top.indices.cpu().numpy())
    return np.exp(np.concatenate(logp)[:, 0]), np.concatenate(ids)
