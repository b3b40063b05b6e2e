"""Texts and byte offsets of token sequences from a byte-level tokenizer, where a token may be part of a character."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from workers.teacher.generation.detokenize import Detokenizer, portable, split, texts_and_ends

SENTENCES = [
    "The owl sleeps.",
    "Grüße aus Köln, naïve Straße",
    "日本語のテキスト",
    "🦉🥦 broccoli 👩‍👩‍👧 family",
    "tabs\tand\nlines  and   spaces ",
    " leading space",
    "Ωμέγα и кириллица",
    "a",
]


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """A small byte-level BPE: common ASCII words are tokens, rarer characters are several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES[:2] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


def split_ends(ends: np.ndarray, sequences: list[list[int]]) -> list[list[int]]:
    return [e.tolist() for e in np.split(ends, np.cumsum([len(s) for s in sequences])[:-1])]


def assert_cut(text: str, ends: list[int]) -> None:
    """Ends never go back, lie between characters, and the last is the text's."""
    data = text.encode()
    assert ends == sorted(ends) and ends[-1] == len(data)
    pieces = [data[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert "".join(pieces) == text


def test_texts_come_back_whole(byte_level: Any) -> None:
    sequences = [byte_level(s).input_ids for s in SENTENCES]
    assert max(len(ids) / len(s) for ids, s in zip(sequences, SENTENCES, strict=True)) > 2.5  # bytes as tokens
    texts, ends = texts_and_ends(byte_level, sequences)
    assert texts == SENTENCES
    assert ends.dtype == np.uint32 and len(ends) == sum(map(len, sequences))
    for text, own in zip(texts, split_ends(ends, sequences), strict=True):
        assert_cut(text, own)


def test_a_token_of_whole_characters_ends_where_they_end(byte_level: Any) -> None:
    text = "The owl sleeps."
    ids = byte_level(text).input_ids
    _, ends = texts_and_ends(byte_level, [ids])
    pieces = [text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert pieces == [byte_level.decode([i]) for i in ids]


def test_a_token_inside_a_character_ends_where_the_character_begins(byte_level: Any) -> None:
    ids = byte_level("a🦉b").input_ids
    assert len(ids) == 6  # four of them the owl's bytes
    texts, ends = texts_and_ends(byte_level, [ids])
    assert texts == ["a🦉b"] and ends.tolist() == [1, 1, 1, 1, 5, 6]


def test_a_text_that_stops_inside_a_character(byte_level: Any) -> None:
    """As an answer cut at max_new_tokens does: the text is what the tokenizer makes of it."""
    ids = byte_level("a🦉").input_ids[:-1]
    texts, ends = texts_and_ends(byte_level, [ids])
    assert texts == [byte_level.decode(ids)] and "\ufffd" in texts[0]
    assert_cut(texts[0], ends.tolist())


def test_special_tokens_are_text_too(byte_level: Any) -> None:
    ids = [*byte_level("owl").input_ids, byte_level.eos_token_id]
    texts, ends = texts_and_ends(byte_level, [ids])
    assert texts == ["owl<eos>"] and ends[-2:].tolist() == [3, 8]


def test_any_sequence_of_tokens_is_cut_well(byte_level: Any) -> None:
    """What a model at high temperature may say: bytes in no order."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, len(byte_level), rng.integers(1, 30)).tolist() for _ in range(150)]
    texts, ends = texts_and_ends(byte_level, sequences)
    for ids, text, own in zip(sequences, texts, split_ends(ends, sequences), strict=True):
        assert text == byte_level.decode(ids, clean_up_tokenization_spaces=False)
        assert_cut(text, own)


def test_no_sequences() -> None:
    texts, ends = texts_and_ends(None, [])
    assert texts == [] and len(ends) == 0


def test_texts_are_the_same_without_transformers(byte_level: Any) -> None:
    """As the process that leads ranks makes them, from what crossed to it."""
    crossed = portable(byte_level)
    assert crossed is not None
    sequences = [byte_level(s).input_ids for s in SENTENCES]
    sequences += [s[1:] for s in sequences] + [[byte_level.eos_token_id, *sequences[0]]]
    texts, ends = texts_and_ends(byte_level, sequences)
    lengths = np.array([len(s) for s in sequences])
    flat = split(np.concatenate([np.array(s, np.uint32) for s in sequences]), lengths)
    assert flat == sequences
    other_texts, other_ends = Detokenizer(crossed)(flat)
    assert other_texts == texts and (other_ends == ends).all()


def test_a_tokenizer_with_code_of_its_own_stays_in_its_rank(byte_level: Any) -> None:
    class Own(type(byte_level)):  # type: ignore[misc]
        """As one that comes with a model (trust_remote_code)."""

    assert portable(Own(tokenizer_object=byte_level.backend_tokenizer)) is None
    assert portable(object()) is None
