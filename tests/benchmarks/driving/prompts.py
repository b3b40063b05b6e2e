"""Rows of chat messages: rows a second that are read, and that are written by a chat template and tokenized.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m driving.prompts [--rows 100000] [--repeats 3] [--model FOLDER]

Rivals on the same rows: `json.loads` of each line and `datasets.load_dataset` for reading; for writing, a row at a time
through `apply_chat_template` and the tokenizer, as this program did before it knew formats, and as TRL maps a dataset,
and the same in batches. All must find the same ids. Without `--model` the tokenizer knows bytes only, which is ChatML's
template on more tokens than a real one makes. CPU-seconds; medians of ratios over the repeats.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompts_bench import TESTS
from support.chat_models import chat_model
from targets_bench.tables import show

import workers
from orchestrator.config.schema import PromptSource
from orchestrator.prompts.policy import PromptPolicy
from orchestrator.prompts.sources import screen
from orchestrator.prompts.tokenizing import TeacherTokenizer
from workers.teacher.config import SamplingConfig, TeacherConfig

CHECKOUT = TESTS.parent
BATCH = 1024
WORDS = [
    "the",
    "patient",
    "has",
    "a",
    "mild",
    "fever",
    "and",
    "coughs",
    "since",
    "three",
    "days",
    "what",
    "should",
    "be",
    "done",
    "first",
    "contract",
    "binds",
    "both",
    "parties",
    "unless",
    "function",
    "returns",
    "list",
    "of",
    "values",
]
Arms = dict[str, Callable[[], Any]]


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    assert Path(workers.__file__).parents[1] == CHECKOUT, f"{workers.__file__} would be measured, not {CHECKOUT}"
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as name:
        folder = Path(name)
        model = args.model or chat_model(folder / "model", "chatml", max_position_embeddings=1 << 20)
        asked = write_rows(folder / "asked.jsonl", args.rows, given=False)
        answered = write_rows(folder / "answered.jsonl", args.rows, given=True)
        figures: dict[str, Any] = {"rows": args.rows, "model": model.name}
        figures["reading"] = timed("reading", reading(asked, folder / "cache"), args.rows, args.repeats)
        figures["writing"] = timed("asked: template and ids", writing(asked, model), args.rows, args.repeats)
        given = writing(answered, model, given=True)
        figures["given"] = timed("answer given: template, ids, the answer's own", given, args.rows, args.repeats)
    print(json.dumps(figures))


def write_rows(path: Path, rows: int, *, given: bool) -> Path:
    """Conversations of a system message and three turns, 110 words; `given`: the last is the assistant's."""
    rng = random.Random(0)
    roles = ["system", "user", "assistant", "user"] if not given else ["system", "user", "assistant"]
    with path.open("w") as file:
        for i in range(rows):
            turns = [{"role": role, "content": " ".join(rng.choices(WORDS, k=28))} for role in roles]
            file.write(json.dumps({"id": str(i), "messages": turns}) + "\n")
    return path


def reading(path: Path, cache: Path) -> Arms:
    """Ways to read a file of rows."""

    def library() -> Any:
        from datasets import load_dataset
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache / str(time.time_ns())))
        return sum(1 for _ in rows)

    return {
        "json.loads alone": lambda: len([json.loads(line) for line in path.open("rb")]),
        "datasets.load_dataset": library,
        "stillhouse": lambda: len(screen("asked", PromptSource(path=str(path))).prompts),
    }


def writing(path: Path, model: Path, *, given: bool = False) -> Arms:
    """Ways to write rows by a chat template and tokenize them; the ids of prompt and answer, all that are found."""
    from transformers import AutoTokenizer

    prompts = screen("rows", PromptSource(path=str(path))).prompts
    chats = [json.loads(line)["messages"] for line in path.open()]
    loaded = AutoTokenizer.from_pretrained(model)
    teacher = TeacherTokenizer.of_transformers(TeacherConfig(model=str(model)))
    how = PromptPolicy("teacher", SamplingConfig())

    def text_of(messages: list[Any]) -> str:
        return loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=not given)

    def row_by_row() -> list[Any]:
        found = []
        for messages in chats:
            ids = loaded(text_of(messages), add_special_tokens=False).input_ids
            if given:
                asked = loaded.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
                start = len(loaded(asked, add_special_tokens=False).input_ids)
                found.append((ids[:start], ids[start:]))
            else:
                found.append((ids, None))
        return found

    def in_batches() -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(chats), BATCH):
            texts = loaded.apply_chat_template(
                chats[start : start + BATCH], tokenize=False, add_generation_prompt=not given
            )
            found += [(ids, None) for ids in loaded(texts, add_special_tokens=False).input_ids]
        return found

    def ours() -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(prompts), BATCH):
            for item in teacher.prompts([(prompt, how) for prompt in prompts[start : start + BATCH]]):
                assert not isinstance(item, ValueError), item
                found.append((item.prompt_token_ids, item.answer_token_ids))
        return found

    agree = same(row_by_row(), ours())
    assert agree, "other ids than apply_chat_template's"
    return {"row by row": row_by_row, **({} if given else {"in batches": in_batches}), "stillhouse": ours}


def same(theirs: list[Any], ours: list[Any]) -> bool:
    """Whether prompts are equal, and answers up to what a template writes behind the end of a turn."""
    return all(a[0] == b[0] and (a[1] is None or a[1][: len(b[1])] == b[1]) for a, b in zip(theirs, ours, strict=True))


def timed(title: str, arms: Arms, rows: int, repeats: int) -> dict[str, Any]:
    """CPU-seconds of each way, in turn; rows a CPU-second and how many times the first way's."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            began = time.process_time()
            arm()
            seconds[name].append(time.process_time() - began)
    first = seconds[next(iter(arms))]
    table = {
        name: {
            "rows_per_cpu_s": rows / statistics.median(own),
            "times_first": statistics.median(f / o for f, o in zip(first, own, strict=True)),
        }
        for name, own in seconds.items()
    }
    show(title, ["way", "rows / CPU-s", "times the first"], [[n, *figures.values()] for n, figures in table.items()])
    return table


if __name__ == "__main__":
    main()
