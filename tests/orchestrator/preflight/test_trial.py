"""Prompts are tried on the teacher's own tokenizer and template before Ray starts: what nothing can be used of is told
at once, with the commonest reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.chat_models import chat_model
from support.project import Project

from orchestrator.preflight.checks import check

Command = Callable[..., Any]
HIGH = {"role": "user", "content": "Is it high?"}
YES = {"role": "assistant", "content": "Yes."}
THOUGHT = YES | {"content": "<think>It is 39.</think>Yes."}


@pytest.fixture
def chatty(project: Project, no_ray: None) -> Any:
    """A project of chats, whose teacher holds 200 tokens, most of them bytes, and has the template of Qwen2.5."""
    chat_model(project.folder / "teacher", "chatml", model_type="qwen3_moe", num_experts=4, max_position_embeddings=200)
    for domain in ("medical", "legal"):
        chats(project, domain, *([HIGH | {"content": f"Is {domain} {i}?"}] for i in range(4)))
    return project


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before Ray starts."""

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", start)


def chats(project: Project, domain: str, *conversations: list[dict[str, Any]]) -> None:
    project.rows(f"{domain}.jsonl", *({"id": i, "messages": turns} for i, turns in enumerate(conversations)))


def test_chats_of_a_teacher_that_knows_them_are_fine(chatty: Project, stillhouse: Command) -> None:
    out = stillhouse("validate", chatty.write()).out
    assert "8 usable prompts" in out and "prompts.medical: 4 chats (from messages)" in out


@pytest.mark.parametrize("command", ["validate", "plan", "run", "capture"])
def test_a_source_of_which_nothing_can_be_written(chatty: Project, stillhouse: Command, command: str) -> None:
    chat_model(chatty.folder / "teacher", "gemma", model_type="qwen3_moe", num_experts=4)
    system = {"role": "system", "content": "Be brief."}
    chats(chatty, "legal", *([system, HIGH | {"content": f"{i}"}] for i in range(3)), [HIGH, HIGH])
    error = stillhouse(command, chatty.write()).error
    assert error.startswith("error: prompts.legal: no usable row in ")
    assert "4 rejected; 3 of them: " in error and "System role not supported" in error and "FORMATS.md" in error


def test_reasoning_that_the_template_would_lose(chatty: Project, stillhouse: Command) -> None:
    chat_model(chatty.folder / "teacher", "r1", model_type="qwen3_moe", num_experts=4)
    chats(chatty, "legal", *([HIGH | {"content": f"{i}"}, THOUGHT] for i in range(3)))
    error = stillhouse("run", chatty.write()).error
    assert error.startswith("error: prompts.legal: ") and "its reasoning; set answer_format: verbatim" in error
    chatty.set("prompts.legal", {"path": "legal.jsonl", "answer_format": "verbatim"})
    assert stillhouse("validate", chatty.write()).code == 0


def test_a_domain_that_has_nothing_to_train_on(chatty: Project, stillhouse: Command) -> None:
    """Its source has other domains too, so that the source itself can be used."""
    long = HIGH | {"content": "x" * 500}
    rows = [{"id": i, "messages": [long | {"content": f"{i}{long['content']}"}], "domain": "tax"} for i in range(3)]
    chatty.rows("legal.jsonl", *rows, {"id": "short", "messages": [HIGH]})
    chatty.set("specialists.tax", {})
    error = stillhouse("run", chatty.write()).error
    assert error.startswith("error: specialists.tax.mix: no training prompt belongs to the domain 'tax'")
    assert "3 of them: longer than the 200 tokens of the teacher" in error


def test_one_row_that_can_be_used_is_found_among_many(chatty: Project) -> None:
    """Beyond the sample the others are tried until one can be used."""
    long = [[HIGH | {"content": f"{i} " + "x" * 500}] for i in range(100)]
    chats(chatty, "legal", *long[:77], [HIGH], *long[77:])
    chatty.set("evaluate.heldout", 0.0001)
    found = check(chatty.load())
    assert [p.id for p in found.prompts if p.source == "legal" and p.id == "legal/77"] == ["legal/77"]
    assert len([r for r in found.rejected if r.source == "legal"]) >= 32


