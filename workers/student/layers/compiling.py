"""torch.compile, a decoder layer at a time: layers that are alike share what is compiled, and texts of any lengths."""

from __future__ import annotations

import os
import shutil
from typing import Any

from cluster.model_cache import compile_cache
from workers.student.layers.decoder import decoder_layers

_CACHE, _THREADS, _COMPILER = "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS", "CXX"

_PROCESSES = 4
"""That compile at once for a worker. Inductor takes one for each CPU, up to 32, of some hundred MB; a node may have
eight workers."""


def check_can_compile() -> None:
    """Raise ValueError where this node has not what compiling takes."""
    if shutil.which(os.environ.get(_COMPILER) or "g++") is None:
        raise ValueError(
            "train.compile: true, but this node has no C++ compiler (g++, or what CXX names), which torch.compile "
            "calls on GPUs too; install one where students train, or take compile: false"
        )


def check_layers(model: Any) -> None:
    """Raise ValueError for an architecture whose layers are not told apart."""
    if not decoder_layers(model):
        raise ValueError(
            f"compile: true, but layers of {model.config.model_type} are not told apart; take compile: false"
        )


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile the layers of a transformers model when they are first called. What comes of it is kept on the node, for
    its other workers and for later ones."""
    import torch._inductor.config

    os.environ.setdefault(_CACHE, str(compile_cache()))
    if _THREADS not in os.environ:
        torch._inductor.config.compile_threads = _PROCESSES
    for layer in decoder_layers(model):
        layer.compile(dynamic=True, backend=backend)
