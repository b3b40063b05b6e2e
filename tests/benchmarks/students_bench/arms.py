"""Students that differ in nothing but what they are given of the teacher's distributions, and their scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from targets_bench.captured import capture, spec_of
from targets_bench.distributions import Distributions, Scored

from workers.evaluation.heldout.sums import TokenScores, sums_of
from workers.evaluation.heldout.token_scores import compare
from workers.evaluation.metrics.domain_scores import by_domain, summarise
from workers.student.batches.batching import MicroBatch, micro_batches
from workers.student.batches.packing import Texts
from workers.student.config import LossConfig
from workers.student.models.student_model import DistillationModel, given
from workers.student.training.schedule import learning_rate
from workers.targets.config import Scheme
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetRow, rows_of

SOFT, HARD = LossConfig(), LossConfig(kl=0, ce=1)
BATCH_TOKENS, MICRO_TOKENS = 1024, 2048


@dataclass(frozen=True)
class Arm:
    """What is kept of each distribution. `naive` leaves the tail of `topk` out of the loss, outside the product."""

    scheme: Scheme
    draws: int = 21
    top_k: int = 0
    loss: LossConfig = SOFT
    naive: bool = False


ARMS = {
    "systematic 21": Arm("systematic", 21),
    "multinomial 50": Arm("multinomial", 50),
    "topk 50, tail": Arm("topk", top_k=50),
    "full": Arm("full"),
    "hidden": Arm("hidden"),
    "hard labels": Arm("systematic", 1, loss=HARD),
    "topk 50, no tail": Arm("topk", top_k=50, naive=True),
}


class Course:
    """The training rows of an arm, and how they become micro-batches."""

    def __init__(self, arm: Arm, train: Scored, tokenizer: Any, seed: int) -> None:
        self._arm, self._train = arm, train
        self._heads = {"teacher": train.head()}
        # All distributions of `full` are gigabytes: its rows are those of a sample, and the teacher's head fills them.
        scheme: Scheme = "systematic" if arm.scheme == "full" else arm.scheme
        spec = replace(spec_of(scheme, arm.draws, train.vocabulary, top_k=arm.top_k), seed=seed)
        header = StoreHeader(scheme, arm.draws, "all", "float32", train.vocabulary, "", "", seed, top_k=arm.top_k)
        [units] = capture(train, [spec], tokenizer, 64)
        self._rows = [row for unit in units for row in rows_of(unit, header, "teacher")]
        firsts = np.cumsum([0, *(row.targets for row in self._rows)])
        self._first = {row.prompt_uid: int(first) for row, first in zip(self._rows, firsts, strict=False)}
        self._order = np.random.default_rng(seed)

    def batches(self, tokens: int) -> Iterator[tuple[int, list[MicroBatch]]]:
        """Target tokens and micro-batches of each step, until so many are learned from; epochs in other orders."""
        given, rows = 0, iter(())
        while given < tokens:
            batch: list[TargetRow] = []
            while sum(r.targets for r in batch) < BATCH_TOKENS:
                row = next(rows, None)
                if row is None:
                    rows = iter([self._rows[i] for i in self._order.permutation(len(self._rows))])
                    continue
                batch.append(row)
            count = sum(r.targets for r in batch)
            given += count
            yield count, [self._complete(b, batch) for b in micro_batches(batch, self._arm.loss, MICRO_TOKENS)]

    def _complete(self, batch: MicroBatch, rows: list[TargetRow]) -> MicroBatch:
        if self._arm.naive:
            return replace(batch, targets=replace(batch.targets, tail_T=None))
        if self._arm.scheme != "full":
            return replace(batch, targets=batch.targets.with_heads(self._heads))
        texts = {tuple(r.tokens[:-1].tolist()): r for r in rows}
        packed = [tuple(t.tolist()) for t in batch.texts.input_BS[0].split(list(batch.texts.lengths or ()))]
        places = [(self._first[texts[t].prompt_uid], texts[t].targets) for t in packed]
        p_TV = torch.cat([self._train.teacher_logits(slice(i, i + n)) for i, n in places]).softmax(-1)
        return replace(batch, targets=replace(batch.targets, ids_TK=None, weights_TK=p_TV))


def train(model: Any, arm: Arm, course: Course, tokens: int, peak: float) -> None:
    """AdamW over a token budget: warm-up over a twentieth, linear decay over the last fifth, clipped at 1."""
    student = DistillationModel(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    spent = 0
    for count, batches in course.batches(tokens):
        optimizer.param_groups[0]["lr"] = learning_rate(spent / tokens, peak, "wsd", 0.05, 0.2)
        for batch in batches:
            (student(batch.texts, batch.targets) / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        spent += count


@torch.no_grad()
def score(model: Any, heldout: Distributions) -> dict[str, float]:
    """The evaluator's scores on held-out texts, with the exact distributions of the teacher."""
    model.eval()
    texts, first = [], 0
    for number, text in enumerate(heldout.texts):
        n, parts = len(text.prompt_token_ids) - 1, []
        h_nD = hidden(model, text.prompt_token_ids[:-1])
        for i in range(0, n, 256):
            s = slice(first + i, first + min(i + 256, n))
            logt = heldout.teacher_logits(s).log_softmax(-1)
            logq = model.lm_head(h_nD[i : i + 256])[:, : heldout.vocabulary].log_softmax(-1)
            parts.append(compare(logq, logt, heldout.tokens_T[s].numpy(), i))
        texts.append((str(number), TokenScores.join(parts)))
        first += n
    return summarise(by_domain([sums_of("a", texts)])["a"], 200, 0)


def hidden(model: Any, ids: list[int]) -> torch.Tensor:
    """[n, D] of one text, through the packed layout, which is what the model was left with."""
    place_n = torch.arange(len(ids))
    text = Texts(torch.tensor([ids]), None, (len(ids),), place_n, place_n[None])
    return model.get_decoder()(**given(text), use_cache=False).last_hidden_state[0]
