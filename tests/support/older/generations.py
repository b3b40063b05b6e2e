"""A first generation that is finished, as far as the next one asks, and the second one of it; no model is loaded."""

from __future__ import annotations

import json

from orchestrator.config.loading import ConfigFile
from orchestrator.preflight.checks import check
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import next_generation
from support.project import SPECIAL, STUDENT, WORDS, Project
from workers.layout import REPORT_JSON, StudentLayout
from workers.splits import TRAIN
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore


def finish(run: RunFolder, *students: str) -> None:
    """Students trained, each with a folder that stands for its weights, and a report."""
    sizes = {**STUDENT, "vocab_size": len(WORDS) + len(SPECIAL)}
    for name in students:
        layout = StudentLayout(name)
        run.storage.write(f"{layout.final}/config.json", json.dumps(sizes).encode())
        header = json.dumps({"__metadata__": {"name": name}}).encode()
        run.storage.write(f"{layout.final}/model.safetensors", len(header).to_bytes(8, "little") + header)
        run.storage.write(layout.initial_facts, b'{"parameters": 7, "layers": 2, "dropped_layers": [1]}')
        run.storage.write(layout.done, b"{}")
    run.storage.write(REPORT_JSON, b"{}")


def finished_project(project: Project) -> RunFolder:
    """A project's first generation."""
    project.set("evaluate.baselines", [])
    file = project.load()
    run, tokenizer = RunFolder.of(file.located()), check(file).tokenizer
    run.open(file)
    header = StoreHeader("systematic", 20, "all", "float32", 12, tokenizer.fingerprint, tokenizer.chat_template, 0)
    TargetStore(run.storage, TRAIN).create(header)
    finish(run, "medical", "legal")
    return run


def ask_anew(project: Project) -> None:
    """Prompts of the next generation."""
    for domain in ("medical", "legal"):
        rows = [{"id": f"n{i}", "prompt": f"a {domain} rule binds {i} high fever"} for i in range(8)]
        project.rows(f"{domain}_2.jsonl", *rows)
        project.set(f"prompts.{domain}", f"{domain}_2.jsonl")


def second(project: Project) -> ConfigFile:
    """The configuration of the second generation, of new prompts."""
    ask_anew(project)
    return next_generation(project.load())
