"""A small project to configure: a teacher without weights, prompts, one YAML, and the command to run on it."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from orchestrator import cli
from orchestrator.config_file import ConfigFile, load_config
from orchestrator.run_folder import RunFolder

WORDS = ["the", "fever", "is", "high", "a", "contract", "binds", "rest", "pay", "rule"]
SPECIAL = ["<unk>", "<eos>"]
TEACHER_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
STUDENT = {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 8, **TEACHER_SIZES}


@dataclass
class Project:
    """A folder with a teacher, prompt files and the data of a configuration that is right as it stands."""

    folder: Path
    data: dict[str, Any] = field(default_factory=dict)

    def model(self, name: str, *, words: list[str] = WORDS, experts: int = 4, template: str = "", **more: Any) -> Path:
        """A model folder: configuration and tokenizer, no weights. `experts=0` makes it dense."""
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
        self.json(f"{name}/config.json", config | ({"num_experts": experts} if experts else {}) | more)
        return folder

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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A right configuration: one teacher of four experts, two specialists. Its folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path)
    made.model("teacher")
    for domain in ("medical", "legal"):
        made.rows(f"{domain}.jsonl", *({"id": i, "prompt": f"the {domain} fever {i}"} for i in range(8)))
    made.data = {
        "name": "trial",
        "storage": "runs",
        "teacher": {"model": "teacher", "sampling": {"max_new_tokens": 8}},
        "prompts": {"medical": "medical.jsonl", "legal": "legal.jsonl"},
        "defaults": {"model": {"config": dict(STUDENT)}, "train": {"tokens": 1000}},
        "specialists": {"medical": {}, "legal": {"mix": {"legal": 0.75, "medical": 0.25}}},
    }
    return made


@pytest.fixture
def stillhouse(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command, run in this process. A traceback that would reach the user is in `err`, with exit code 1."""

    def run(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["stillhouse", *map(str, words)])
        capfd.readouterr()
        code, trace = 0, ""
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except Exception:  # noqa: BLE001 - whatever a user would see
            code, trace = 1, traceback.format_exc()
        out, err = capfd.readouterr()
        return Outcome(code, out, err + trace)

    return run


@pytest.fixture
def shop(project: Any) -> Any:
    """A project whose teacher has weights; two domains of eight prompts, two of them held out, some answers given."""
    import torch
    from taught_run import give_weights

    torch.set_num_threads(1)
    project.model("dense", experts=0, head_dim=16, num_key_value_heads=2)
    project.set("teacher.model", "dense")
    give_weights(project.folder / "dense")
    for domain in ("medical", "legal"):
        rows: list[dict[str, Any]] = [{"id": str(i), "prompt": f"the {domain} fever is {i}"} for i in range(8)]
        rows[3]["answer"] = "rest is the rule"
        project.rows(f"{domain}.jsonl", *rows)
    project.set("teacher.sampling", {"max_new_tokens": 6, "samples": 2})
    project.set("targets", {"prompts_per_unit": 2})
    project.set("evaluate", {"heldout": 0.25})
    return project


@pytest.fixture(scope="session")
def taught_once() -> list[Path]:
    """The project whose run was taught first: later ones are copies of it."""
    return []


@pytest.fixture
def taught(shop: Any, taught_once: list[Path]) -> Any:
    """The shop's run, whole: a TaughtRun."""
    from taught_run import TaughtRun, teach

    if not taught_once:
        run = teach(shop)
        shutil.copytree(shop.folder / "runs", shop.folder / "untouched")
        taught_once.append(shop.folder)
        return run
    shutil.copytree(taught_once[0] / "untouched", shop.folder / "runs")
    file = shop.load()
    run = RunFolder.of(file.located())
    run.open(file)
    return TaughtRun(run)
