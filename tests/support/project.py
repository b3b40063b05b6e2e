"""A small project to configure: a teacher without weights, prompts, one YAML; and what a command shows of it."""

from __future__ import annotations

import copy
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from orchestrator.config.loading import ConfigFile, load_config

WORDS = ["the", "fever", "is", "high", "a", "contract", "binds", "rest", "pay", "rule"]
SPECIAL = ["<unk>", "<eos>"]
TEACHER_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
STUDENT = {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 8, "num_key_value_heads": 2, **TEACHER_SIZES}

LARGE_STUDENT = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16} | {
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""Of 1.4 billion parameters in its layers, with the teacher's twelve words."""


@dataclass
class Project:
    """A folder with a teacher, prompt files and the data of a configuration that is right as it stands."""

    folder: Path
    data: dict[str, Any] = field(default_factory=dict)

    def model(self, name: str, *, words: list[str] = WORDS, experts: int = 4, template: str = "", **more: Any) -> Path:
        """A model folder: configuration, tokenizer and weights that are a name only. `experts=0` makes it dense."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.normalizer = normalizers.Replace("~", "")  # a text of nothing else has no tokens
        tokenizer.add_special_tokens([AddedToken(w, special=True) for w in SPECIAL])
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"}
        self.json(f"{name}/tokenizer_config.json", settings | ({"chat_template": template} if template else {}))
        config = {"model_type": "qwen3_moe" if experts else "qwen3", "vocab_size": len(vocabulary), **TEACHER_SIZES}
        (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        self.json(f"{name}/config.json", config | ({"num_experts": experts} if experts else {}) | more)
        return folder

    def weights(self, name: str, tensors: dict[str, list[int]]) -> None:
        """A model's file of weights of which only the header is written."""
        header, end = {}, 0
        for tensor, shape in tensors.items():
            begin, end = end, end + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (self.folder / name / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)

    def json(self, name: str, value: Any) -> Path:
        return self.text(name, json.dumps(value))

    def rows(self, name: str, *rows: Any) -> Path:
        """A JSONL file; a row that is a string is written as it is."""
        return self.text(name, "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))

    def text(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def set(self, where: str, value: Any) -> None:
        """`a.b.c` of the configuration."""
        *parents, last = where.split(".")
        place = self.data
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value

    def write(self, name: str = "run.yaml") -> Path:
        return self.text(name, yaml.safe_dump(self.data, sort_keys=False))

    def load(self, *sets: str) -> ConfigFile:
        return load_config(self.write(), list(sets))

    def other(self) -> dict[str, Any]:
        return copy.deepcopy(self.data)


@dataclass(frozen=True)
class Outcome:
    """What a user sees of one command."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def refusal(self) -> list[str]:
        """The error lines of a refused request: exit code 2, and nothing but `error: ...` lines."""
        assert self.code == 2, f"exit code {self.code}\n{self.out}{self.err}"
        assert self.errors and self.err.splitlines() == self.errors, self.err
        return self.errors

    @property
    def error(self) -> str:
        """The one error line of a refused request."""
        assert len(self.refusal) == 1, self.err
        return self.refusal[0]


def hand_checked(project: Project) -> None:
    """Four medical rows and one legal; texts of 40 characters, which are 10 tokens."""
    text = "the fever is high and a rule binds a pay"
    assert len(text) == 40
    others = [text.replace("fever", word) for word in ("fewer", "lever", "never")]
    project.rows(
        "medical.jsonl",
        *({"id": i, "prompt": other, "split": "train"} for i, other in enumerate(others)),
        {"id": "held", "prompt": text, "split": "heldout"},
    )
    project.rows(
        "legal.jsonl",
        {"id": "given", "prompt": text, "answer": "a contract binds a", "split": "train"},
        {"id": "both", "prompt": text, "domain": ["legal", "medical"], "split": "train"},
        "{",
    )
    project.set("teacher.sampling", {"max_new_tokens": 8, "samples": 2})
