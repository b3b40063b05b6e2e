"""The transformers engine: generates and captures in one pass, or scores given text, on one rank of a worker group.

In `all_to_all` every rank has texts of its own, and all ranks must take the same number of forward passes, knowing how
many tokens the largest of each has: given texts are agreed on first, and while texts grow each pass is; a rank without
work runs a dummy until no rank has any.
In `all_reduce` all ranks run the same texts; rank 0 samples, captures and broadcasts.

Legend: B texts, S tokens, n positions, H hidden size, V model vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from workers.fetching.folder import model_folder
from workers.model_files import stop_ids
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.loading import cache_memory, load_teacher, weights_held
from workers.teacher.generation.agreed import agreed_tokens
from workers.teacher.generation.batches import by_tokens, length_of
from workers.teacher.generation.choice import TokenChoice
from workers.teacher.generation.detokenize import texts_and_ends
from workers.teacher.generation.layout import CacheLayout
from workers.teacher.generation.loop import Ends, Generation, pad
from workers.teacher.sampling.capture import CaptureBuffer
from workers.teacher.sampling.chunks import head_numbers
from workers.transfers import to_device
from workers.two_part_model import TwoPartModel

_DUMMY = [TextRequest("dummy", 0, [0, 0], None)]
"""What a rank without work runs, so that its peers' collectives are answered."""


class _Texts:
    """The texts of one call of `run`: its requests, the texts so far [row: ids], their targets so far."""

    def __init__(self, requests: list[TextRequest], spec: CaptureSpec, work: Generation, stop_ids: set[int]) -> None:
        self.requests, self.spec = requests, spec
        self.buffer = CaptureBuffer(requests, spec)
        self.choice = TokenChoice(requests, spec, stop_ids)
        self.ids: list[list[int]] = [[] for _ in requests]
        self.asked = [i for i, r in enumerate(requests) if _is_asked(r)]
        self.given = sorted(set(range(len(requests))) - set(self.asked))
        self.work = work
        self.numbers = work.add([requests[i] for i in self.asked])

    def start(self, row: int) -> int:
        """The first target position of a text: its second token, or the first of its answer."""
        return 1 if self.spec.positions == "all" else len(self.requests[row].prompt_token_ids)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of texts by their numbers in the generation."""
        return np.array(self.asked)[numbers - self.numbers.start]

    def here(self, numbers: np.ndarray) -> np.ndarray:
        """Places of the numbers that are this call's."""
        return np.flatnonzero((numbers >= self.numbers.start) & (numbers < self.numbers.stop))


