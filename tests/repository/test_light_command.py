"""The command answers without loading a model library: --help, validate, plan, and what watches runs, in a process of
their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.toys.watched_run import begun, driven, story, tell

CHECKOUT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "deepspeed", "transformers", "accelerate", "ray", "datasets", "s3fs", "vllm", "lm_eval")
HEAVY += ("tensorboard", "mlflow", "wandb", "trackio")
LIGHT = sorted(
    {
        "orchestrator.preflight.prompts",
        "orchestrator.cli.app",
        "orchestrator.config.loading",
        "orchestrator.preflight.plan",
        "cluster.jobs.listing",
        "cluster.nodes.kinds",
        "orchestrator.render.plan",
        "orchestrator.render.closing",
        "orchestrator.render.markdown",
        "orchestrator.render.model_card",
        "orchestrator.preflight.checks",
        "orchestrator.prompts.sources",
        "orchestrator.prompts.tokenizing",
        "orchestrator.preflight.trial",
        "orchestrator.render.sources",
        "orchestrator.runs.folder",
        "orchestrator.driver.summary",
        "orchestrator.status.drawing",
        "orchestrator.status.jobs",
        "orchestrator.status.listing",
        "orchestrator.status.messages",
        "orchestrator.status.table",
        "orchestrator.stores.info",
        "orchestrator.stores.show",
        "orchestrator.stores.verify",
        "orchestrator.trackers.monitor",
        "orchestrator.trackers.replaying",
        "orchestrator.prompts.notes",
        "workers.chat_template",
        "workers.targets.encoding.schema",
        "workers.teacher.units.answers",
        "workers.units",
        "orchestrator.preflight.memory",
        "workers.model_files",
        "workers.fingerprint",
    }
    | {
        ".".join(p.relative_to(CHECKOUT).with_suffix("").parts)
        for package in ("orchestrator", "workers", "cluster")
        for p in (CHECKOUT / package).rglob("config.py")
    }
)
SCRIPT = """
import importlib, json, sys
seen = {}
def look(stage):
    seen[stage] = [name for name in %(heavy)r if name in sys.modules]
for module in %(light)r:
    importlib.import_module(module)
    look(module)
from orchestrator.cli import app as cli
for words in %(commands)r:
    try:
        cli.app(words, standalone_mode=False)
    except BaseException as error:
        if type(error).__name__ != "Exit":
            raise
    look(words[0])
print()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Heavy libraries in the process after each step."""
    config = str(CHECKOUT / "examples" / "quickstart" / "stillhouse.yaml")
    commands: list[Any] = [["--help"], ["validate", config], ["plan", config], ["plan", config, "--json"]]
    commands += [["plan", config, "--nodes", "cpu:0x2"]]
    clinic = str(CHECKOUT / "examples" / "cluster" / "run.yaml")
    out = str(tmp_path_factory.mktemp("rendered"))
    commands += [["cluster", "render", "aws", clinic, "--nodes", "h100:8", "--unplanned", "--out", out]]
    run = begun(str(tmp_path_factory.mktemp("storage")))
    tell(run.storage, 1, story())
    driven(run.storage)
    commands += [["status", run.uri], ["status", run.uri, "--json"], ["logs", run.uri]]
    commands += [["runs", run.uri.rpartition("/")[0]], ["stop", run.uri, "--no-wait"]]
    script = SCRIPT % {"heavy": HEAVY, "light": LIGHT, "commands": commands}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path_factory.mktemp("typed-here"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usable prompts" in done.stdout and "teacher" in done.stdout
    result: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("step", [*LIGHT, "--help", "validate", "plan", "cluster", "status", "logs", "runs", "stop"])
def test_loads_nothing_heavy(loaded: dict[str, list[str]], step: str) -> None:
    assert loaded[step] == []


def test_the_list_of_configurations_is_found() -> None:
    assert {"cluster.config", "workers.student.config", "workers.student.losses.config"} <= set(LIGHT)


def test_the_driver_of_a_run_loads_no_model_library() -> None:
    """Start-up is imports: leaders, controllers, supervisors and the driver should not load torch."""
    names = ("torch", "transformers", "deepspeed")
    look = f"import sys, orchestrator.driver.pipeline; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
