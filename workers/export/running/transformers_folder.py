"""A model folder in transformers.

Legend: T positions, V ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch


class TransformersFolder:
    """A folder loaded for inference on the CPU, in float32: what is measured is its weights, not a CPU's bfloat16."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._path = path
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        self._cache: Any = None

    def forget(self) -> None:
        """The next token begins a text."""
        self._cache = None

    @torch.inference_mode()
    def feed(self, ids_T: np.ndarray[Any, Any], *, last: bool = False) -> np.ndarray[Any, Any]:
        """[T, V] logits behind each further token of the text, or behind the `last` alone [1, V]."""
        ids_1T = torch.from_numpy(ids_T.astype(np.int64))[None]
        out = self._model(ids_1T, past_key_values=self._cache, use_cache=True, logits_to_keep=1 if last else 0)
        self._cache = out.past_key_values
        return out.logits[0].float().numpy()

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, with what the tokenizer puts around it; special tokens in it are read as such."""
        from transformers import AutoTokenizer

        return list(AutoTokenizer.from_pretrained(self._path, local_files_only=True)(text)["input_ids"])
