"""Prompts as their teacher reads them: chat templates, system prompts, settings by domain, and none asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import Project

from orchestrator.preflight.checks import check
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.prompts.tokenizing import most_tokens
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import open_stores
from workers.chat_template import system_message_fault, usual_template
from workers.layout import PROMPTS_REJECTED
from workers.manifest import Manifest, read_plan
from workers.splits import HELDOUT, PROBES, TRAIN
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.units import Prompt

Command = Callable[..., Any]

UNKNOWN, END, THE, FEVER, IS, HIGH, A, CONTRACT, BINDS, REST, PAY, RULE = range(12)
"""Ids of the fixture's tokenizer."""
PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}is {% endif %}{{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}is{% endif %}"
)
LEAVES_OUT = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }} {% endfor %}is"
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN


class Frozen:
    """A project's prompts, frozen."""

    def __init__(self, project: Project) -> None:
        config = project.load().located()
        self.run = RunFolder.of(config)
        self.summary = freeze(config, self.run.uri)

    def prompts(self, split: str = TRAIN) -> dict[str, Prompt]:
        manifest = Manifest(self.run.storage, split)
        units = read_plan(self.run.storage, split).units
        return {p.id: p for unit in units for p in manifest.prompts(unit.index)}

    def reasons(self) -> dict[str, str]:
        lines = self.run.storage.read(PROMPTS_REJECTED).splitlines()
        return {item["id"]: item["reason"] for item in map(json.loads, lines)}


def set_template(project: Project, template: str, model: str = "teacher") -> None:
    project.text(f"{model}/chat_template.jinja", template)


@pytest.fixture
def chatty(project: Project) -> Any:
    """A project whose teacher has a chat template; one medical and one legal row, both to train on."""
    set_template(project, PLAIN)
    project.rows("medical.jsonl", {"id": "m", "prompt": "the fever", "split": "train"})
    project.rows("legal.jsonl", {"id": "l", "prompt": "a rule", "split": "train"})
    return project


# Chat and system prompts --------------------------------------------------------------------------------------


def test_text_is_continued_unless_it_is_chat(chatty: Project) -> None:
    chatty.set("prompts.medical", {"path": "medical.jsonl", "chat": True})
    prompts = Frozen(chatty).prompts()
    assert (prompts["medical/m"].prompt_token_ids, prompts["legal/l"].prompt_token_ids) == ([THE, FEVER, IS], [A, RULE])


def test_a_system_prompt_is_of_a_domain_and_the_row_s_own_wins(chatty: Project) -> None:
    system, user = {"role": "system", "content": "pay"}, {"role": "user", "content": "the fever"}
    rows = [{"messages": [user]}, {"messages": [system, user]}, {"messages": [user], "domain": "tax"}]
    chatty.rows("medical.jsonl", *({"id": i, "split": "train"} | row for i, row in enumerate(rows)))
    chatty.set("domains.medical.system_prompt", "rest")
    found = {name: p.prompt_token_ids for name, p in Frozen(chatty).prompts().items() if name.startswith("medical")}
    assert found == {
        "medical/0": [REST, THE, FEVER, IS],
        "medical/1": [PAY, THE, FEVER, IS],
        "medical/2": [THE, FEVER, IS],
    }


def test_held_out_prompts_stand_behind_the_same_system_prompt(chatty: Project) -> None:
    chatty.rows("medical.jsonl", {"id": 0, "prompt": "the"}, {"id": 1, "prompt": "high", "split": "heldout"})
    chatty.set("prompts.medical", {"path": "medical.jsonl", "chat": True, "system_prompt": "rest"})
    assert Frozen(chatty).prompts(HELDOUT)["medical/1"].prompt_token_ids == [REST, HIGH, IS]


@pytest.mark.parametrize(
    ("template", "fault"),
    [(REFUSES, "it refuses it: no system role"), (LEAVES_OUT, "it leaves it out"), ("", "has no chat template")],
    ids=["refuses", "leaves out", "none"],
)
def test_a_template_that_takes_no_system_message(
    chatty: Project, stillhouse: Command, template: str, fault: str
) -> None:
    """The plan refuses it; where the template is another one by then, rows are rejected."""
    chatty.set("prompts.medical", {"path": "medical.jsonl", "chat": True})
    chatty.set("domains.medical.system_prompt", "rest")
    set_template(chatty, template)
    error = stillhouse("plan", chatty.write()).error
    assert error.startswith("error: domains.medical.system_prompt: ") and fault in error
    chatty.rows("more.jsonl", {"id": "more", "prompt": "high", "domain": "medical", "split": "train"})
    chatty.set("prompts.more", {"path": "more.jsonl", "system_prompt": ""})
    assert set(Frozen(chatty).reasons()) == {"medical/m"}


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (PLAIN, None),
        ("{{ bos_token }}{{ messages[0].content | trim }}{{ strftime_now('%Y') }}", None),
        (LEAVES_OUT, "leaves it out"),
        (REFUSES, "refuses it: no system role"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", None),
        ("{% trans %}what plain Jinja does not know{% endtrans %}", None),
        ("{{ messages[7].content.x }}", None),
        ("{% if", None),
    ],
)
def test_the_trial_of_a_template(template: str, fault: str | None) -> None:
    assert system_message_fault(template, "be brief") == fault


