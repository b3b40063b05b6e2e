"""What a user can get wrong: exit code 2 and one line naming setting, value and remedy, before a model loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import Project

from orchestrator.runs.folder import RunFolder

Command = Callable[..., Any]
"""The `stillhouse` fixture: words -> Outcome."""


def in_a_process(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m orchestrator` as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# In a process of its own --------------------------------------------------------------------------------------


def test_a_wrong_setting_in_a_process_of_its_own(project: Project) -> None:
    project.set("teacher.ep_sise", 2)
    done = in_a_process(project.folder, "run", str(project.write()))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: teacher.ep_sise: unknown key; did you mean 'ep_size'?\n"


def test_run_refuses_before_it_starts_ray(project: Project) -> None:
    project.set("teacher.ep_size", 3)
    done = in_a_process(project.folder, "run", str(project.write()))
    assert done.returncode == 2
    assert done.stderr.startswith("error: teacher.ep_size: 3 does not divide the 4 experts")
    assert not (project.folder / "runs").exists(), "a refused request leaves nothing behind"


def test_a_right_configuration_in_a_process_of_its_own(project: Project) -> None:
    done = in_a_process(project.folder, "validate", str(project.write()))
    assert (done.returncode, done.stderr) == (0, "")
    assert "is fine: 16 usable prompts" in done.stdout


def no_credentials(folder: Path) -> dict[str, str]:
    """An environment in which the S3 client finds no key and no server, without asking any network."""
    nothing = str(folder / "nothing")
    files = {"AWS_CONFIG_FILE": nothing, "AWS_SHARED_CREDENTIALS_FILE": nothing}
    return files | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


def test_a_bucket_without_credentials(project: Project) -> None:
    project.set("storage", "s3://bucket/prefix")
    done = in_a_process(project.folder, "validate", str(project.write()), **no_credentials(project.folder))
    assert done.returncode == 2 and done.stderr.startswith("error: storage:") and "Traceback" not in done.stderr


def test_prompts_in_a_bucket_without_credentials(project: Project) -> None:
    project.set("prompts.medical", "s3://bucket/medical.jsonl")
    done = in_a_process(project.folder, "validate", str(project.write()), **no_credentials(project.folder))
    assert done.returncode == 2 and done.stderr.startswith("error: prompts.medical:") and "Traceback" not in done.stderr


# Files and models ---------------------------------------------------------------------------------------------


def test_no_configuration_file(project: Project, stillhouse: Command) -> None:
    error = stillhouse("plan", "no.yaml").error
    assert "no.yaml" in error and "stillhouse init" in error


def test_unknown_key(project: Project, stillhouse: Command) -> None:
    project.set("defaults.train.token", 5)
    lines = stillhouse("validate", project.write()).refusal
    assert lines[0] == "error: specialists.medical.train.token: unknown key; did you mean 'tokens'?"


@pytest.mark.parametrize("name", ["no.jsonl", "no.parquet", "data/no.jsonl"])
def test_no_prompt_file(project: Project, stillhouse: Command, name: str) -> None:
    project.set("prompts.medical", name)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: prompts.medical: no such file") and name in error


def test_empty_prompt_file(project: Project, stillhouse: Command) -> None:
    project.text("medical.jsonl", "\n\n")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: prompts.medical: no usable row in") and "medical.jsonl" in error


def test_a_file_of_broken_rows_says_what_is_wrong_with_most(project: Project, stillhouse: Command) -> None:
    project.rows("medical.jsonl", "{", {"q": "the fever"}, {"q": "the rule"})
    error = stillhouse("validate", project.write()).error
    assert "3 rejected; 2 of them: has none of the columns" in error and "FORMATS.md" in error


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/such/teacher", "acme/nowhere"])
def test_no_teacher(project: Project, stillhouse: Command, name: str) -> None:
    project.set("teacher.model", name)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: teacher.model: ") and name.removeprefix("./") in error


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_a_teacher_with_a_file_missing(project: Project, stillhouse: Command, missing: str) -> None:
    (project.folder / "teacher" / missing).unlink()
    error = stillhouse("validate", project.write()).error
    assert "teacher" in error and f"has no {missing}" in error


def test_two_teachers_of_different_tokenizers(project: Project, stillhouse: Command) -> None:
    project.model("second", words=["other"])
    project.data["teachers"] = {"first": project.data.pop("teacher"), "second": {"model": "second"}}
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: teachers.second.model: ") and "tokenizer" in error


@pytest.mark.parametrize("ep_size", [3, 8])
def test_ranks_that_cannot_share_the_experts(project: Project, stillhouse: Command, ep_size: int) -> None:
    project.set("teacher.ep_size", ep_size)
    error = stillhouse("validate", project.write()).error
    assert f"teacher.ep_size: {ep_size} does not divide the 4 experts" in error and "[1, 2, 4]" in error


def test_ranks_for_a_dense_teacher(project: Project, stillhouse: Command) -> None:
    project.model("dense", experts=0)
    project.set("teacher", {"model": "dense", "ep_size": 2})
    error = stillhouse("validate", project.write()).error
    assert "teacher.ep_size: 2" in error and "dense" in error and "ep_size 1" in error


def test_one_rank_for_a_dense_teacher_is_fine(project: Project, stillhouse: Command) -> None:
    project.model("dense", experts=0)
    project.set("teacher", {"model": "dense"})
    assert stillhouse("validate", project.write()).code == 0


# vLLM ---------------------------------------------------------------------------------------------------------

GPU = {"gpus_per_rank": 1}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "vllm"}, "teacher.engine: vllm, but the package vllm is not installed"),
        ({"engine": "vllm", "vllm": {"python": "python3"}}, "teacher.vllm.python: 'python3' is not the absolute path"),
        ({"vllm": {"tensor_parallel": 2}}, "teacher.vllm: given, but teacher.engine is 'transformers'"),
        ({"engine": "vllm", "ep_size": 2, **GPU}, "teacher.ep_size: 2, but several engines of vLLM that share experts"),
        ({"engine": "vllm", "vllm": {"tensor_parallel": 2}}, "teacher.vllm.enable_expert_parallel: true"),
        ({"engine": "vllm", "vllm": {"tensor_parallel": 2}, **GPU}, "gpus_per_rank is 1; they must be the same"),
        ({"engine": "vllm", "dispatch": "all_reduce", **GPU}, "teacher.dispatch: all_reduce"),
        (
            {"engine": "vllm", "vllm": {"engine_kwargs": {"data_parallel_size": 2}}},
            "teacher.vllm.engine_kwargs: data_parallel_size cannot be set: several engines that share experts",
        ),
        (
            {"engine": "vllm", "vllm": {"engine_kwargs": {"pipeline_parallel_size": 2}}},
            "teacher.vllm.engine_kwargs: pipeline_parallel_size cannot be set",
        ),
    ],
)
def test_what_vllm_cannot_do(project: Project, stillhouse: Command, settings: dict[str, Any], said: str) -> None:
    project.set("teacher", {"model": "teacher", **settings})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: teacher.") and said in error


# Domains, evaluation ------------------------------------------------------------------------------------------


def test_a_domain_that_no_prompt_has(project: Project, stillhouse: Command) -> None:
    project.set("specialists.legal.mix", {"legal": 0.5, "tax": 0.5})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.mix: ") and "'tax'" in error and "['legal', 'medical']" in error


def test_a_domain_with_a_share_of_zero_is_not_asked_for(project: Project, stillhouse: Command) -> None:
    project.set("specialists.legal.mix", {"legal": 1, "tax": 0})
    assert stillhouse("validate", project.write()).code == 0


def test_a_domain_that_only_rows_name(project: Project, stillhouse: Command) -> None:
    project.rows("medical.jsonl", {"prompt": "the fever", "domain": ["medical", "tax"], "split": "train"})
    project.set("specialists.legal.mix", {"legal": 0.5, "tax": 0.5})
    assert stillhouse("validate", project.write()).code == 0


def test_a_domain_of_held_out_rows_only(project: Project, stillhouse: Command) -> None:
    project.rows("medical.jsonl", *({"prompt": f"the {i}", "split": "heldout"} for i in range(4)))
    assert "medical" in stillhouse("validate", project.write()).error


def test_withheld_words_of_a_domain_that_no_prompt_has(project: Project, stillhouse: Command) -> None:
    project.set("targets.withhold", {"tax": ["fever"]})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: targets.withhold: ") and "'tax'" in error


def test_no_probes_file(project: Project, stillhouse: Command) -> None:
    project.set("evaluate.probes", "no.jsonl")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.probes: ") and "no.jsonl" in error


@pytest.mark.parametrize(
    "row", ["{", [], {}, {"domain": "legal", "prompt": "the"}, {"domain": "legal", "prompt": "the", "answer": ""}]
)
def test_a_line_of_the_probes_that_is_none(project: Project, stillhouse: Command, row: Any) -> None:
    project.rows("probes.jsonl", {"domain": "legal", "prompt": "the", "answer": "fever"}, row)
    project.set("evaluate.probes", "probes.jsonl")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.probes: line 2 of") and "{domain, prompt, answer}" in error


def test_a_file_of_no_probes(project: Project, stillhouse: Command) -> None:
    project.text("probes.jsonl", "\n")
    project.set("evaluate.probes", "probes.jsonl")
    assert stillhouse("validate", project.write()).error.startswith("error: evaluate.probes: ")


@pytest.mark.parametrize("truth", ["no.py:truth", "truth.py", "truth"])
def test_no_truth_file(project: Project, stillhouse: Command, truth: str) -> None:
    project.text("truth.py", "def truth(domain, ids, start): ...\n")
    project.set("evaluate.truth", truth)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.truth: ") and "file.py:function" in error


@pytest.mark.parametrize("truth", ["truth.py:truht", "truth.py:", "folder:truth", ":truth"])
def test_no_such_function_in_the_truth_file(project: Project, stillhouse: Command, truth: str) -> None:
    project.text("truth.py", "def truth(domain, ids, start): ...\n")
    (project.folder / "folder").mkdir()
    project.set("evaluate.truth", truth)
    assert stillhouse("validate", project.write()).error.startswith("error: evaluate.truth: ")


def test_a_truth_file_with_its_function_is_fine(project: Project, stillhouse: Command) -> None:
    project.text("truth.py", "def truth(domain, ids, start): ...\n")
    project.set("evaluate.truth", "truth.py:truth")
    assert stillhouse("validate", project.write()).code == 0


# Storage and the run's name -----------------------------------------------------------------------------------


def test_storage_below_a_file(project: Project, stillhouse: Command) -> None:
    project.text("occupied", "")
    project.set("storage", "occupied/runs")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: storage: cannot write to ") and "occupied/runs" in error and "write to" in error


@pytest.mark.parametrize("uri", ["gs://bucket", "hdfs://x/y", "http://x"])
def test_storage_of_a_kind_that_there_is_not(project: Project, stillhouse: Command, uri: str) -> None:
    project.set("storage", uri)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: storage: ") and uri in error and "s3://" in error


def test_looking_leaves_no_file_in_the_storage(project: Project, stillhouse: Command) -> None:
    path = project.write()
    assert stillhouse("validate", path).code == 0 and stillhouse("plan", path).code in (0, 1)
    assert [p for p in (project.folder / "runs").rglob("*") if p.is_file()] == []


def opened(project: Project) -> Path:
    """The run's folder as `stillhouse run` makes it; returns the configuration's path."""
    file = project.load()
    RunFolder.of(file.located()).open(file)
    return Path(project.write())


def test_a_name_that_exists_with_another_configuration(project: Project, stillhouse: Command) -> None:
    path = opened(project)
    error = stillhouse("validate", path, "--set", "teacher.sampling.max_new_tokens=9", "--set", "seed=4").error
    assert "run 'trial' exists at" in error and "--set name=" in error
    assert "teacher.sampling.max_new_tokens: 8 -> 9" in error and "seed: 0 -> 4" in error
    assert "targets" not in error


@pytest.mark.parametrize("command", ["plan", "validate", "run", "capture", "train", "evaluate", "export"])
def test_every_command_minds_the_name(project: Project, stillhouse: Command, command: str) -> None:
    path = opened(project)
    assert "run 'trial' exists" in stillhouse(command, path, "--set", "seed=1").error


def test_a_specialist_left_out_or_changed_is_named_and_left_as_it_is(project: Project, stillhouse: Command) -> None:
    path = opened(project)
    out = stillhouse("validate", path, "--set", "specialists={medical: {}}").out
    assert "note: legal is not in the configuration any more" in out
    out = stillhouse("validate", path, "--set", "specialists.legal.train.lr=1").out
    assert "note: legal stays as it was begun (specialists.legal.train.lr: 2e-05 -> 1.0)" in out


@pytest.mark.parametrize(
    "change",
    [
        "cluster.cpus=8",
        "evaluate.bootstrap=200",
        "evaluate.baselines=[]",
        "export=[]",
        "specialists.both={mix: {legal: 1, medical: 1}}",
    ],
)
def test_what_may_change_between_attempts(project: Project, stillhouse: Command, change: str) -> None:
    path = opened(project)
    assert stillhouse("validate", path, "--set", change).code == 0


def test_another_name_is_another_run(project: Project, stillhouse: Command) -> None:
    path = opened(project)
    assert stillhouse("validate", path, "--set", "seed=9", "--set", "name=second").code == 0


# Commands at the wrong time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["nothing", "runs/nothing", "/no/such/run", "runs"])
def test_ask_a_run_that_does_not_exist(project: Project, stillhouse: Command, where: str) -> None:
    error = stillhouse("ask", where, "the fever").error
    assert "no run at" in error and where in error


def test_ask_before_anything_is_trained(project: Project, stillhouse: Command) -> None:
    path = opened(project)
    for where in (path, "trial", "runs/trial", project.folder / "runs" / "trial"):
        assert "nothing of" in (error := stillhouse("ask", where, "the fever").error) and "stillhouse run" in error


def test_export_before_train(project: Project, stillhouse: Command) -> None:
    error = stillhouse("export", project.write()).error
    assert error.startswith("error: export: no specialist of") and "stillhouse train" in error


def test_train_only_a_specialist_that_there_is_not(project: Project, stillhouse: Command) -> None:
    error = stillhouse("train", project.write(), "--only", "medicine").error
    assert "--only medicine" in error and "medical, legal" in error


def test_init_never_overwrites(project: Project, stillhouse: Command) -> None:
    path = project.text("mine.yaml", "precious")
    assert "exists already" in stillhouse("init", path).error
    assert path.read_text() == "precious"


def test_init_writes_what_load_config_reads(project: Project, stillhouse: Command) -> None:
    assert stillhouse("init", "new.yaml").code == 0
    # Its example data is not there; that, and nothing else, is wrong with it.
    error = stillhouse("validate", "new.yaml", "--set", "teacher={model: teacher}").error
    assert "specialists.medical.model" in error or "prompts.medical: no such file" in error


# Exit codes and help ------------------------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_exits_with_1(project: Project, stillhouse: Command) -> None:
    outcome = stillhouse("plan", project.write(), "--set", "teacher.cpus_per_rank=100000")
    assert "does not fit" in outcome.out
    assert outcome.code == 1


def test_a_plan_that_fits_exits_with_0(project: Project, stillhouse: Command) -> None:
    outcome = stillhouse("plan", project.write())
    assert outcome.code == 0 and "everything fits" in outcome.out and outcome.err == ""


def test_help_names_every_command(project: Project, stillhouse: Command) -> None:
    outcome = stillhouse("--help")
    commands = ("init", "validate", "plan", "run", "capture", "train", "evaluate", "export", "ask", "submit")
    assert outcome.code == 0 and all(f" {c} " in outcome.out for c in commands)


@pytest.mark.parametrize("words", [["valdiate"], ["plan"], ["plan", "x", "--jsno"], ["capture", "x", "--limit", "0"]])
def test_usage_errors_exit_with_2_and_point_to_help(project: Project, stillhouse: Command, words: list[str]) -> None:
    outcome = stillhouse(*words)
    assert outcome.code == 2 and "--help" in outcome.err and "Traceback" not in outcome.err
