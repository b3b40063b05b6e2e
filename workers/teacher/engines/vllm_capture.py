"""Inside vLLM's workers: a logits processor that sees the raw logits of every step, captures targets, decides tokens.

It is vLLM's public interface for such things (its V1 model runner). What a request's row is forced to is the token that
the engine's own rules choose, so the text is that of the transformers engine but for the last bits of the logits, and
repeatable whatever vLLM batches together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.logits_processor import LogitsProcessor as Logits
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from workers.teacher.engines.row_capture import RowCapture
from workers.teacher.sampling.capture import CaptureBuffer
from workers.transfers import to_device

TEXT = "stillhouse_text"
"""Key of a request's `extra_args`: the index of its text in the call. Requests without it are let through."""

_PROCESSORS: dict[str, CaptureProcessor] = {}
"""Those of this process, by vLLM's name of the engine instance."""


class CaptureProcessor(LogitsProcessor):
    """Made by vLLM, once in each worker."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[int, list[int]]] = {}
        self.capture: RowCapture | None = None
        _PROCESSORS[vllm_config.instance_id] = self

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, _text_of)

    @torch.no_grad()
    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Capture the rows of our texts, and leave each nothing but its token."""
        if not self._rows or self.capture is None:
            return logits
        rows = to_device(list(self._rows), logits.device)
        texts_n = np.array([text for text, _ in self._rows.values()])
        made_n = np.array([len(output) for _, output in self._rows.values()])
        tokens_n = self.capture.next_tokens(texts_n, made_n, logits[rows])
        logits.index_fill_(0, rows, -torch.inf)
        return logits.index_put_((rows, tokens_n), logits.new_zeros(()))


def _text_of(params: Any, prompt: list[int] | None, output: list[int]) -> tuple[int, list[int]] | None:
    """A new request's text and its tokens so far, a list that vLLM lets grow."""
    text = (params.extra_args or {}).get(TEXT)
    return None if text is None else (text, output)


def trim(worker: Any, vocabulary: int) -> bool:
    """Make ids from `vocabulary` on a part of the padding that vLLM cuts off its logits, so that what it says of a
    prompt is renormalised over the tokenizer's ids. False if the model has no place for that."""
    layers = [m for m in worker.get_model().modules() if isinstance(m, Logits)]
    if len(layers) != 1 or layers[0].org_vocab_size < vocabulary:
        return False
    layers[0].org_vocab_size = vocabulary
    return True


def begin(worker: Any, instance: str, capture: RowCapture) -> None:
    """Called on every worker before a call's requests."""
    _PROCESSORS[instance].capture = capture


def finish(worker: Any, instance: str) -> CaptureBuffer:
    """Called on every worker after them: what was captured."""
    processor = _PROCESSORS[instance]
    capture, processor.capture = processor.capture, None
    assert capture is not None, "a call finishes after it begins"
    capture.buffer.settle()
    return capture.buffer
