"""A GGUF file in llama.cpp.

Legend: T positions, V ids.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from workers.export.running.llama_library import library

_AT_ONCE = 256
"""Tokens of which logits are held at once."""


class LlamaCpp:
    """A loaded file. Raises ValueError if llama.cpp cannot load it."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        self._llama = library()
        self._model = self._llama.llama_model_load_from_file(
            str(path).encode(), self._llama.llama_model_default_params()
        )
        if not self._model:
            raise ValueError(f"export: llama.cpp does not load {path.name!r}")
        settings = self._llama.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = context, _AT_ONCE, _AT_ONCE
        self._context = self._llama.llama_init_from_model(self._model, settings)
        if not self._context:
            raise ValueError(f"export: llama.cpp has no room for {context} tokens of {path.name!r}")
        self._llama.llama_set_n_threads(self._context, threads, threads)
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.vocabulary = int(self._llama.llama_vocab_n_tokens(self._vocab))
        self._batch = self._llama.llama_batch_init(_AT_ONCE, 0, 1)
        self._place = 0

    def forget(self) -> None:
        """The next token begins a text."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._place = 0

    def feed(self, ids_T: np.ndarray[Any, Any], *, last: bool = False) -> np.ndarray[Any, Any]:
        """[T, V] logits behind each further token of the text, or behind the `last` alone [1, V].

        Raises RuntimeError if llama.cpp fails.
        """
        parts = []
        for start in range(0, len(ids_T), _AT_ONCE):
            some = ids_T[start : start + _AT_ONCE]
            wanted = np.full(len(some), not last, np.int8)
            wanted[-1] |= start + len(some) == len(ids_T)
            self._fill(some, wanted)
            if (code := self._llama.llama_decode(self._context, self._batch)) != 0:
                raise RuntimeError(f"export: llama.cpp failed at token {self._place + start} with code {code}")
            if count := int(wanted.sum()):
                logits = self._llama.llama_get_logits(self._context)
                parts.append(np.ctypeslib.as_array(logits, (count, self.vocabulary)).copy())
            self._place += len(some)
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, with what the tokenizer puts around it; special tokens in it are read as such."""
        data = text.encode()
        room = len(data) + 8
        found = (ctypes.c_int32 * room)()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), found, room, True, True)
        return list(found[:count])

    def _fill(self, ids: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
        n, batch = len(ids), self._batch
        batch.n_tokens = n
        np.ctypeslib.as_array(batch.token, (n,))[:] = ids
        np.ctypeslib.as_array(batch.pos, (n,))[:] = np.arange(self._place, self._place + n)
        np.ctypeslib.as_array(batch.n_seq_id, (n,))[:] = 1
        np.ctypeslib.as_array(batch.logits, (n,))[:] = wanted
        for i in range(n):
            batch.seq_id[i][0] = 0