def test_answers_longer_than_the_teacher_holds(chatty: Project, stillhouse: Command) -> None:
    chatty.set("teacher.sampling", {"max_new_tokens": 200})
    error = stillhouse("run", chatty.write()).error
    assert error.startswith("error: teacher.sampling.max_new_tokens: 200, but ") and "holds 200 tokens" in error
    chatty.set("teacher.sampling", {"max_new_tokens": 8})
    chatty.set("domains.legal.sampling", {"max_new_tokens": 300})
    assert stillhouse("run", chatty.write()).error.startswith("error: domains.legal.sampling.max_new_tokens: 300")
    chatty.set("prompts.legal", {"path": "legal.jsonl", "sampling": {"max_new_tokens": 400}})
    assert stillhouse("run", chatty.write()).error.startswith("error: prompts.legal.sampling.max_new_tokens: 400")


def test_no_room_is_wanted_for_answers_that_are_given(chatty: Project, stillhouse: Command) -> None:
    for domain in ("medical", "legal"):
        chats(chatty, domain, *([HIGH | {"content": f"{i}"}, YES] for i in range(3)))
    chatty.set("teacher.sampling", {"max_new_tokens": 4000})
    chatty.set("evaluate", {"text": "given"})
    assert stillhouse("validate", chatty.write()).code == 0


@pytest.mark.parametrize("place", ["prompts.legal", "domains.legal"])
def test_a_setting_that_the_template_does_not_read(chatty: Project, stillhouse: Command, place: str) -> None:
    chat_model(chatty.folder / "teacher", "qwen3", model_type="qwen3_moe", num_experts=4)
    chatty.set("prompts.legal", {"path": "legal.jsonl"})
    chatty.set(place, {**chatty.data.get("prompts" if "prompts" in place else "domains", {}).get("legal", {}),
                       "chat_template_kwargs": {"enable_thinkng": False}})  # fmt: skip
    error = stillhouse("run", chatty.write()).error
    assert error.startswith(f"error: {place}.chat_template_kwargs.enable_thinkng: ")
    assert "did you mean 'enable_thinking'?" in error


@pytest.mark.parametrize("kwargs", [{"messages": []}, {"add_generation_prompt": False}, {"tokenize": True}])
def test_a_setting_that_is_none_of_the_template_s(chatty: Project, stillhouse: Command, kwargs: dict[str, Any]) -> None:
    chatty.set("prompts.legal", {"path": "legal.jsonl", "chat_template_kwargs": kwargs})
    error = stillhouse("run", chatty.write()).error
    assert error.startswith(f"error: prompts.legal.chat_template_kwargs: {next(iter(kwargs))}: ")


def test_settings_of_a_template_for_text(project: Project, stillhouse: Command) -> None:
    project.set("prompts.legal", {"path": "legal.jsonl", "chat_template_kwargs": {"enable_thinking": False}})
    error = stillhouse("run", project.write()).error
    assert error.startswith("error: prompts.legal.chat_template_kwargs: ") and "prompts.legal.chat: true" in error


def test_a_dataset_s_settings_for_a_file(chatty: Project, stillhouse: Command) -> None:
    chatty.set("prompts.legal", {"path": "legal.jsonl", "dataset_config": "main"})
    assert "dataset_config is 'main'" in stillhouse("run", chatty.write()).error


def test_text_that_a_template_wrote_is_noted(chatty: Project, stillhouse: Command) -> None:
    """Read as text it would ask the teacher something else."""
    written = [{"id": i, "prompt": f"<|im_start|>user\n{i}<|im_end|>\n<|im_start|>assistant\n"} for i in range(3)]
    chatty.rows("legal.jsonl", *written)
    outcome = stillhouse("validate", chatty.write())
    assert "note: prompts.legal: 3 of 3 rows" in outcome.out and "prompts.legal.special_tokens: tokens" in outcome.out
    chatty.set("prompts.legal", {"path": "legal.jsonl", "special_tokens": "tokens"})
    assert "note: " not in stillhouse("validate", chatty.write()).out
