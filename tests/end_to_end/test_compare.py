"""Models that were trained elsewhere, measured against a teacher with one command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from end_to_end.small_job import CHECKOUT, STUDENT, Job


def compare(folder: Path, teacher: Path, *students: str) -> tuple[dict[str, Any], str]:
    """Type it; the report, and what was said on the way."""
    command = [sys.executable, "-m", "orchestrator", "compare", "--json", "--teacher", str(teacher)]
    command += [option for student in students for option in ("--student", student)]
    command += [o for name in ("medical", "legal") for o in ("--prompts", str(folder / f"{name}.jsonl"))]
    settings = {
        "storage": str(folder / "runs"),
        "teacher.cpus_per_rank": 0.4,
        "teacher.sampling.max_new_tokens": 12,
        "evaluate.cpus": 0.4,
        "evaluate.bootstrap": 100,
        "evaluate.tasks": json.dumps({"facts": str(folder / "facts.jsonl")}),
    }
    command += [option for name, value in settings.items() for option in ("--set", f"{name}={value}")]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def random_student(teacher: Path, tmp_path: Path) -> Path:
    """A dense model of the teacher's tokenizer that knows nothing."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path / "random"
    shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(1)
    sizes = {k: v for k, v in STUDENT.items() if k != "model_type"}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=100, eos_token_id=1, **sizes)).save_pretrained(folder)
    return folder


def test_the_teacher_is_its_own_best_student_and_a_further_one_finds_its_answers(
    teacher: Path, random_student: Path, tmp_path: Path
) -> None:
    Job(tmp_path, teacher)  # for its prompts
    facts = [
        {"prompt": f"w{i} w{i + 1}", "choices": ["w3", "w4"], "answer": "w3", "domain": "medical"} for i in range(9)
    ]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in facts))
    report, _ = compare(tmp_path, teacher, f"itself={teacher}")
    assert list(report["models"]) == ["itself"] and not report["students"] and report["targets"]["tokens"] == 0
    for score in report["table"]["itself"].values():
        # Of 24 prompts a domain all are held out. Float32 logits of a few units: KL is the square of what they are off.
        assert score["prompts"] == 24 and abs(score["kl"]) < 1e-6 and score["acceptance"] > 1 - 1e-3
        assert score["top1_agreement"] == 1
    task = report["models"]["itself"]["tasks"]["medical"]
    assert task["items"] == 9 and task["specialist"]["score"] == task["teacher"]["score"]
    report, said = compare(tmp_path, teacher, f"itself={teacher}", str(random_student))
    assert "is ready" not in said, "no teacher is started again"
    assert list(report["models"]) == ["itself", "random"]
    for domain, score in report["table"]["random"].items():
        assert score["kl_low"] > 0.1 and score["acceptance"] < 0.9
        assert score["tokens"] == report["table"]["itself"][domain]["tokens"]
        assert report["calibration"]["random"][domain]["nll"] > report["calibration"]["itself"][domain]["nll"]
