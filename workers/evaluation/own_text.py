"""Text that a student writes itself, and how far it is from its teacher there.

On its teacher's text a student is always led back to where its teacher was; alone it goes on from its own mistakes.
The student samples answers and leaves them with its last hidden states; whoever has the teacher loaded makes both
distributions of them, the student's with its head alone. So no two models are in memory at once.

Legend: B texts, S tokens, T target positions, n positions of all texts, H hidden size, V the tokenizer's ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.decoding import write
from workers.evaluation.heldout.sums import TokenScores
from workers.evaluation.heldout.token_scores import compare, hidden_of, logits_of
from workers.targets.heads import TeacherHead
from workers.targets.reader import TargetRow
from workers.two_part_model import TwoPartModel


@dataclass(frozen=True)
class OwnTexts:
    """Answers that a student sampled, each behind a held-out prompt."""

    prompts: list[str]
    """[B] uids."""
    tokens: list[np.ndarray]
    """[B] of [S] ids, the prompt's too."""
    starts: list[int]
    """[B] where the answer begins."""
    hidden_nH: np.ndarray
    """What the student's head was given at each target position, text after text, float32."""

    def to_bytes(self) -> bytes:
        """As a NumPy archive."""
        sink = io.BytesIO()
        np.savez_compressed(
            sink,
            prompts=np.array(self.prompts, np.str_),
            tokens=np.concatenate(self.tokens),
            lengths=np.array([len(t) for t in self.tokens]),
            starts=np.array(self.starts),
            hidden=self.hidden_nH,
        )
        return sink.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> OwnTexts:
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            tokens = np.split(found["tokens"], np.cumsum(found["lengths"])[:-1])
            return OwnTexts(found["prompts"].tolist(), tokens, found["starts"].tolist(), found["hidden"])


@torch.no_grad()
def write_own(
    model: TwoPartModel,
    rows: Sequence[TargetRow],
    new_tokens: int,
    vocabulary: int,
    batch_tokens: int,
    stop_ids: Sequence[int],
    seed: int,
) -> OwnTexts:
    """Sample an answer behind the prompt of each row, at temperature 1, of at most `new_tokens` with its end.

    Raises ValueError for an architecture whose head cannot be run alone.
    """
    if not model.parted:
        raise ValueError("own_text: this architecture's head cannot be run alone; leave evaluate.own_text out")
    generator = torch.Generator().manual_seed(seed)
    tokens: list[np.ndarray] = []
    size = max(1, batch_tokens // (max(max(r.start, 1) for r in rows) + new_tokens))
    for i in range(0, len(rows), size):
        prompts = [row.tokens[: max(row.start, 1)].astype(np.int64) for row in rows[i : i + size]]
        tokens += _sampled(model, prompts, new_tokens, vocabulary, list(stop_ids), generator)
    starts = [max(row.start, 1) for row in rows]
    texts = [text_row(*text) for text in zip([row.prompt_uid for row in rows], tokens, starts, strict=True)]
    hidden = {id(row): hidden_TH.float().cpu().numpy() for row, hidden_TH in hidden_of(model, texts, batch_tokens)}
    return OwnTexts([t.prompt_uid for t in texts], tokens, starts, np.concatenate([hidden[id(t)] for t in texts]))


def _sampled(
    model: TwoPartModel,
    prompts: list[np.ndarray],
    new_tokens: int,
    vocabulary: int,
    stop_ids: list[int],
    generator: torch.Generator,
) -> list[np.ndarray]:
    """Of one batch, each with its prompt."""

    def choose(logits_BV: torch.Tensor) -> torch.Tensor:
        p_BV = logits_BV[:, :vocabulary].double().softmax(-1).cpu()
        return torch.multinomial(p_BV, 1, generator=generator)[:, 0]

    written_BT, live_BT = write(model, prompts, new_tokens, choose, stop_ids)
    return [np.concatenate([p, row[live].numpy()]) for p, row, live in zip(prompts, written_BT, live_BT, strict=True)]


@torch.no_grad()
def compare_own(
    teacher: TwoPartModel, own: OwnTexts, head: TeacherHead, vocabulary: int, batch_tokens: int
) -> Iterator[tuple[str, TokenScores]]:
    """Scores of the student at its own positions, a text after another with the uid of its prompt."""
    head, chunk = head.on(teacher.device), max(1, CHUNK_NUMBERS[teacher.device] // vocabulary)
    ends = np.cumsum([len(t) - s for t, s in zip(own.tokens, own.starts, strict=True)])
    begins: dict[int, int] = {}
    rows = [text_row(*text) for text in zip(own.prompts, own.tokens, own.starts, strict=True)]
    for row, end in zip(rows, ends.tolist(), strict=True):
        begins[id(row)] = end - row.targets
    for row, of_row in logits_of(teacher, batch_tokens)(rows):
        parts = []
        for i in range(0, row.targets, chunk):
            place = slice(i, min(row.targets, i + chunk))
            t_nV = of_row(place)[:, :vocabulary].float().log_softmax(-1)
            at = begins[id(row)] + i
            hidden_nH = torch.from_numpy(own.hidden_nH[at : at + len(t_nV)]).to(teacher.device)
            q_nV = head.make_logits(hidden_nH).log_softmax(-1)
            parts.append(compare(q_nV, t_nV, row.tokens[row.start :][place], i))
        yield row.prompt_uid, TokenScores.join(parts)


def text_row(prompt: str, tokens: np.ndarray, start: int) -> TargetRow:
    """A text whose targets are its tokens from `start` on, as those of stores are, with nothing of distributions."""
    nothing: Any = np.zeros(0)
    return TargetRow(
        prompt, tokens, start, nothing, nothing, nothing, nothing, None, np.zeros(len(tokens) - start), nothing
    )
