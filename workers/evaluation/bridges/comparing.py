"""What a student does at its teacher's bridges, and whether the teacher's token there repairs its wrong answers.

Legend: B texts, n positions that were changed, of all texts, H hidden size, V the tokenizer's ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from workers.evaluation.bridges.texts import BridgeFindings, BridgeTexts
from workers.evaluation.bridges.writing import Begun, Question, Writer
from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.heldout.sums import TokenScores
from workers.evaluation.heldout.token_scores import compare, hidden_of
from workers.evaluation.own_text import text_row
from workers.targets.heads import TeacherHead


@torch.no_grad()
def compare_bridges(
    writer: Writer, texts: BridgeTexts, questions: Mapping[str, Question], head: TeacherHead | None
) -> BridgeFindings:
    """A student on its teacher's answers, and from them on. `questions` by name; `head` is the teacher's, not needed
    where no token was changed.

    Its worst bridge of a text is that of the largest KL. From there it goes on twice: with the teacher's token, and
    from the same prefix with whatever it takes itself, so that what is repaired is the token's and not the prefix's.
    """
    scores = _scores(writer, texts, head) if len(texts.text_n) else None
    kl_n = scores.kl if scores is not None else np.zeros(0)
    asked = [questions[name] for name in texts.names]
    correct = [answer.correct for answer in writer.finish([Begun(question) for question in asked])]
    worst = {b: place for b, place in _worst_bridges(texts, kl_n).items() if not correct[b]}
    with_it = [Begun(asked[b], texts.answer(b, place + 1)) for b, place in worst.items()]
    without = [Begun(asked[b], texts.answer(b, place)) for b, place in worst.items()]
    again = writer.finish(with_it + without)
    repaired = {b: answer.correct for b, answer in zip(worst, again, strict=False)}
    repaired_without = {b: answer.correct for b, answer in zip(worst, again[len(worst) :], strict=True)}
    return BridgeFindings(
        asked=texts.asked,
        texts=len(texts.names),
        text=texts.text_n.tolist(),
        bridge=texts.bridge_n.tolist(),
        kl=kl_n.tolist(),
        agree=[] if scores is None else (scores.agree > 0).tolist(),
        correct=correct,
        repaired=[repaired.get(b) for b in range(len(asked))],
        repaired_without=[repaired_without.get(b) for b in range(len(asked))],
    )


def _worst_bridges(texts: BridgeTexts, kl_n: np.ndarray) -> dict[int, int]:
    """By text that has a bridge, the place in its answer of that of the largest KL."""
    bridges = np.flatnonzero(texts.bridge_n)
    rising = bridges[np.argsort(kl_n[bridges], kind="stable")]
    return dict(zip(texts.text_n[rising].tolist(), texts.place_n[rising].tolist(), strict=True))  # the last one stays


def _scores(writer: Writer, texts: BridgeTexts, head: TeacherHead | None) -> TokenScores:
    """At the positions that were changed, in their order."""
    assert head is not None
    device, vocabulary = writer.model.device, writer.vocabulary
    head, chunk = head.on(device), max(1, CHUNK_NUMBERS[device] // vocabulary)
    rows = [text_row(*text) for text in zip(texts.names, texts.tokens, texts.starts, strict=True)]
    begins = np.searchsorted(texts.text_n, np.arange(len(rows) + 1)).tolist()
    of_row = {id(row): range(begins[b], begins[b + 1]) for b, row in enumerate(rows)}
    parts: dict[int, Sequence[TokenScores]] = {}
    for row, hidden_TH in hidden_of(writer.model, rows, writer.batch_tokens):
        mine, found = of_row[id(row)], []
        for i in range(mine.start, mine.stop, chunk):
            some = slice(i, min(i + chunk, mine.stop))
            places = texts.place_n[some]
            q_nV = writer.model.head(hidden_TH[torch.from_numpy(places)])[:, :vocabulary].float().log_softmax(-1)
            t_nV = head.make_logits(torch.from_numpy(texts.hidden_nH[some]).to(device)).log_softmax(-1)
            found.append(compare(q_nV, t_nV, row.tokens[row.start + places], 0))
        parts[id(row)] = found
    return TokenScores.join([part for row in rows for part in parts[id(row)]])
