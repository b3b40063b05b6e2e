"""What a model answers to items: log-probabilities of choices, and greedy continuations.

Legend: B texts, S tokens, H hidden size, V the tokenizer's ids, n positions, C choices, W log-probabilities wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.decoding import padded, write
from workers.evaluation.tasks.asked import AskedItems, TokenizedItem
from workers.evaluation.tasks.items import TaskAnswer
from workers.evaluation.tasks.marking import mark_choice, mark_texts
from workers.two_part_model import TwoPartModel

Ids = tuple[int, ...]


def ask(
    model: TwoPartModel,
    asked: AskedItems,
    vocabulary: int,
    batch_tokens: int,
    stop_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
) -> list[TaskAnswer]:
    """A model's answers to items, in their order. `vocabulary`: ids that count, the tokenizer's. `batch_tokens`: tokens
    at once, with padding. `decode` makes text of ids."""
    chosen = [i for i in asked.items if i.item.marking == "choice"]
    others = [i for i in asked.items if i.item.marking != "choice"]
    answers: dict[str, TaskAnswer] = {}
    for one, sums in zip(chosen, choice_logprobs(model, chosen, vocabulary, batch_tokens), strict=True):
        answers[one.item.uid] = mark_choice(one.item, sums, asked.normalise)
    prompts = [one.prompt_token_ids for one in others]
    texts = []
    for ids, logprobs in greedy(model, prompts, asked.max_new_tokens, vocabulary, batch_tokens, stop_ids):
        text, tokens = cut(ids, asked.stop, decode)
        texts.append((text, sum(logprobs[:tokens])))
    for answer in mark_texts([one.item for one in others], texts, asked.format):
        answers[answer.uid] = answer
    return [answers[one.item.uid] for one in asked.items]


def choice_logprobs(
    model: TwoPartModel, items: Sequence[TokenizedItem], vocabulary: int, batch_tokens: int
) -> list[list[float]]:
    """Log-probability of every choice of items behind the prompt: the sum over its tokens."""
    pairs = [(one.prompt_token_ids, choice) for one in items for choice in one.choice_token_ids]
    sums, _ = continuation_logprobs(model, pairs, vocabulary, batch_tokens)
    found = iter(sums.tolist())
    return [[next(found) for _ in one.choice_token_ids] for one in items]


@torch.no_grad()
def continuation_logprobs(
    model: TwoPartModel, pairs: Sequence[tuple[Ids, Ids]], vocabulary: int | None, batch_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of texts and what follows on them: its log-probability, the sum over its tokens, and whether each token of it is
    the most probable one. `vocabulary`: ids that count; None: all that the model has.

    Continuations of a text that differ in their last token only are read off once.
    """
    wanted: dict[Ids, list[tuple[int, int, int]]] = {}  # by text: position, token, and whose it is
    for whose, (before, after) in enumerate(pairs):
        text, first = (*before, *after[:-1]), len(before) - 1
        wanted.setdefault(text, []).extend((first + i, token, whose) for i, token in enumerate(after))
    sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
    for batch in _batches(list(wanted), batch_tokens):
        hidden_BSH = model.body(*padded(batch, left=False))
        rows = [(b, *place) for b, text in enumerate(batch) for place in wanted[text]]
        texts_W, positions_W, tokens_W, whose_W = (np.array(column) for column in zip(*rows, strict=True))
        places, of_place_W = np.unique(np.stack([texts_W, positions_W]), axis=1, return_inverse=True)
        hidden_nH = hidden_BSH[torch.from_numpy(places[0]), torch.from_numpy(places[1])]
        of_place_W = of_place_W.reshape(-1)
        for chunk, logits_nV in model.logits_by_chunk(hidden_nH, CHUNK_NUMBERS[model.device]):
            logq_nV = logits_nV[:, :vocabulary].float().log_softmax(-1)
            mine = (of_place_W >= chunk.start) & (of_place_W < chunk.stop)
            rows_w, tokens_w = of_place_W[mine] - chunk.start, tokens_W[mine]
            at = (torch.from_numpy(n).to(logq_nV.device) for n in (rows_w, tokens_w))
            np.add.at(sums, whose_W[mine], logq_nV[tuple(at)].double().cpu().numpy())
            top_w = logq_nV.argmax(-1).cpu().numpy()[rows_w]
            np.logical_and.at(greedy, whose_W[mine], top_w == tokens_w)
    return sums, greedy


@torch.no_grad()
def greedy(
    model: TwoPartModel,
    prompts: Sequence[Ids],
    max_new_tokens: int | Sequence[int],
    vocabulary: int,
    batch_tokens: int,
    stop_ids: Sequence[int],
) -> list[tuple[list[int], list[float]]]:
    """What a model writes behind each prompt if it takes the most probable token each time: ids, the one that ended it
    left out, and log-probabilities of all of them, that one's included. `max_new_tokens` is of all or of each; of one
    that may have none, nothing is written."""
    most = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    found: dict[int, tuple[list[int], list[float]]] = {i: ([], []) for i in range(len(prompts))}
    order = sorted((i for i in found if most[i] > 0), key=lambda i: (-most[i], -len(prompts[i])))
    while order:
        longest = max(len(prompts[i]) for i in order)
        fit = max(1, batch_tokens // (longest + most[order[0]]))
        batch, order = order[:fit], order[fit:]
        texts = _continued(model, [prompts[i] for i in batch], [most[i] for i in batch], vocabulary, set(stop_ids))
        found.update(zip(batch, texts, strict=True))
    return [found[i] for i in range(len(prompts))]


def _continued(
    model: TwoPartModel, prompts: Sequence[Ids], most: Sequence[int], vocabulary: int, stop_ids: set[int]
) -> list[tuple[list[int], list[float]]]:
    """Of one batch."""
    steps = []

    def choose(logits_BV: torch.Tensor) -> torch.Tensor:
        top_B = logits_BV[:, :vocabulary].float().log_softmax(-1).max(-1)
        steps.append(top_B.values.cpu())
        return top_B.indices.cpu()

    ids_BT, live_BT = write(model, prompts, most, choose, sorted(stop_ids))
    logprobs_BT, stops = torch.stack(steps, 1), torch.tensor(sorted(stop_ids), dtype=torch.long)
    texts = []
    for ids, logprobs, live in zip(ids_BT, logprobs_BT, live_BT, strict=True):
        kept = ids[live]
        ended = len(kept) > 0 and bool(torch.isin(kept[-1], stops))
        texts.append((kept[: len(kept) - ended].tolist(), logprobs[live].tolist()))
    return texts


def cut(ids: Sequence[int], stop: Sequence[str], decode: Callable[[Sequence[int]], str]) -> tuple[str, int | None]:
    """A text before the first string that stops it, and the fewest of its tokens that hold such a string; None where
    there is none."""
    text = decode(ids)
    places = [place for word in stop if word and (place := text.find(word)) >= 0]
    if not places:
        return text, None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if any(w and w in decode(ids[:middle]) for w in stop) else (middle + 1, high)
    return text[: min(places)], low


def _batches(texts: list[Ids], batch_tokens: int) -> Iterator[list[Ids]]:
    """Texts of like length together, the longest first."""
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    while ordered:
        fit = max(1, batch_tokens // len(ordered[0]))
        yield ordered[:fit]
        ordered = ordered[fit:]
