"""A tokenizer in a GGUF file: what of a tokenizer.json llama.cpp can express, and how.

llama.cpp has the splitting of text before BPE built in, under the names of models that have it. It is recognised here
by what tokenizer.json says, not by the name of a model or a hash of its tokens (as llama.cpp's own converter does,
which therefore refuses every new vocabulary). Whether ids are the same is measured afterwards on the run's prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.export.gguf_file.sentencepiece import SPACE, byte_tokens, scores, why_not_sentencepiece
from workers.model_files import read_json_object

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class Splitting:
    """How llama.cpp splits text before BPE."""

    name: str
    ignores_merges: bool = False
    """A word that is a token as a whole is that token, whatever merges say."""


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITTINGS: dict[tuple[str, ...], Splitting] = {
    ("bytes with words",): Splitting("gpt-2"),
    ("single digits", "bytes with words"): Splitting("smollm"),
    (_CONTRACTIONS + r"\p{N}" + _REST, "bytes"): Splitting("qwen2"),
    (_CONTRACTIONS + r"\p{N}{1,3}" + _REST, "bytes"): Splitting("llama-bpe", ignores_merges=True),
    (_TEKKEN, "bytes"): Splitting("tekken", ignores_merges=True),
}
"""By the steps of a pre-tokenizer (see `_step`): GPT-2; SmolLM, StarCoder and Granite; Qwen 2 and 3; Llama 3;
Mistral's Nemo and later."""


def why_not_expressible(folder: Path) -> str | None:
    """Why llama.cpp cannot express a folder's tokenizer, or None if it can."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return "there is no tokenizer.json"
    content = read_json_object(path)
    try:
        _express(content)
        _added_around(content)
    except ValueError as error:
        return str(error)
    return None


def write_tokenizer(writer: GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Tokens, merges, special tokens and the chat template; ids beyond the tokenizer's are told as unused.

    Raises ValueError for a tokenizer that llama.cpp cannot express, or with more ids than `vocabulary`.
    """
    import gguf

    content = read_json_object(folder / "tokenizer.json")
    splitting, (begins, ends) = _express(content), _added_around(content)
    texts, types = _tokens(content, vocabulary)
    writer.add_tokenizer_model("gpt2" if splitting is not None else "llama")
    writer.add_tokenizer_pre(splitting.name if splitting is not None else "default")
    writer.add_token_list(texts)
    if splitting is None:
        writer.add_token_scores(scores(content, texts))
    writer.add_token_types(types)
    special = gguf.SpecialVocab(folder, load_merges=splitting is not None, n_vocab=vocabulary)
    special.merges = _merges(content) if splitting is not None else []
    special.add_special_token = {"bos": begins, "eos": ends}
    special.add_to_gguf(writer, quiet=True)
    writer.add_add_space_prefix(False)


def write_no_tokenizer(writer: GGUFWriter) -> None:
    """The file takes token ids alone."""
    writer.add_tokenizer_model("none")


def _express(content: dict[str, Any]) -> Splitting | None:
    """How its text is split; None of SentencePiece's kind, which splits none. Raises ValueError for others."""
    model = content.get("model") or {}
    if not (model.get("type") == "BPE" and model.get("byte_fallback")):
        return _splitting(content)
    _require_plain(content)
    if (reason := why_not_sentencepiece(content)) is not None:
        raise ValueError(f"its BPE is SentencePiece's (byte_fallback): {reason}")
    return None


def _require_plain(content: dict[str, Any]) -> None:
    for token in content.get("added_tokens") or []:
        if odd := [name for name in ("single_word", "lstrip", "rstrip") if token.get(name)]:
            raise ValueError(f"llama.cpp has no {odd[0]} of the token {token['content']!r}")


def _splitting(content: dict[str, Any]) -> Splitting:
    """How its text is split. Raises ValueError where that, or anything after it, is not what llama.cpp does."""
    model = content.get("model") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"its tokens are found by {model.get('type')}, and only BPE is written")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"llama.cpp has no {name} of BPE")
    steps = tuple(_step(part) for part in _parts(content.get("pre_tokenizer"), "pretokenizers"))
    if (found := SPLITTINGS.get(steps)) is None:
        raise ValueError(f"its pre-tokenizer is not among those that llama.cpp has: {' + '.join(steps) or 'none'}")
    normalizers = [part["type"] for part in _parts(content.get("normalizer"), "normalizers")]
    if normalizers not in ([], ["NFC"] if found.name == "qwen2" else []):
        raise ValueError(f"llama.cpp does not normalise text ({', '.join(normalizers)}) before {found.name}")
    whole = bool(model.get("ignore_merges"))
    if whole != found.ignores_merges:
        raise ValueError(f"llama.cpp takes ignore_merges {not whole} for {found.name}, its tokenizer.json says {whole}")
    _require_plain(content)
    return found


def _parts(step: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inside]) if step["type"] == "Sequence" else [step]


def _step(part: dict[str, Any]) -> str:
    """A step of a pre-tokenizer in words, or the regular expression that it splits by."""
    kind = part["type"]
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return "bytes with words" if part.get("use_regex", True) else "bytes"
    if kind == "Digits" and part.get("individual_digits"):
        return "single digits"
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return str(part["pattern"].get("Regex") or part["pattern"])
    return str(kind)


def _added_around(content: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a token is put before and behind a text. Raises ValueError where more is."""
    begins = ends = False
    for part in _parts(content.get("post_processor"), "processors"):
        if part["type"] == "ByteLevel":
            continue
        if part["type"] != "TemplateProcessing":
            raise ValueError(f"llama.cpp has no {part['type']} after BPE")
        before, _, behind = "".join("x" if "Sequence" in piece else "s" for piece in part["single"]).partition("x")
        if len(before) > 1 or len(behind) > 1:
            raise ValueError("it puts more than one token before or behind a text")
        begins, ends = begins or bool(before), ends or bool(behind)
    return begins, ends


def _tokens(content: dict[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """The text and the type of every id."""
    import gguf

    texts: list[str | None] = [None] * vocabulary
    types = [int(gguf.TokenType.UNUSED)] * vocabulary
    own = {**content["model"]["vocab"]}
    added = content.get("added_tokens") or []
    if (most := max([*own.values(), *(t["id"] for t in added)])) >= vocabulary:
        raise ValueError(f"the tokenizer has the id {most}, and the model {vocabulary} ids")
    bytes_ = set(byte_tokens()) if content["model"].get("byte_fallback") else set()
    for text, number in own.items():
        texts[number] = text
        types[number] = int(gguf.TokenType.BYTE if text in bytes_ else gguf.TokenType.NORMAL)
    for token in added:
        kind = gguf.TokenType.CONTROL if token.get("special") else gguf.TokenType.USER_DEFINED
        # What is not special is looked for in the text as it was before spaces became something else.
        shown = token["content"].replace(SPACE, " ") if bytes_ and not token.get("special") else token["content"]
        texts[token["id"]], types[token["id"]] = shown, int(kind)
    return [text if text is not None else f"[PAD{i}]" for i, text in enumerate(texts)], types


def _merges(content: dict[str, Any]) -> list[str]:
    """Pairs with a space between; byte-level tokens hold none themselves."""
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
