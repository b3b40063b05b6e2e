"""Real texts to score: prompts, with their answers where they are given."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

from orchestrator.config.schema import PromptSource
from orchestrator.prompts.sources import RawPrompt, screen
from workers.teacher.engine import TextRequest
from workers.teacher.units.unit_runner import CALIBRATION_TOKENS

_LONGEST = 1024
"""Tokens of a text; what is beyond is cut off."""


def read_texts(tokenizer: Any, files: list[Path], tokens: int) -> tuple[list[TextRequest], list[TextRequest]]:
    """Texts for the vocabulary order, and others with at least `tokens` target positions (or all there are).

    The former have as many tokens of each file as a replica takes of a domain. Rows are read as a run reads them;
    broken ones are passed over. The files take turns.
    """
    calibration: list[TextRequest] = []
    rest: list[list[TextRequest]] = []
    for file in files:
        rows = screen(file.stem, PromptSource(path=str(file))).prompts
        texts, read = [t for row in rows if len((t := _request(tokenizer, row)).prompt_token_ids) > 1], 0
        while texts and read < CALIBRATION_TOKENS:
            calibration.append(texts.pop(0))
            read += len(calibration[-1].prompt_token_ids)
        rest.append(texts)
    chosen: list[TextRequest] = []
    positions = 0
    for text in (t for turn in zip_longest(*rest) for t in turn if t is not None):
        if positions >= tokens:
            break
        chosen.append(text)
        positions += len(text.prompt_token_ids) - 1
    return calibration, chosen


def _request(tokenizer: Any, row: RawPrompt) -> TextRequest:
    """A row as a text that is all given, so that its every token but the first is a target."""
    if row.messages is not None:
        answered = row.answer is not None
        ids = list(
            tokenizer.apply_chat_template(
                row.messages, add_generation_prompt=answered, tokenize=True, return_dict=False
            )
        )
    else:
        ids = tokenizer(row.prompt).input_ids
    if row.answer is not None:
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        ids = ids + tokenizer(row.answer_text, add_special_tokens=False).input_ids + end
    return TextRequest(row.id, 0, ids[:_LONGEST], [])
