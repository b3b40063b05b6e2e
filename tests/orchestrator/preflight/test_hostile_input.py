"""Careless and hostile input: whatever is wrong, the user reads `error: ...` and never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.project import Project

Command = Callable[..., Any]


# The file itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# only a comment\n",
        b"- a\n- b\n",
        b"just words",
        b"name: x\n\tteacher: y\n",
        b"a: *nobody\n",
        b"a: 1\n---\nb: 2\n",
        b"!!python/object/apply:os.system ['true']",
        b"1: 2\ntrue: 3\n",
        bytes(range(256)),
        "name: x\n".encode("utf-16"),
        b"\x7fELF\x02\x01\x01\x00",
        b"name: \x00",
        b"{" * 50,
        b"[" * 5000,
    ],
    ids=lambda c: repr(c[:12]),
)
def test_a_file_that_is_no_configuration(project: Project, stillhouse: Command, content: bytes) -> None:
    path = project.folder / "bad.yaml"
    path.write_bytes(content)
    assert stillhouse("validate", path).refusal


def test_a_byte_order_mark_is_no_fault(project: Project, stillhouse: Command) -> None:
    path = project.write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert stillhouse("validate", path).code == 0


def test_windows_line_ends_are_no_fault(project: Project, stillhouse: Command) -> None:
    path = project.write()
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    for name in ("medical.jsonl", "legal.jsonl"):
        prompts = project.folder / name
        prompts.write_bytes(prompts.read_bytes().replace(b"\n", b"\r\n"))
    assert "16 usable prompts" in stillhouse("validate", path).out


@pytest.mark.parametrize("where", [".", "run.yaml/below"])
def test_a_configuration_that_cannot_be_read(project: Project, stillhouse: Command, where: str) -> None:
    project.write()
    assert stillhouse("validate", where).error


def test_init_in_a_folder_that_does_not_exist(project: Project, stillhouse: Command) -> None:
    assert "no/such" in stillhouse("init", "no/such/run.yaml").error


# Settings -----------------------------------------------------------------------------------------------------

TRAIN, MIX, SIZES = "defaults.train", "specialists.legal.mix", "defaults.model.config"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("name", "a/b"),
        ("name", ".."),
        ("name", ""),
        ("name", "a b"),
        ("name", "-x"),
        ("name", 2024),
        ("name", None),
        ("name", ["a"]),
        ("storage", 3),
        ("seed", -1),
        ("seed", "zero"),
        (f"{TRAIN}.tokens", -5),
        (f"{TRAIN}.tokens", "-20M"),
        (f"{TRAIN}.tokens", 2.5),
        (f"{TRAIN}.tokens", float("nan")),
        (f"{TRAIN}.warmup", 1.5),
        (f"{TRAIN}.warmup", "150%"),
        (f"{TRAIN}.lr", float("nan")),
        (f"{TRAIN}.lr", 0),
        (f"{TRAIN}.zero", 4),
        (f"{TRAIN}.betas", [0.9]),
        ("defaults.loss", {"kl": 0, "ce": 0}),
        ("defaults.loss", None),
        (MIX, {"legal": 1, "medical": -0.1}),
        (MIX, {"legal": "80%"}),
        (MIX, ["legal"]),
        (MIX, {"legal": float("inf")}),
        ("evaluate.heldout", 0),
        ("evaluate.heldout", "five"),
        ("evaluate.baselines", ["nobody"]),
        ("export", ["gguf"]),
        ("prompts", ["medical.jsonl"]),
        ("prompts", {}),
        ("prompts.medical", None),
        ("prompts.medical", {"limit": 3}),
        ("prompts.medical", {"path": "medical.jsonl", "limit": 0}),
        ("specialists", None),
        ("specialists", ["medical"]),
        ("specialists", {}),
        ("specialists.legal", "acme/student"),
        ("specialists.generalist", {"mix": {"legal": 1}, "model": 3}),
        ("teacher", None),
        ("teacher", "teacher"),
        ("teacher.sampling", {"temperature": -1}),
        ("teacher.sampling", {"stop": "END"}),
        ("teacher.sampling", {"stop": [3]}),
        ("teacher.sampling", {"min_new_tokens": 9, "max_new_tokens": 8}),
        ("teacher.replicas", "many"),
        ("domains", ["medical"]),
        ("domains", {"medical": "acme/teacher"}),
        ("domains.medical", {"sampling": {"temperature": "cold"}}),
        ("domains.medical", {"sampling": {"stop": [""]}}),
        ("domains.medical", {"system_prompt": 3}),
        ("domains.medical", {"system_prompt": "\ud800"}),
        ("domains.medical", {"system_prompt": "You are a physician."}),
        ("domains.[/b]", {"teacher": None}),
        ("prompts.medical", {"path": "medical.jsonl", "chat": "please"}),
        ("prompts.medical", {"path": "medical.jsonl", "duplicates": "merge"}),
        ("answers", "drop"),
        ("answers", {"duplicates": True}),
        ("answers", {"min_tokens": 5, "max_tokens": 4}),
        ("answers", {"filter": "a\0b:c"}),
        ("answers", {"filter": "/proc/self/mem:keep"}),
        ("targets.draws", 0),
        ("targets.draws", 70000),
        ("cluster.runtime_env", "x"),
        ("cluster.cpus", 0),
        ("teacher.model", ""),
        ("teacher.model", "../elsewhere"),
        ("teacher.model", "s3://x/y"),
        ("prompts.medical", "acme/nothing"),
        ("name", "a" * 300),
        (f"{TRAIN}.tokens", "9" * 400),
        ("teacher.model", "x" * 5000),
        ("teacher.model", "~nobody-here/x"),
        ("storage", "~nobody-here/x"),
        ("evaluate.probes", "teacher"),
        (f"{SIZES}.hidden_size", "big"),
        (f"{SIZES}.num_hidden_layers", None),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_a_setting_that_makes_no_sense(project: Project, stillhouse: Command, where: str, value: Any) -> None:
    project.set(where, value)
    lines = stillhouse("plan", project.write()).refusal
    last = where.split(".")[-1]
    assert any(word in line for line in lines for word in (last, where, where.split(".")[0])), lines


@pytest.mark.parametrize(
    "change",
    [
        "a",
        "=",
        ".=1",
        "a..b=1",
        "export.first=1",
        "name.x=1",
        "name=",
        "teachers.second.model=x",
        "evaluate.heldout.x=1",
        "seed=[",
    ],
)
def test_a_set_that_makes_no_sense(project: Project, stillhouse: Command, change: str) -> None:
    assert stillhouse("validate", project.write(), "--set", change).refusal


@pytest.mark.parametrize("layers", [2, 100, -1, [9], [-1]], ids=str)
def test_more_layers_dropped_than_there_are(project: Project, stillhouse: Command, layers: int | list[int]) -> None:
    project.model("student", experts=0)
    project.set("specialists.legal.model", {"base": "student", "config": None, "drop_layers": layers})
    assert "drop_layers" in stillhouse("validate", project.write()).error


# Model folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_teacher_with_a_broken_file(project: Project, stillhouse: Command, name: str, content: str) -> None:
    project.text(f"teacher/{name}", content)
    error = stillhouse("validate", project.write()).error
    assert name in error and "teacher" in error


def test_a_teacher_with_truncated_weights(project: Project, stillhouse: Command) -> None:
    """What an interrupted download leaves."""
    project.text("teacher/model.safetensors", "{")
    assert "model.safetensors" in stillhouse("plan", project.write()).error


# Prompt files -------------------------------------------------------------------------------------------------


def test_a_folder_without_data_as_prompts(project: Project, stillhouse: Command) -> None:
    (project.folder / "empty").mkdir()
    project.set("prompts.medical", "empty")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: prompts.medical: ") and "empty" in error


def test_a_folder_named_like_a_file_as_prompts(project: Project, stillhouse: Command) -> None:
    (project.folder / "folder.jsonl").mkdir()
    project.set("prompts.medical", "folder.jsonl")
    assert stillhouse("validate", project.write()).error.startswith("error: prompts.medical: ")


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl", "p.json"])
@pytest.mark.parametrize("content", [b"", b"PAR1", bytes(range(256)) * 9])
def test_a_file_that_holds_no_prompts(project: Project, stillhouse: Command, name: str, content: bytes) -> None:
    (project.folder / name).write_bytes(content)
    project.set("prompts.medical", name)
    assert stillhouse("validate", project.write()).error.startswith("error: prompts.medical: ")


@pytest.mark.parametrize("name", ["prompts.tsv", "prompts.jsonl.xz", "prompts.txt"])
def test_a_file_of_another_kind(project: Project, stillhouse: Command, name: str) -> None:
    project.text(name, "prompt\nthe fever\n")
    project.set("prompts.medical", name)
    error = stillhouse("validate", project.write()).error
    assert name in error and ".jsonl" in error and "no such file" not in error


def test_an_empty_path(project: Project, stillhouse: Command) -> None:
    project.set("prompts.medical", "")
    assert stillhouse("validate", project.write()).error.startswith("error: prompts.medical")


@pytest.mark.parametrize(
    "row",
    [
        "NaN",
        "null",
        '"text"',
        "[]",
        "{",
        "9" * 5000,
        "[" * 100_000,
        {"prompt": "the", "id": "\ud800"},
        {"prompt": "the", "domain": "[/b]"},
    ],
    ids=lambda r: repr(r)[:20],
)
def test_one_bad_row_costs_only_itself(project: Project, stillhouse: Command, row: Any) -> None:
    project.rows("medical.jsonl", {"prompt": "the fever", "split": "train"}, row)
    assert stillhouse("plan", project.write()).code == 0


def test_a_configuration_whose_name_looks_like_markup(project: Project, stillhouse: Command) -> None:
    outcome = stillhouse("validate", project.write("[bold]run.yaml"))
    assert outcome.code == 0 and "[bold]run.yaml is fine" in outcome.out


def test_a_domain_that_looks_like_markup_is_only_text_to_validate(project: Project, stillhouse: Command) -> None:
    broken = {"prompt": "the rule", "domain": 5, "id": "[/red]"}
    project.rows("medical.jsonl", {"prompt": "the", "split": "train"}, broken)
    outcome = stillhouse("validate", project.write())
    assert outcome.code == 0 and "medical row 2" in outcome.out
