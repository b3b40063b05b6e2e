"""Freezing the prompts before teaching starts: ids, domains, splits, token ids, units. Broken rows are set aside.

`freeze` runs once, as a Ray task, with the teacher's tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError

from cluster.storage import Storage, open_storage
from orchestrator.config import RunConfig
from orchestrator.prompt_sources import RawPrompt, SetAside, assign_splits, read_probes, screen
from workers.manifest import write_manifest
from workers.model_files import model_folder, read_model_config
from workers.splits import HELDOUT, PROBES, TRAIN
from workers.targets.schema import shared_temperature
from workers.units import Prompt, build_units

SET_ASIDE_KEY = "prompts/set_aside.jsonl"
SUMMARY_KEY = "prompts/summary.json"


def freeze(config: RunConfig, run_uri: str) -> dict[str, Any]:
    """Tokenize, split and block all prompts; write manifests, plans and the rows set aside. Returns the summary."""
    from transformers import AutoTokenizer

    storage = open_storage(run_uri)
    raw, bad = _screen_all(config)
    first = config.teachers[config.first_teacher()]
    folder = model_folder(first.model, first.revision)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=first.trust_remote_code)
    longest = int(read_model_config(folder).get("max_position_embeddings") or 1 << 30)
    longest = min(longest, int(first.vllm.engine_kwargs.get("max_model_len") or longest))
    prompts: dict[str, list[Prompt]] = {TRAIN: [], HELDOUT: []}
    for item, split in zip(raw, assign_splits(raw, config.evaluate.heldout), strict=True):
        try:
            prompts[split].append(_tokenize(item, config, tokenizer, split, longest))
        except ValueError as error:
            bad.append(SetAside(item.source, -1, item.id, str(error)))
    prompts[PROBES] = _probes(config, tokenizer)
    summary = _write(storage, config, prompts, bad, len(tokenizer))
    return summary


def _screen_all(config: RunConfig) -> tuple[list[RawPrompt], list[SetAside]]:
    raw: list[RawPrompt] = []
    bad: list[SetAside] = []
    for name, source in config.prompts.items():
        good, broken = screen(name, source)
        raw += good
        bad += broken
    return raw, bad


def _write(
    storage: Storage, config: RunConfig, prompts: dict[str, list[Prompt]], bad: list[SetAside], vocabulary: int
) -> dict[str, Any]:
    lines = "".join(json.dumps(vars(b)) + "\n" for b in bad)
    storage.write(SET_ASIDE_KEY, lines.encode())
    summary: dict[str, Any] = {
        "vocabulary": vocabulary,
        "set_aside": len(bad),
        "reasons": _count(b.reason for b in bad),
        "splits": {},
    }
    demand = config.demand()
    for split, items in prompts.items():
        if split == PROBES and not items:
            continue
        plan, blocks = build_units(
            items, demand if split == TRAIN else {}, config.targets.prompts_per_unit, config.seed, split
        )
        write_manifest(storage, plan, blocks)
        summary["splits"][split] = {
            "units": len(plan.units),
            "prompts": len(items),
            "domains": {d: sum(d in p.domains for p in items) for d in plan.domains},
        }
    storage.write(SUMMARY_KEY, json.dumps(summary).encode())
    return summary


def _tokenize(item: RawPrompt, config: RunConfig, tokenizer: Any, split: str, longest: int) -> Prompt:
    """Token ids and settings of one prompt. Raises ValueError with the reason to set it aside."""
    source = config.prompts[item.source]
    shared_temperature(config.targets.temperatures, item.domains)
    teacher = source.teacher or config.first_teacher()
    sampling = source.sampling or config.teachers[teacher].sampling
    if item.messages is not None:
        if not tokenizer.chat_template:
            raise ValueError("has chat messages, but the teacher's tokenizer has no chat template")
        try:
            prompt_ids = list(
                tokenizer.apply_chat_template(
                    item.messages, add_generation_prompt=True, tokenize=True, return_dict=False
                )
            )
        except (ValueError, TypeError, KeyError, TemplateError) as error:
            raise ValueError(f"chat messages that the template refuses: {error}") from error
    else:
        prompt_ids = _ids(tokenizer, item.prompt or "", special=True)
    if not prompt_ids:
        raise ValueError("has no tokens")
    answer_ids = None
    if item.answer is not None and (split == TRAIN or config.evaluate.text == "given"):
        answer_ids = _ids(tokenizer, item.answer, special=False)
        if tokenizer.eos_token_id is not None:
            answer_ids = [*answer_ids, tokenizer.eos_token_id]
    new_tokens = len(answer_ids) if answer_ids is not None else sampling.max_new_tokens
    most = min(longest, source.max_tokens or longest)
    if len(prompt_ids) + new_tokens > most:
        whose = f"prompts.{item.source}.max_tokens" if most < longest else "the teacher"
        raise ValueError(f"longer than the {most} tokens of {whose}")
    heldout = split == HELDOUT
    return Prompt(
        id=item.id,
        domains=item.domains,
        teacher=teacher,
        samples=config.evaluate.samples if heldout else sampling.samples,
        temperature=1.0 if heldout else sampling.temperature,
        top_p=1.0 if heldout else sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        prompt_ids=prompt_ids,
        answer_ids=answer_ids,
    )


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Token ids of a text. Raises ValueError for text that is no Unicode (JSON can hold half a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    return tokenizer(text, add_special_tokens=special).input_ids


def _probes(config: RunConfig, tokenizer: Any) -> list[Prompt]:
    """Probes as prompts whose given answer is the one token to rank. Raises ValueError for an answer of no token."""
    rows = read_probes(config.evaluate.probes) if config.evaluate.probes is not None else []
    probes = []
    for number, row in enumerate(rows):
        answer_ids = _ids(tokenizer, row["answer"], special=False)[:1]
        if not answer_ids:
            raise ValueError(f"evaluate.probes: the answer of line {number + 1} has no tokens")
        probes.append(
            Prompt(
                id=f"probe-{number:04d}",
                domains=(row["domain"],),
                teacher=config.first_teacher(),
                samples=1,
                temperature=1.0,
                top_p=1.0,
                max_new_tokens=1,
                prompt_ids=_ids(tokenizer, row["prompt"], special=True),
                answer_ids=answer_ids,
            )
        )
    return probes


def _count(values: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
