"""A small job, and a driver that can be stopped at a named point and killed there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster.faults import GO_ON

CHECKOUT = Path(__file__).resolve().parents[2]
WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(97))]

STUDENT = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


def make_teacher(folder: Path) -> Path:
    """A random MoE of two layers over a vocabulary of 100 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=100, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2,
        mlp_only_layers=[], decoder_sparse_step=1, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
        initializer_range=0.3,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def small_config(folder: Path, teacher: Path) -> dict[str, Any]:
    """Two specialists of two domains, ZeRO-2 with a mix and ZeRO-3, each with a control of half its tokens."""
    sampling = {"max_new_tokens": 12, "samples": 2}
    train = {"tokens": 2400, "batch_tokens": 200, "lr": 3e-3, "cpus_per_worker": 0.2, "checkpoint_steps": 4}
    return {
        "name": "job",
        "storage": str(folder / "runs"),
        "teacher": {"model": str(teacher), "ep_size": 2, "cpus_per_rank": 0.2, "sampling": sampling},
        "prompts": {"medical": "medical.jsonl", "legal": "legal.jsonl"},
        "targets": {"prompts_per_unit": 4},
        "defaults": {"model": {"config": STUDENT}, "train": train},
        "specialists": {
            "medical": {"mix": {"medical": 0.7, "legal": 0.3}, "train": {"zero": 2}},
            "legal": {"train": {"zero": 3}},
        },
        "evaluate": {
            "targets": "hidden",
            "heldout": 0.25,
            "baselines": ["initial", "hard_labels"],
            "control_tokens": "50%",
            "cpus": 0.2,
            "bootstrap": 100,
        },
        "export": [{"format": "safetensors", "measure": 0}],
    }


class Job:
    """A folder with a small run's configuration and data, and the command to run it."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for domain in ("medical", "legal"):
            prompts = [" ".join(WORDS[3 + (i * 7 + j * 3) % 97] for j in range(2 + i % 5)) for i in range(24)]
            rows: list[dict[str, Any]] = [{"id": str(i), "prompt": p} for i, p in enumerate(prompts)]
            rows[5]["answer"] = "w1 w2 w3"
            (folder / f"{domain}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        self.config = small_config(folder, teacher)
        self._paused_at = folder
        self.write(self.config)

    def write(self, config: dict[str, Any]) -> None:
        """Another configuration in the place of this one."""
        (self.folder / "job.yaml").write_text(yaml.safe_dump(config))

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", verb, str(self.folder / "job.yaml"), *arguments]

    def run(self, verb: str, *arguments: str, expect: int = 0, **environment: str) -> str:
        """Type a command and wait for it; its whole output."""
        done = subprocess.run(
            self.command(verb, *arguments),
            cwd=CHECKOUT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def kill_rank_at(self, point: str, verb: str, *arguments: str, process: str = "RankActor") -> str:
        """Start a command and SIGKILL a worker group's rank (or its leader) while one of them stands at a point; the
        command's whole output."""
        driver = self.start_until(point, 2, verb, *arguments)
        family = psutil.Process(driver.pid).children(recursive=True)
        next(p for p in family if process in " ".join(p.cmdline())).kill()
        output, _ = driver.communicate(timeout=400)
        assert driver.returncode == 0, output[-3000:]
        return output

    def start(self, verb: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command, whose output is read from its pipe."""
        return subprocess.Popen(
            self.command(verb, *arguments),
            cwd=CHECKOUT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_until(self, point: str, seconds: float, verb: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command, and return when some process of it stands at a point, for so many seconds."""
        marks = self._marks()
        pause = {"AT": point, "DIR": str(marks), "S": str(seconds)}
        driver = self.start(verb, *arguments, **{f"STILLHOUSE_PAUSE_{name}": value for name, value in pause.items()})
        self._wait_for(marks, driver)
        return driver

    def go_on(self) -> None:
        """Let the process that stands at a point go on."""
        (self._paused_at / GO_ON).touch()

    def kill_at(self, point: str, verb: str, *arguments: str) -> None:
        """Start a command, wait until some process of it stands at a point, and SIGKILL the driver there."""
        marks = self._marks()
        environment = os.environ | {"STILLHOUSE_PAUSE_AT": point, "STILLHOUSE_PAUSE_DIR": str(marks)}
        with (self.folder / "killed.log").open("ab") as log:
            driver = subprocess.Popen(
                self.command(verb, *arguments), cwd=CHECKOUT, env=environment, stdout=log, stderr=log
            )
        family: list[psutil.Process] = []
        self._wait_for(marks, driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # A Ray of its own dies with its driver; what lingers is ended, so that the next attempt is alone.
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)

    def _marks(self) -> Path:
        marks = self.folder / f"marks-{time.time_ns()}"
        marks.mkdir()
        self._paused_at = marks
        return marks

    def _wait_for(self, marks: Path, driver: subprocess.Popen[Any]) -> None:
        deadline = time.monotonic() + 300
        while not list(marks.iterdir()):
            assert driver.poll() is None, "the command ended before any process came to the point"
            assert time.monotonic() < deadline, "no process came to the point"
            time.sleep(0.1)