class TransformersEngine:
    """One rank's part of a transformers model. The worker group's process group exists before it is made."""

    def __init__(self, config: TeacherConfig, *, rank: int = 0, ranks: int = 1, device: str = "cpu") -> None:
        from transformers import AutoTokenizer

        self.config, self.rank, self.ranks, self.device = config, rank, ranks, device
        self.model = load_teacher(config, ranks=ranks, device=device)
        self._parts = TwoPartModel(self.model, device)
        self._layout = CacheLayout.of(self._parts)
        folder = model_folder(config.model, config.revision)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        self.stop_ids = stop_ids(self.tokenizer, self.model.config)
        self._own_texts = ranks > 1 and config.dispatch == "all_to_all"
        self._shared_texts = ranks > 1 and not self._own_texts
        self._captures = rank == 0 or self._own_texts
        self._most_cached = self._cached_tokens()
        self._ahead: tuple[int, _Texts] | None = None  # begun in the slots that the last call left, and its slots
        self._head_numbers = 0  # logits made at once, of the call under way
        self._work: Generation | None = None  # of the call under way, or of the last one

    def _cached_tokens(self) -> int | None:
        """Tokens whose keys and values this rank may hold at once; None: any number."""
        memory = cache_memory(self.config.kv_cache_memory, self.device)
        if memory is None or self._layout.why_not is not None:
            return None
        tokens = memory // max(self._layout.column_bytes(self._parts), 1)
        if self.ranks > 1:  # ranks that share texts must admit the same ones
            (least,) = self._most([-tokens])
            tokens = -least
        return tokens

    def _room(self, requests: list[TextRequest], batch_scale: float) -> int | None:
        """Of those tokens a share, but no less than the longest text needs."""
        if self._most_cached is None:
            return None
        longest = max((length_of(r) + r.max_new_tokens for r in requests), default=0)
        return min(self._most_cached, max(int(self._most_cached * batch_scale), longest))

    @cached_property
    def _head_is_plain(self) -> bool:
        return self._parts.head_is_plain()

    @property
    def steps(self) -> int:
        """Forward passes so far (TeacherEngine.steps)."""
        return self._parts.steps

    @property
    def at_work(self) -> int:
        """Texts in slots now (TeacherEngine.at_work)."""
        return self._work.live if self._work is not None else 0

    def describe(self) -> dict[str, Any]:
        """Facts for the record: weights that this rank holds, their type, where they are, what ends an answer."""
        return {
            "weights_held": weights_held(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.device,
            "head_apart": self._parts.parted,
            "stop_ids": sorted(self.stop_ids),
        }

    @torch.no_grad()
    def run(
        self,
        requests: list[TextRequest],
        spec: CaptureSpec,
        *,
        batch_scale: float = 1.0,
        texts: bool = True,
        then: Sequence[TextRequest] = (),
    ) -> UnitTargets:
        """Make or score texts (TeacherEngine.run). Rows come back in the order of the requests."""
        if spec.scheme == "hidden" and not self._head_is_plain:
            raise ValueError(
                f"targets: hidden, but {self.model.config.model_type} makes its logits by more than a matrix, so that "
                "hidden states do not say all; take evaluate.targets: full, and another targets.scheme"
            )
        self._head_numbers = head_numbers(self.device)
        slots = max(1, int(self.config.slots * batch_scale))
        tokens = max(1, int(self.config.score_tokens * batch_scale))
        made = self._begun(requests, spec, slots)
        if made is None:
            most = slots if then else min(slots, max(sum(map(_is_asked, requests)), 1))
            room = self._room(requests, batch_scale)
            work = Generation(self._parts, Ends(self.stop_ids, self._decode), self._layout, slots=most, most=room)
            made = _Texts(requests, spec, work, self.stop_ids)
        self._work = made.work
        for batch, most in self._agreed(by_tokens(made.given, requests, tokens), requests):
            with agreed_tokens(most):
                self._score(batch, made)
        begins = then and made.work.why_not([r for r in then if _is_asked(r)]) is None
        ahead = [_Texts(list(then), spec, made.work, self.stop_ids)] if begins else []
        self._generate([made, *ahead], tokens=tokens)
        self._ahead = (slots, ahead[0]) if ahead else None
        targets = made.buffer.finish(made.ids, [made.start(i) for i in range(len(requests))])
        if texts:
            targets.texts, targets.ends = texts_and_ends(self.tokenizer, made.ids)
        return targets

    def _begun(self, requests: list[TextRequest], spec: CaptureSpec, slots: int) -> _Texts | None:
        """These requests as the call before began them; None if it did not, or began others, which are dropped."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or (slots, requests, spec) != (ahead[0], ahead[1].requests, ahead[1].spec):
            return None
        return ahead[1]

    def _score(self, batch: list[int], texts: _Texts) -> None:
        """One forward pass over given texts."""
        items = [texts.requests[i] for i in batch] or _DUMMY
        sequences = [r.prompt_token_ids + (r.answer_token_ids or []) for r in items]
        ids_BS, mask_BS = pad(sequences, left=False)
        hidden_BSH = self._parts.body(ids_BS, mask_BS)
        if not batch:
            return
        rows, positions, tokens, before = [], [], [], []
        for b, i in enumerate(batch):
            texts.ids[i] = sequences[b]
            span = np.arange(texts.start(i), len(sequences[b]))
            rows.append(np.full(len(span), i))
            positions.append(span)
            tokens += sequences[b][texts.start(i) :]
            before.append(hidden_BSH[b, span - 1])
        self._capture(texts, np.concatenate(rows), np.concatenate(positions), torch.cat(before), torch.tensor(tokens))

    def _generate(self, calls: list[_Texts], *, tokens: int) -> None:
        """Answer the prompts of the first call, and those of the next in the slots that become free; capturing."""
        made, work = calls[0], calls[0].work

        def choose(numbers_n: np.ndarray, hidden_nH: torch.Tensor) -> torch.Tensor:
            positions_n = np.array([len(work.texts[n]) for n in numbers_n])
            tokens_n = torch.zeros(len(numbers_n), dtype=torch.long, device=hidden_nH.device)
            for place, logits_nV in self._parts.logits_by_chunk(hidden_nH, self._head_numbers):
                if not self._captures:
                    continue
                hidden = hidden_nH[place] if self._parts.parted else None
                for call in calls:
                    at = call.here(numbers_n[place])
                    if len(at):
                        rows, positions = call.rows(numbers_n[place][at]), positions_n[place][at]
                        chosen = _choose(call, rows, positions, *_rows_of(at, logits_nV, hidden))
                        tokens_n[place] = _placed(chosen, at, tokens_n[place])
            if self._shared_texts:
                dist.broadcast(tokens_n, 0)
            return tokens_n

        def prefilled(number: int, hidden_PH: torch.Tensor) -> None:
            call = next(c for c in calls if number in c.numbers)
            row = call.asked[number - call.numbers.start]
            prompt = call.requests[row].prompt_token_ids
            if call.spec.positions == "all" and len(prompt) > 1:
                positions = np.arange(1, len(prompt))
                self._capture(call, np.full(len(positions), row), positions, hidden_PH[:-1], torch.tensor(prompt[1:]))

        while True:
            joining = work.next_to_join(tokens)
            ahead = joining.tokens if joining is not None else max(work.live, 1)
            if not (most := self._largest_pass(work.unfinished(made.numbers), ahead)):
                break
            with agreed_tokens(most):
                if joining is not None:
                    work.join(joining, choose, prefilled)
                elif work.live:
                    work.step(choose)
                else:
                    work.idle_step()
        for row, ids in zip(made.asked, work.take(made.numbers), strict=True):
            made.ids[row] = ids

    def _capture(
        self, texts: _Texts, rows: np.ndarray, positions: np.ndarray, before_nH: torch.Tensor, tokens_n: torch.Tensor
    ) -> None:
        """Capture the distributions at positions of texts, from the hidden states of the tokens before them."""
        tokens_n = to_device(tokens_n, self.device)
        for place, logits_nV in self._parts.logits_by_chunk(before_nH, self._head_numbers):
            if self._captures:
                hidden = before_nH[place] if self._parts.parted else None
                texts.buffer.add(rows[place], positions[place], logits_nV, tokens_n[place], hidden)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _agreed(self, batches: list[list[int]], requests: list[TextRequest]) -> list[tuple[list[int], int]]:
        """The batches, with empty ones at the end so that all ranks run equally many, and the tokens of the largest of
        any rank's, padding included."""
        sizes = [len(batch) * max(length_of(requests[i]) for i in batch) for batch in batches]
        if self._own_texts:
            (count,) = self._most([len(batches)])
            batches = batches + [[]] * (count - len(batches))
            sizes = self._most(sizes + [len(_DUMMY[0].prompt_token_ids)] * (count - len(sizes)))
        return list(zip(batches, sizes, strict=True))

    def _largest_pass(self, works: bool, tokens: int) -> int:
        """Tokens of the largest forward pass that a rank does next, where this one's would have `tokens`; 0 once no
        rank works."""
        if self._own_texts:
            works_anywhere, tokens = self._most([int(works), tokens])
            works = bool(works_anywhere)
        return tokens if works else 0

    def _most(self, numbers: list[int]) -> list[int]:
        """Of each number the largest of all ranks."""
        agreed = to_device(numbers, self.device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return agreed.tolist()


def _is_asked(request: TextRequest) -> bool:
    """Whether a text is to be answered, not only scored."""
    return request.answer_token_ids is None and request.max_new_tokens > 0


def _rows_of(at: np.ndarray, logits_nV: torch.Tensor, hidden_nH: torch.Tensor | None) -> tuple[Any, Any]:
    """Some rows of logits and of what they were made of; without a copy where they are all."""
    if len(at) == len(logits_nV):
        return logits_nV, hidden_nH
    places = to_device(at, logits_nV.device)
    return logits_nV[places], hidden_nH[places] if hidden_nH is not None else None


def _placed(chosen: torch.Tensor, at: np.ndarray, tokens_n: torch.Tensor) -> torch.Tensor:
    """Tokens [n] with the chosen ones at their places; without a copy where they are all."""
    return chosen if len(at) == len(tokens_n) else tokens_n.index_copy(0, to_device(at, chosen.device), chosen)


def _choose(
    call: _Texts, rows: np.ndarray, positions: np.ndarray, logits_nV: torch.Tensor, hidden_nH: torch.Tensor | None
) -> torch.Tensor:
    """The next tokens of texts of one call, captured."""
    probs = call.buffer.probs(logits_nV)
    tokens_n = call.choice(rows, positions, logits_nV, probs)
    call.buffer.add_probs(rows, positions, probs, tokens_n, hidden_nH)
    return tokens_n
