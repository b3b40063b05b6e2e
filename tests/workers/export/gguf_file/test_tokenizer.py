"""Tokenizers in GGUF files: ids in llama.cpp are those of transformers, and what it cannot express is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from workers.export.config import ExportConfig
from workers.export.gguf_file.tokenizer import _CONTRACTIONS, _REST, _TEKKEN, why_not_expressible
from workers.export.gguf_file.writing import About, write_gguf
from workers.export.running.runner import Runner

TEXTS = [
    "The capital of France is Paris, isn't it? I'LL say: it's 1789, or 17,890.50!",
    "def f(x):\n    return x ** 2  # squares\n\n\n\tif True:\r\n        pass   ",
    "naïve café — “quotes” 日本語のテキスト 👍🏽 кириллица ¼²\u200d",
    "<|begin|>user\nHello <think> there<|end|>\n<|begin|>assistant\n",
    " leading and trailing  ",
    "   \n\n\n  ",
    "ABCdefGHI camelCaseWords HTTPServer2000 foo_bar",
    "!!!???...---===```'''\"\"\"",
]


def split_by(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


BYTES_WITH_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
KINDS: dict[str, tuple[Any, bool]] = {
    "gpt-2": (BYTES_WITH_WORDS, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES_WITH_WORDS]), False),
    "qwen2": (split_by(_CONTRACTIONS + r"\p{N}" + _REST), False),
    "llama-bpe": (split_by(_CONTRACTIONS + r"\p{N}{1,3}" + _REST), True),
    "tekken": (split_by(_TEKKEN), True),
}
"""Splitting as transformers has it, and whether whole words come before merges."""


def tokenizer_of(kind: str, folder: Path, *, bos: bool = False) -> Path:
    """A byte-level BPE that was trained on a little text."""
    splitting, ignore_merges = KINDS[kind]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitting, decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        show_progress=False,
        special_tokens=["<|begin|>", "<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    if bos:
        number = tokenizer.token_to_id("<|begin|>")
        tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", number)])
    tokenizer.save(str(folder / "tokenizer.json"))
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with more ids than any of the tokenizers."""
    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=640, max_position_embeddings=512, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def sentencepiece_of(folder: Path, *, all_pairs: bool = True) -> Path:
    """Gemma's kind: spaces become a letter, unknown letters bytes, and a token is made of any two that make it up."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    tokenizer.train_from_iterator(["".join(c for c in text if ord(c) < 256) for text in TEXTS[:3]] * 4, trainer)
    content = json.loads(tokenizer.to_str())
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|begin|>", "<|end|>"]
    old = [token for token, _ in sorted(content["model"]["vocab"].items(), key=lambda item: item[1])]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *old]
    pairs = list(dict.fromkeys(left + right for left, right in content["model"]["merges"]))
    cuts = [(token[:i], token[i:]) for token in pairs for i in range(1, len(token))]
    merges = [list(cut) for cut in cuts if cut[0] in old and cut[1] in old]
    content["model"] |= {"vocab": {w: i for i, w in enumerate(words)}, "byte_fallback": True, "unk_token": "<unk>"}
    content["model"]["merges"] = merges if all_pairs else content["model"]["merges"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [{"id": i, "content": w, **flags, "special": True} for i, w in enumerate(special)]
    content["added_tokens"].append({"id": len(words), "content": "▁▁▁", **flags, "special": False})
    content["added_tokens"][-1]["normalized"] = True
    around = {"bos": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}
    single = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<bos>": around["bos"]},
    }  # fmt: skip
    content["pre_tokenizer"] = {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    own = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(own | {"unk_token": "<unk>"}))
    return folder


def test_ids_of_sentencepiece(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    folder = sentencepiece_of(tmp_path)
    assert why_not_expressible(folder) is None
    own = AutoTokenizer.from_pretrained(folder)
    expected = [own(text)["input_ids"] for text in TEXTS]
    with Runner("llama.cpp", write(model, folder, tmp_path / "model.gguf"), context=64) as runner:
        assert runner.tokens(TEXTS) == expected
    assert expected[0][0] == 2 and any(6 <= i < 262 for i in expected[2]), "bytes of what is in no token"
    assert len(expected[0]) < len(TEXTS[0]) / 2, "merges were used"


def test_merges_that_are_not_those_of_sentencepiece_are_refused(tmp_path: Path) -> None:
    assert "not all pairs" in (why_not_expressible(sentencepiece_of(tmp_path, all_pairs=False)) or "")


def write(model: Path, tokenizer: Path, path: Path) -> Path:
    write_gguf(model, tokenizer, path, ExportConfig(format="gguf", weights="f16"), About("a model"))
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [False, True])
def test_ids_are_those_of_transformers(kind: str, bos: bool, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    folder = tokenizer_of(kind, tmp_path, bos=bos)
    assert why_not_expressible(folder) is None
    expected = [AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for text in TEXTS]
    with Runner("llama.cpp", write(model, folder, tmp_path / "model.gguf"), context=64) as runner:
        assert runner.vocabulary == 640
        assert runner.tokens(TEXTS) == expected
        if kind != "tekken":  # in whose expression llama.cpp takes combining marks for no letters
            assert runner.tokens(["កាន់តែ"]) == [AutoTokenizer.from_pretrained(folder)("កាន់តែ")["input_ids"]]
    assert sum(map(len, expected)) < sum(len(text.encode()) for text in TEXTS) / 2, "merges were used"


def test_special_tokens_and_template(model: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = tokenizer_of("gpt-2", tmp_path)
    fields = gguf.GGUFReader(write(model, folder, tmp_path / "model.gguf")).fields
    said = {name.removeprefix("tokenizer."): f.contents() for name, f in fields.items() if "tokenizer" in name}
    ids = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert said["chat_template"] == "{{ messages[0]['content'] }}"
    assert (said["ggml.bos_token_id"], said["ggml.eos_token_id"]) == (ids["<|begin|>"], ids["<|end|>"])
    assert said["ggml.add_bos_token"] is False and said["ggml.pre"] == "gpt-2"
    types = dict(zip(said["ggml.tokens"], said["ggml.token_type"], strict=True))
    assert types["<|begin|>"] == gguf.TokenType.CONTROL and types["<think>"] == gguf.TokenType.USER_DEFINED
    assert types["[PAD639]"] == gguf.TokenType.UNUSED and types["a"] == gguf.TokenType.NORMAL


def changed(**parts: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name, value in parts.items():
            content["model" if name.startswith("model_") else name] = (
                content["model"] | {name.removeprefix("model_"): value} if name.startswith("model_") else value
            )

    return change


TWO_BEFORE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}, {"SpecialToken": {}}, {"Sequence": {}}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(model_type="WordLevel"), "found by WordLevel"),
        (changed(model_byte_fallback=True), "falls back to bytes and has no token <0x00>"),
        (changed(model_end_of_word_suffix="</w>"), "no end_of_word_suffix"),
        (changed(model_ignore_merges=True), "ignore_merges False"),
        (changed(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer is not among"),
        (changed(pre_tokenizer=None), "pre-tokenizer is not among"),
        (changed(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "pre-tokenizer is not among"),
        (changed(normalizer={"type": "Lowercase"}), "does not normalise text (Lowercase)"),
        (changed(post_processor=TWO_BEFORE), "more than one token"),
        (changed(post_processor={"type": "BertProcessing"}), "no BertProcessing"),
        (changed(added_tokens=[{"id": 0, "content": "<m>", "lstrip": True}]), "no lstrip of the token '<m>'"),
    ],
)
def test_what_cannot_be_expressed_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    folder = tokenizer_of("gpt-2", tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert said in (why_not_expressible(folder) or "")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = tokenizer_of("gpt-2", tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({"id": 700, "content": "<more>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has the id 700, and the model 640 ids"):
        write(model, folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))
