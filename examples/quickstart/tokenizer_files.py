"""Write the language's vocabulary as a tokenizer that transformers can load from a folder.

One word is one token, split at white space. Encoding adds nothing: a prompt begins with its domain word.
Decoding joins words with single spaces, so encode and decode are each other's inverse on the language.
"""

from __future__ import annotations

from pathlib import Path

import language
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

LONGEST_TEXT = 128  # tokens, the teacher's positions


def save_tokenizer(folder: Path) -> None:
    """Save `tokenizer.json` and its configuration into `folder`, with the ids of `language.IDS`."""
    tokenizer = Tokenizer(WordLevel(dict(language.IDS), unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=LONGEST_TEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
