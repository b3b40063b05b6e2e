"""What `stillhouse plan` says a run takes, beside what it takes: memory of processes, target tokens, bytes of stores.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m size_bench.planned
    [--sizes small medium large] [--tokens 4000] [--run FOLDER]

Of each size a random mixture over two ranks teaches three dense students of one size, of two workers each: ZeRO-1, 2
and 3, one after another. Memory is the most that the kernel counted for a process (VmHWM), pages of files that it has
mapped included; of several processes of a part the largest. `--run` is a finished or broken run, whose plan is made
anew from its configuration as it is, and whose stores are read. A minute to two a size.

Bytes of the training store are planned for a teacher of language: of a random one, no two draws of a position are of
one id, and it takes 1.6 times as many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from fanout_bench.measuring import CHECKOUT, environment
from fanout_bench.specialists import TOGETHER
from targets_bench.tables import show
from teacher_bench.models import random_ids, save

from orchestrator.runs.folder import find_run
from workers.splits import HELDOUT, TRAIN
from workers.targets.store import TargetStore

VOCABULARY = 8_192
SIZES = {"small": (256, 4), "medium": (512, 8), "large": (768, 12)}
"""Width and layers of the students; the teacher has half the width, and eight experts."""

_STAGES = (1, 2, 3)
_LOOK_S = 0.2


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--tokens", type=int, default=4_000, help="target tokens of each student")
    parser.add_argument("--run")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            found |= of_size(size, Path(folder), args.tokens)
    if args.run:
        found |= of_stores("run", Path(find_run(args.run).uri, "config.resolved.yaml"), args.run)
    print(json.dumps(found))


def of_size(size: str, folder: Path, tokens: int) -> dict[str, float]:
    """Measured over planned: each part's memory, and tokens and bytes of the stores."""
    config = write_project(size, folder, tokens)
    plan = planned(config)
    memory = {part["name"]: part["memory"] for part in plan["parts"]}
    seen = peaks(TOGETHER, str(config))
    ranks = [peak for title, peak in seen if "RankActor" in title]
    workers = [peak for title, peak in seen if "TrainWorker" in title]
    assert len(ranks) == 2 and len(workers) == 2 * len(_STAGES), [title for title, _ in seen]
    measured = {"teacher teacher": max(ranks)}
    measured |= {f"specialist zero{z}": max(workers[2 * i : 2 * i + 2]) for i, z in enumerate(_STAGES)}
    rows = [[name, memory[name] / 1e6, peak / 1e6, peak / memory[name]] for name, peak in measured.items()]
    show(f"memory, {size}", ["process", "planned MB", "measured MB", "measured over planned"], rows)
    ratios = {f"{size}_{name.split()[-1]}": round(peak / memory[name], 3) for name, peak in measured.items()}
    return ratios | of_stores(size, config, str(folder / "runs" / size))


def of_stores(what: str, config: Path, run: str) -> dict[str, float]:
    """Target tokens, and bytes with those of teachers' heads, of both stores over what the plan says."""
    plan, rows, found = planned(config), [], {}
    for split in (TRAIN, HELDOUT):
        storage = find_run(run).storage
        entries = TargetStore(storage, split).log.entries()
        heads = sum(file.bytes for file in storage.listing(f"targets/{split}/heads"))
        there = {"tokens": sum(e.targets for e in entries), "bytes": sum(e.size for e in entries) + heads}
        for kind, number in there.items():
            said = plan[f"{split}_{kind}"]
            rows.append([f"{split} {kind}", said, number, number / said])
            found[f"{what}_{split}_{kind}"] = round(number / said, 3)
    show(f"stores, {what}", ["what", "planned", "measured", "measured over planned"], rows)
    return found


def write_project(size: str, folder: Path, tokens: int) -> Path:
    """A teacher, prompts with answers given, and a configuration; its path."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    width, layers = SIZES[size]
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 128, "head_dim": 64}
    teacher = Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=width // 2, intermediate_size=width, moe_intermediate_size=width,
        num_hidden_layers=layers, num_attention_heads=width // 64, num_key_value_heads=width // 128, head_dim=64,
        num_experts=8, num_experts_per_tok=2, mlp_only_layers=[], decoder_sparse_step=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    save(Qwen3MoeForCausalLM(teacher), VOCABULARY, folder / "teacher")
    texts = [[f"w{i}" for i in ids] for ids in random_ids([160] * (tokens // 100), VOCABULARY)]
    rows = [{"prompt": " ".join(text[:40]), "completion": " " + " ".join(text[40:])} for text in texts]
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    student = {"model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width} | heads
    student |= {"num_hidden_layers": layers, "vocab_size": VOCABULARY, "tie_word_embeddings": True}
    train = {"tokens": tokens, "batch_tokens": 1024, "micro_tokens": 512, "workers": 2, "cpus_per_worker": 0.3}
    config = {
        "name": size,
        "storage": str(folder / "runs"),
        "teacher": {"model": str(folder / "teacher"), "ep_size": 2, "cpus_per_rank": 0.3, "score_tokens": 1024},
        "prompts": {"words": str(folder / "words.jsonl")},
        "defaults": {"model": {"config": student}, "train": train},
        "specialists": {f"zero{z}": {"mix": {"words": 1}, "priority": -z, "train": {"zero": z}} for z in _STAGES},
        "fan_out": {"at_once": 1},
        "evaluate": {"baselines": []},
        "export": [],
    }
    path = folder / "stillhouse.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def planned(config: Path) -> dict[str, Any]:
    """What `stillhouse plan --json` says."""
    said = subprocess.run(
        [sys.executable, "-m", "orchestrator", "plan", str(config), "--json"],
        stdout=subprocess.PIPE,
        check=True,
        env=environment(),
        cwd=CHECKOUT,
    ).stdout
    return dict(json.loads(said))


def peaks(*command: str) -> list[tuple[str, int]]:
    """Run a Python program; of all processes below it their titles and most memory in bytes, by their start."""
    process = subprocess.Popen([sys.executable, *command], env=environment(), cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    most: dict[tuple[float, int], tuple[str, int]] = {}
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                title, status = " ".join(child.cmdline()), Path(f"/proc/{child.pid}/status").read_text()
                peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
                most[child.create_time(), child.pid] = title, 1024 * peak
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration):  # it ended meanwhile
                continue
        time.sleep(_LOOK_S)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return [most[key] for key in sorted(most)]


if __name__ == "__main__":
    main()
