"""Chat templates of real model families, and small models that have them: byte-level tokenizers with the families'
special tokens.

The templates lie in tests/support/templates, as the families write them:

- chatml: Qwen2.5's, with a system message of its own where there is none, tools and calls of tools
- llama3: Llama 3.1's, less its dates: a begin token of its own, trimmed content, one call at a time, replies as JSON
- gemma: no system message, and turns must alternate
- qwen3: less tools: reasoning of the last turn alone, and `enable_thinking`
- r1: DeepSeek-R1's, less tools: it cuts reasoning out of every assistant's turn, and opens one with `<think>`
- parts: one of a model that sees, which wants content in parts
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

TEMPLATES = Path(__file__).parent / "templates"
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIAL = {
    "chatml": _CHATML,
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    "qwen3": _CHATML,
    "r1": ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<|User|>", "<|Assistant|>"),
    "parts": _CHATML,
}
"""Special tokens by family; the first is what a text begins with, where it begins with one."""

ENDS = {"llama3": "<|eot_id|>", "gemma": "<eos>", "r1": "<|end_of_sentence|>"}
"""The tokenizer's end token, where it is not <|im_end|>."""


def chat_model(folder: Path, family: str, *, bos: bool = False, **more: Any) -> Path:
    """A model folder with a family's template and special tokens, its other tokens the bytes. `bos`: the tokenizer puts
    the first of them before a text. `more` goes into its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = SPECIAL[family]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    if bos:
        number = tokenizer.token_to_id(special[0])
        tokenizer.post_processor = TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], number)])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = ENDS.get(family, "<|im_end|>")
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{family}.jinja").read_text())
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = {"model_type": "qwen3", "vocab_size": 300, "eos_token_id": tokenizer.token_to_id(end), **sizes, **more}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
