"""One prompt, every model of a run: what each writes, and its runners-up, from exact distributions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cluster.model_cache import use_model_cache
from cluster.storage import local_folder
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import CONTROLS, QUANTISED
from orchestrator.runs.exported import artefacts_of
from orchestrator.runs.folder import RunFolder, find_run
from workers.export.artefact import Artefact
from workers.export.formats import RUNTIMES
from workers.export.running.runner import Runner
from workers.fetching.folder import model_folder
from workers.layout import AT_CONTROL_TOKENS, StudentLayout


def ask_run(
    where: str, prompt: str, *, tokens: int, top: int, teacher: bool, files: bool = False
) -> dict[str, dict[str, Any]]:
    """Answers by model: {text, next: [[token, probability], ...], steps: [{token, probability, next}, ...]}; greedy, so
    that they can be compared. `next` are the runners-up of the first token, in `steps` those of each. `files`: exported
    files are asked too, by their paths, each in the program that people run it with.

    Raises ValueError if there is no such run or nothing of it is trained.
    """
    run = find_run(where)
    config = run.located_config()
    use_model_cache(config.cluster.model_cache)
    models = _models(run, config, teacher)
    if not models:
        raise ValueError(f"ask: nothing of {run.uri} is trained yet; run `stillhouse run` first")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    first = config.teachers[config.first_teacher()]
    tokenizer = AutoTokenizer.from_pretrained(model_folder(first.model, first.revision, weights=False))
    answers: dict[str, dict[str, Any]] = {}
    for name, source in models.items():
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as temporary:
            folder = _fetch(run, source, Path(temporary))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            answers[name] = _answer(partial(_last_logits, model), tokenizer, prompt, tokens, top)
    for artefact in _files(run, config) if files else ():
        with _there(run, artefact) as path, Runner(RUNTIMES[artefact.format.split()[0]], path) as runner:
            asked = lambda ids_1S: torch.from_numpy(runner.logits(ids_1S[0].numpy())[-1])  # noqa: E731
            answers[artefact.path] = _answer(asked, tokenizer, prompt, tokens, top)
    return answers


def _last_logits(model: Any, ids_1S: Any) -> Any:
    return model(input_ids=ids_1S, use_cache=False).logits[0, -1]


def _files(run: RunFolder, config: RunConfig) -> list[Artefact]:
    """What was exported and can be loaded. Raises ValueError if nothing was."""
    found = [artefact for name in config.specialists for artefact in artefacts_of(run, config, name)]
    if not found:
        raise ValueError(f"ask: no file of {run.uri} is exported; `stillhouse export RUN --format gguf` writes them")
    return found


@contextmanager
def _there(run: RunFolder, artefact: Artefact) -> Iterator[Path]:
    """An exported file, or folder, on this machine."""
    folder, _, name = artefact.path.rpartition("/") if artefact.path.endswith(".gguf") else (artefact.path, "", "")
    with local_folder(run.storage, folder) as here:
        yield here / name


def _models(run: RunFolder, config: RunConfig, teacher: bool) -> dict[str, str | Path]:
    """Names and places of what can be asked: a Path is a folder on this machine, a string a key of the run."""
    models: dict[str, str | Path] = {}
    for name in config.specialists:
        own, controls = StudentLayout(name), [f"{name}.{kind}" for kind in CONTROLS]
        for student in (name, *controls, f"{name}.{QUANTISED}"):
            if run.student_done(student) is not None:
                models[student] = StudentLayout(student).final
        if models.keys() & controls and run.storage.exists(own.at_control_tokens_facts):
            models[f"{name}.{AT_CONTROL_TOKENS}"] = own.at_control_tokens
    if teacher and models:
        teachers: dict[str, str | Path] = {n: model_folder(t.model, t.revision) for n, t in config.teachers.items()}
        models = teachers | models
    return models


def _fetch(run: RunFolder, source: str | Path, temporary: Path) -> Path:
    if isinstance(source, Path):
        return source
    local = run.storage.local_path(source)
    if local is None:
        run.storage.download_folder(source, temporary)
    return local or temporary


def _answer(last_logits: Callable[[Any], Any], tokenizer: Any, prompt: str, tokens: int, top: int) -> dict[str, Any]:
    import torch

    ids = tokenizer(prompt, return_tensors="pt").input_ids
    length, steps, first = ids.shape[1], list[dict[str, Any]](), list[list[Any]]()
    for _ in range(tokens):
        logits_V = last_logits(ids)[: len(tokenizer)]
        best = logits_V.float().softmax(-1).topk(min(top, len(logits_V)))
        nearly = [[tokenizer.decode([i]), p] for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        first = first or nearly
        token = int(logits_V.argmax())
        if token == tokenizer.eos_token_id:
            break
        before = tokenizer.decode(ids[0])
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
        written = tokenizer.decode(ids[0])
        own = written[len(before) :] if written.startswith(before) else tokenizer.decode([token])
        steps.append({"token": own, "probability": best.values[0].item(), "next": nearly})
    return {"text": tokenizer.decode(ids[0, length:]), "next": first, "steps": steps}
