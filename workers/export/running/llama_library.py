"""llama.cpp by ctypes, from the shared library of the package xllamacpp, whose own interface shows no logits.

Structures of settings are passed by value. What they hold changes with every few versions, so they are taken from the
library (`..._default_params`) in a buffer larger than any of them, and only the first words of one, which have not
moved, are changed; what lies behind is passed on as it came. Structures beyond 16 bytes lie in memory in the calling
conventions of x86-64 and arm64, where a larger buffer does no harm.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_Settings = c_int32 * 256


class ModelSettings(ctypes.Structure):
    """`llama_model_params`, of which nothing is changed."""

    _fields_ = [("words", _Settings)]


class ContextSettings(ctypes.Structure):
    """`llama_context_params`."""

    _fields_ = [("n_ctx", c_int32), ("n_batch", c_int32), ("n_ubatch", c_int32), ("words", _Settings)]


class Batch(ctypes.Structure):
    """`llama_batch`: tokens with their places, and which of them logits are wanted of."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


_LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [_LOG, c_void_p]),
    "llama_model_default_params": (ModelSettings, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelSettings]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_context_default_params": (ContextSettings, []),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextSettings]),
    "llama_free": (None, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
}


@lru_cache
def library() -> Any:
    """The library, ready. Raises ValueError if the package is not installed, or lacks what is called."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec is not None else []
    found = [path for folder in folders for path in folder.glob("xllamacpp*.so")]
    if not found:
        raise ValueError(
            "export: gguf is measured in llama.cpp, and the package xllamacpp is not installed; install "
            "stillhouse[llama-cpp], or set measure: 0 in this export"
        )
    opened = ctypes.CDLL(str(found[0]))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(opened, name, None)
        if function is None:
            raise ValueError(f"export: the installed xllamacpp has no {name}; install version 2026.10")
        function.restype, function.argtypes = result, arguments
    opened.llama_log_set(_SILENT, None)
    opened.llama_backend_init()
    return opened


def quantised_rows(rows_OI: np.ndarray[Any, Any], kind: int, blocks: np.ndarray[Any, Any]) -> None:
    """Round rows of float32 to a type of ggml, by its number, into `blocks` [O, bytes], which must be as large."""
    count, width = rows_OI.shape
    source, target = (array.ctypes.data_as(c_void_p) for array in (rows_OI, blocks))
    written = library().ggml_quantize_chunk(kind, source, target, 0, count, width, None)
    assert written == blocks.nbytes, f"ggml wrote {written} bytes of {blocks.nbytes}"


@_LOG
def _say_nothing(level: int, text: bytes, data: int) -> None:
    """llama.cpp tells every tensor that it loads."""


_SILENT = _say_nothing
