"""Models as files: where they are, what their configuration says, in which type they are loaded. No torch at import."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What models of the installed transformers call the number of experts of a layer (a test reads all of them)."""

_ACTIVE_KEYS = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k", "moe_topk", "top_k_experts")
"""What configurations call the number of experts that a token is sent to."""

_NOT_OF_TEXT = ("vision", "audio", "talker", "code2wav", "quantization")


def text_settings(model_config: dict[str, Any]) -> dict[str, Any]:
    """What a model's config.json says of its part that reads text: `text_config`, where it has one, over the rest."""
    return {**model_config, **(model_config.get("text_config") or {})}


def expert_count(model_config: dict[str, Any]) -> int:
    """Experts per layer of a model's config.json, or of its part for text; 0 for a dense model. Raises ValueError for
    a number that is none."""
    for key in EXPERT_KEYS:
        value = model_config.get(key)
        counts = value if isinstance(value, list) else [value]  # by layer, or for each kind of input
        if wrong := [n for n in counts if n is not None and (not isinstance(n, int) or n < 0)]:
            raise ValueError(f"model: its config.json says {key}: {wrong[0]!r}; expected a whole number from 0")
        if most := max((n for n in counts if n), default=0):
            return int(most)
    parts = [v for k, v in model_config.items() if k.endswith("_config") and not k.startswith(_NOT_OF_TEXT)]
    return max((expert_count(part) for part in parts if isinstance(part, dict)), default=0)


def active_experts(model_config: dict[str, Any]) -> int:
    """Experts of a layer that a token is sent to, by a model's config.json: the most, where layers differ; all of them
    where it does not say."""
    for key in _ACTIVE_KEYS:
        value = model_config.get(key)
        counts = value if isinstance(value, list) else [value]
        if counts and all(isinstance(n, int) for n in counts):
            return max(counts)
    parts = [v for k, v in model_config.items() if k.endswith("_config") and not k.startswith(_NOT_OF_TEXT)]
    found = [n for part in parts if isinstance(part, dict) and expert_count(part) and (n := active_experts(part))]
    return max(found, default=expert_count(model_config))


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"model: {str(folder)!r} has no config.json")
    return read_json_object(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object. Raises ValueError naming it if it does not."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model: {str(path)!r} is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise ValueError(f"model: {str(path)!r} does not hold a JSON object")
    return data


def token_ids(folder: Path) -> dict[str, int]:
    """The id of every token of a folder's fast tokenizer, by the token as tokenizer.json writes it."""
    content = read_json_object(folder / "tokenizer.json")
    vocabulary = (content.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: [token, score] in order of id
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{t["content"]: t["id"] for t in content.get("added_tokens") or []}}


def stop_ids(tokenizer: Any, model_config: Any) -> set[int]:
    """Ids that end an answer: the tokenizer's end of text and those of the model's configuration."""
    own = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    return own | configured_stop_ids({"eos_token_id": getattr(model_config, "eos_token_id", None)})


def configured_stop_ids(model_config: dict[str, Any]) -> set[int]:
    """Ids that end an answer by a model's config.json: one, several or none."""
    configured = model_config.get("eos_token_id")
    return {i for i in (configured if isinstance(configured, list) else [configured]) if i is not None}


@lru_cache
def known_model_type(model_type: str) -> bool:
    """Whether the installed transformers has an architecture of that name; reads its files, imports none of them."""
    spec = importlib.util.find_spec("transformers")
    models = Path(spec.origin).parent / "models" if spec and spec.origin else None
    if models is None or (model_type and (models / model_type.replace("-", "_")).is_dir()):
        return True
    named = re.compile(rf"""model_type = ["']{re.escape(model_type)}["']""")
    return any(named.search(path.read_text(encoding="utf-8")) for path in models.glob("*/configuration_*.py"))


def torch_dtype(name: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is several times slower."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    return getattr(torch, name)
