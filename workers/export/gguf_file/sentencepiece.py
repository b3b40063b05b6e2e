"""Tokenizers of SentencePiece's kind (Gemma) in a GGUF file, from their tokenizer.json.

llama.cpp merges the two neighbours whose joined token has the highest score, whichever two they are; transformers
merges the pair that stands first in a list. These are the same if the list has every pair that makes a token, in the
order of tokens, as those that were converted from SentencePiece have; the score of a token is then less its place.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

SPACE = "▁"
"""What stands for a space in tokens."""


def why_not_sentencepiece(content: dict[str, Any]) -> str | None:
    """Why llama.cpp cannot express a tokenizer.json whose BPE falls back to bytes, or None if it can."""
    model = content["model"]
    vocabulary = model["vocab"]
    if missing := [byte for byte in byte_tokens() if byte not in vocabulary]:
        return f"it falls back to bytes and has no token {missing[0]}"
    if model.get("dropout") or model.get("ignore_merges"):
        return "llama.cpp has no dropout and no ignore_merges of SentencePiece"
    if (reason := _why_not_spaces(content)) is not None:
        return reason
    apart = {*byte_tokens(), *(token["content"] for token in content.get("added_tokens") or [])}
    merged = {token for token in vocabulary if len(token) > 1 and token not in apart}
    pieces = vocabulary.keys() - apart
    if {pair for token in merged for pair in _pairs(token, pieces)} != set(_merges(content)):
        return "its merges are not all pairs that make a token, which is what llama.cpp merges by"
    return None


def _why_not_spaces(content: dict[str, Any]) -> str | None:
    """Spaces become SPACE, wherever they are, and none is put before a text."""
    normalizer = content.get("normalizer") or {}
    replaced = normalizer.get("type") == "Replace" and normalizer.get("pattern") == {"String": " "}
    if not replaced or normalizer.get("content") != SPACE:
        return (
            "its normalizer does more or less than write spaces as ▁; a space that is put before a text is put by "
            "llama.cpp behind every special token too"
        )
    splits = content.get("pre_tokenizer")
    if splits is not None and not (splits.get("type") == "Split" and splits.get("pattern") == {"String": " "}):
        return f"llama.cpp splits no text before SentencePiece, and its pre-tokenizer is {splits.get('type')}"
    return None


def byte_tokens() -> list[str]:
    """The tokens that stand for bytes, in their order."""
    return [f"<0x{byte:02X}>" for byte in range(256)]


def merge_places(content: dict[str, Any]) -> dict[str, int]:
    """Where in the list of merges each token is first made."""
    places: dict[str, int] = {}
    for place, (left, right) in enumerate(_merges(content)):
        places.setdefault(left + right, place)
    return places


def _merges(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(pair if not isinstance(pair, str) else pair.split(" ")) for pair in content["model"]["merges"]]


def _pairs(token: str, pieces: Set[str]) -> list[tuple[str, str]]:
    """Every two pieces that make a token."""
    cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
    return [(left, right) for left, right in cuts if left in pieces and right in pieces]


def scores(content: dict[str, Any], texts: list[str]) -> list[float]:
    """The score of every id: the earlier a token is made, the higher."""
    places = merge_places(content)
    return [-float(places.get(text, 0)) for text in texts]