def test_of_several_templates_the_default_is_used() -> None:
    assert usual_template([{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]) == "b"
    assert usual_template([{"name": "tools", "template": "a"}]) == "" and usual_template("c") == "c"


def test_text_with_a_system_prompt_is_refused_with_both_remedies(chatty: Project, stillhouse: Command) -> None:
    chatty.set("domains.legal.system_prompt", "rest")
    error = stillhouse("validate", chatty.write()).error
    assert error.startswith("error: domains.legal.system_prompt: row 1 of prompts.legal is text")
    assert "prompts.legal.chat: true" in error and "prompts.legal.system_prompt: ''" in error
    chatty.set("prompts.legal", {"path": "legal.jsonl", "system_prompt": ""})
    assert stillhouse("validate", chatty.write()).code == 0


def test_chat_without_a_template_is_refused(project: Project, stillhouse: Command) -> None:
    project.set("prompts.legal", {"path": "legal.jsonl", "chat": True})
    assert "prompts.legal.chat: the tokenizer of" in stillhouse("plan", project.write()).error


# Settings by domain -------------------------------------------------------------------------------------------


def test_rows_are_answered_as_the_domains_that_they_name(chatty: Project) -> None:
    chatty.rows(
        "medical.jsonl",
        {"id": 0, "prompt": "the fever", "domain": "legal", "split": "train"},
        {"id": 1, "prompt": "the fever", "split": "train"},
        {"id": 2, "prompt": "high", "domain": ["legal", "medical"], "split": "train"},
    )
    chatty.set("domains.legal.sampling", {"temperature": 0.5, "min_new_tokens": 2, "stop": ["binds"]})
    frozen = Frozen(chatty)
    legal = frozen.prompts()["medical/0"]
    assert (legal.temperature, legal.min_new_tokens, legal.stop, legal.max_new_tokens) == (0.5, 2, ("binds",), 8)
    assert frozen.prompts()["medical/1"].temperature == 1
    assert frozen.reasons() == {
        "medical/2": "belongs to legal and medical, which disagree on temperature (0.5 and 1.0)"
    }


def test_held_out_answers_are_sampled_as_the_distributions_are(chatty: Project) -> None:
    chatty.rows("medical.jsonl", {"id": 0, "prompt": "the"}, {"id": 1, "prompt": "high", "split": "heldout"})
    bent = {"temperature": 0.5, "top_p": 0.5, "min_new_tokens": 2, "stop": ["rest"], "samples": 3, "max_new_tokens": 6}
    chatty.set("domains.medical.sampling", bent)
    held = Frozen(chatty).prompts(HELDOUT)["medical/1"]
    assert (held.temperature, held.top_p, held.min_new_tokens, held.samples) == (1, 1, 0, 1)
    assert (held.max_new_tokens, held.stop) == (6, ("rest",))


def two_teachers(project: Project) -> None:
    """One for medical, which is the first, and one for legal that holds less and writes chat otherwise."""
    project.model("lawyer", template=PLAIN.replace("}is", "}binds"), max_position_embeddings=12, eos_token_id=PAY)
    project.data["teachers"] = {"teacher": project.data.pop("teacher"), "lawyer": {"model": "lawyer"}}
    project.set("teachers.lawyer.sampling", {"max_new_tokens": 8})
    project.set("domains.legal.teacher", "lawyer")
    for domain in ("medical", "legal"):
        project.set(f"prompts.{domain}", {"path": f"{domain}.jsonl", "chat": True})


def test_each_domain_has_its_teacher_and_its_chat_template(chatty: Project) -> None:
    two_teachers(chatty)
    chatty.rows("probes.jsonl", *({"domain": d, "prompt": "the", "answer": "fever"} for d in ("legal", "medical")))
    chatty.set("evaluate.probes", "probes.jsonl")
    frozen = Frozen(chatty)
    found = {name: (p.teacher, p.prompt_token_ids) for name, p in frozen.prompts().items()}
    assert found == {"medical/m": ("teacher", [THE, FEVER, IS]), "legal/l": ("lawyer", [A, RULE, BINDS])}
    assert frozen.summary["stop_ids"] == {"teacher": [END], "lawyer": [END, PAY]}
    assert [p.teacher for _, p in sorted(frozen.prompts(PROBES).items())] == ["lawyer", "teacher"]


def test_a_prompt_must_fit_the_teacher_that_answers_it(chatty: Project) -> None:
    two_teachers(chatty)
    long = "the " * 6
    for domain in ("medical", "legal"):
        chatty.rows(f"{domain}.jsonl", {"id": "long", "prompt": long}, {"id": "short", "prompt": "a"})
    frozen = Frozen(chatty)
    assert frozen.reasons() == {"legal/long": "longer than the 12 tokens of the teacher"}


def test_a_teacher_holds_what_its_memory_of_keys_and_values_does(tmp_path: Path) -> None:
    """256 bytes a token in float32: two layers, two heads of eight numbers, keys and values."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "max_position_embeddings": 100}))
    held = {memory: most_tokens(TeacherConfig(model="m", kv_cache_memory=memory), tmp_path) for memory in (None, 2560)}
    assert held == {None: 100, 2560: 10}


def test_the_stores_tell_chat_templates_of_several_teachers_apart(chatty: Project) -> None:
    alone = check(chatty.load()).tokenizer.chat_template
    two_teachers(chatty)
    assert check(chatty.load()).tokenizer.chat_template != alone
    set_template(chatty, PLAIN, "lawyer")
    assert check(chatty.load()).tokenizer.chat_template == alone


def test_the_summary_says_how_each_domain_was_asked(chatty: Project) -> None:
    chatty.set("prompts.medical", {"path": "medical.jsonl", "chat": True, "sampling": {"stop": ["rest"]}})
    chatty.set("domains.medical.system_prompt", "rest")
    frozen = Frozen(chatty)
    [medical] = [a for a in frozen.summary["asked"] if a["source"] == "medical"]
    sampling = medical.pop("sampling")
    assert sampling["stop"] == ["rest"] and sampling["max_new_tokens"] == 8
    assert medical == {
        "source": "medical",
        "domains": ["medical"],
        "given": False,
        "prompts": 1,
        "teacher": "teacher",
        "system_prompt": "rest",
        "chat": True,
        "chat_template_kwargs": {},
        "special_tokens": "text",
        "answer_format": "template",
    }


# Prompts asked twice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "again"),
    [
        ({}, True),
        ({"messages": [{"role": "user", "content": "the fever"}]}, True),
        ({"prompt": "the  fever"}, False),
        ({"answer": "high"}, False),
        ({"domain": "legal"}, False),
        ({"domain": ["medical"]}, True),
    ],
    ids=str,
)
def test_what_counts_as_asked_twice(chatty: Project, second: dict[str, Any], again: bool) -> None:
    first = {"id": "a", "prompt": "the fever", "split": "train"}
    chatty.rows("medical.jsonl", first, first | {"id": "b"} | second)
    chatty.set("prompts.medical", {"path": "medical.jsonl", "chat": True})
    assert Frozen(chatty).reasons() == ({"medical/b": "repeats an earlier prompt"} if again else {})


def test_texts_that_the_template_makes_equal_are_asked_once(chatty: Project) -> None:
    set_template(chatty, PLAIN.replace("m['content']", "m['content'] | trim"))
    chatty.rows("medical.jsonl", *({"id": i, "prompt": "fever" + " " * i, "split": "train"} for i in range(2)))
    chatty.set("prompts.medical", {"path": "medical.jsonl", "chat": True})
    assert Frozen(chatty).reasons() == {"medical/1": "repeats an earlier prompt"}


def test_no_text_is_in_both_splits(chatty: Project, stillhouse: Command) -> None:
    """Of two, the one that its row holds out stays, wherever it stands; the plan counts as freezing does."""
    rows = [{"id": i, "prompt": "the fever"} for i in range(40)] + [{"id": "other", "prompt": "high"}]
    chatty.rows("medical.jsonl", *rows, {"id": "held", "prompt": "the fever", "split": "heldout"})
    frozen = Frozen(chatty)
    assert set(frozen.prompts(HELDOUT)) == {"medical/held"} and "medical/other" in frozen.prompts()
    assert frozen.summary["reasons_by_source"] == {"medical": {"repeats a held-out prompt": 40}}
    assert len(check(chatty.load()).rejected) == 40
    said = stillhouse("validate", chatty.write()).out
    assert "rejected: medical row 40: repeats a held-out prompt" in said and "3 usable prompts" in said


def test_prompts_that_are_answered_differently_are_not_the_same(chatty: Project) -> None:
    chatty.set("prompts.cold", {"path": "medical.jsonl", "sampling": {"temperature": 0.5}})
    chatty.rows("medical.jsonl", {"id": "m", "prompt": "the fever", "domain": "medical", "split": "train"})
    assert Frozen(chatty).reasons() == {}
    chatty.data |= {"name": "second"}
    chatty.set("prompts.cold.sampling", None)
    assert Frozen(chatty).reasons() == {"cold/m": "repeats an earlier prompt"}


def test_repeats_are_kept_where_their_source_says_so(chatty: Project) -> None:
    chatty.rows("medical.jsonl", *({"id": i, "prompt": "the fever", "split": "train"} for i in range(3)))
    chatty.set("prompts.medical", {"path": "medical.jsonl", "duplicates": "keep"})
    assert len(Frozen(chatty).prompts()) == 4


def test_training_rows_that_are_all_held_out_elsewhere_leave_no_domain(chatty: Project, stillhouse: Command) -> None:
    row = {"prompt": "the fever"}
    chatty.rows("medical.jsonl", row | {"id": 0, "split": "train"}, row | {"id": 1, "split": "heldout"})
    assert "no training prompt belongs to the domain 'medical'" in stillhouse("plan", chatty.write()).error


# The plan -----------------------------------------------------------------------------------------------------


def test_the_plan_counts_and_explains_what_is_asked(chatty: Project, stillhouse: Command) -> None:
    chatty.set("domains.medical.sampling", {"temperature": 0.7, "max_new_tokens": 20, "samples": 3})
    planned = json.loads(stillhouse("plan", chatty.write(), "--json").out)
    assert planned["train_tokens"] == 3 * 20 + 8 and planned["longest_answer"] == {"teacher": 20}
    [note] = [n for n in planned["notes"] if "targets are at" in n]
    assert note.startswith("medical: answers are sampled at temperature 0.7, targets are at temperature 1")
    assert f"note: {note}" in stillhouse("plan", chatty.write()).out


def test_a_teacher_that_nobody_asks_is_noted(chatty: Project, stillhouse: Command) -> None:
    two_teachers(chatty)
    chatty.set("domains.legal.teacher", "teacher")
    assert "teachers.lawyer: no prompt is for this teacher" in stillhouse("plan", chatty.write()).out


def test_settings_of_a_domain_that_no_prompt_has(chatty: Project, stillhouse: Command) -> None:
    chatty.set("domains.tax", {"teacher": None})
    error = stillhouse("validate", chatty.write()).error
    assert error.startswith("error: domains: ") and "'tax'" in error


def test_settings_that_only_together_make_no_sense(chatty: Project, stillhouse: Command) -> None:
    chatty.set("domains.medical.sampling", {"min_new_tokens": 9})
    error = stillhouse("plan", chatty.write()).error
    assert error.startswith("error: domains.medical.sampling, for medical") and "the 8 of `max_new_tokens`" in error


# The filter's code --------------------------------------------------------------------------------------------


def test_another_filter_is_another_store(chatty: Project) -> None:
    chatty.text("keep.py", "def keep(prompt, answer, about): return True\n")
    chatty.set("answers.filter", "keep.py:keep")
    chatty.set("evaluate.targets", "full")

    def opened() -> RunFolder:
        file = chatty.load()
        run, config = RunFolder.of(file.located()), file.located()
        run.open(file)
        open_stores(run, config, check(file).tokenizer, 12)
        return run

    run = opened()
    recorded = TargetStore(run.storage, TRAIN).header.answers
    assert recorded["filter"] == "keep.py:keep" and len(recorded["filter_sha256"]) == 64
    assert TargetStore(run.storage, HELDOUT).header.answers == {}
    # As it was written: the same run may be resumed where its models lie elsewhere.
    assert TargetStore(run.storage, TRAIN).header.teachers["teacher"]["model"] == "teacher"
    opened()
    chatty.text("keep.py", "def keep(prompt, answer, about): return False\n")
    with pytest.raises(ValueError, match=r"other settings: answers\.filter_sha256;"):
        opened()


@pytest.mark.parametrize(
    "spec", ["no.py:keep", "keep.py", "keep.py:", "keep", ":keep", "keep.py:kepe", "folder:keep", ""]
)
def test_a_filter_that_is_not_there(chatty: Project, stillhouse: Command, spec: str) -> None:
    chatty.text("keep.py", "def keep(prompt, answer, about): return True\n")
    (chatty.folder / "dir").mkdir()
    chatty.set("answers.filter", spec)
    assert stillhouse("plan", chatty.write()).error.startswith("error: answers.filter: ")


@pytest.mark.parametrize("content", [b"def keep(:\n", b"\xff\xfe", b"\0", b""])
def test_a_filter_that_is_no_python(chatty: Project, stillhouse: Command, content: bytes) -> None:
    (chatty.folder / "keep.py").write_bytes(content)
    chatty.set("answers.filter", "keep.py:keep")
    assert stillhouse("validate", chatty.write()).error.startswith("error: answers.filter: ")
