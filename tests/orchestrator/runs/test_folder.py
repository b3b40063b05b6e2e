"""The run folder: whose it is, what may differ between attempts, and what a driver that lost it must not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import Project

from cluster.lease import Lease
from orchestrator.config.loading import ConfigFile, validate
from orchestrator.config.schema import RunConfig
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.identity import as_begun, differences, later_specialists
from workers.layout import CONFIG


def config(**changes: Any) -> RunConfig:
    return validate(
        {
            "name": "clinic",
            "teacher": {"model": "t", "sampling": {"samples": 2}},
            "prompts": {"medical": "m.jsonl"},
            "targets": {"withhold": {"medical": ["a"]}},
            "specialists": {"medical": {"model": "s"}},
        }
        | changes
    )


# differences --------------------------------------------------------------------------------------------------


def test_a_configuration_differs_from_itself_in_nothing() -> None:
    assert differences(config(), config()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": {"cpus": 4}},
        {"evaluate": {"bootstrap": 200, "baselines": ["single_expert"]}},
        {"export": []},
        {"evaluate": {"control_tokens": "100%", "baselines": ["initial"]}},
        {"storage": "elsewhere"},
        {"teacher": {"model": "t", "sampling": {"samples": 2}, "replicas": 3, "placement": "SPREAD"}},
        {"specialists": {"medical": {"model": "s", "train": {"checkpoint_steps": 5, "label_selector": {"a": "b"}}}}},
        {"specialists": {"medical": {"model": "s"}, "new": {"model": "s", "mix": {"medical": 1}}}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_may_differ(changes: dict[str, Any]) -> None:
    assert differences(config(), config(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 3}, ["seed: 0 -> 3"]),
        ({"teacher": {"model": "u", "sampling": {"samples": 2}}}, ["teacher.model: t -> u"]),
        ({"teacher": {"model": "t"}}, ["teacher.sampling.samples: 2 -> 1"]),
        ({"targets": {"withhold": {"medical": ["a"]}, "draws": 5}}, ["targets.draws: 21 -> 5"]),
        ({"targets": {"withhold": {"medical": ["b"]}}}, ["targets.withhold.medical: ['a'] -> ['b']"]),
        ({"prompts": {"medical": {"path": "m.jsonl", "limit": 4}}}, ["prompts.medical.limit: None -> 4"]),
        ({"evaluate": {"control_tokens": "20%"}}, ["evaluate.control_tokens: None -> 0.2"]),
    ],
    ids=str,
)
def test_what_differs_is_said_once_and_exactly(changes: dict[str, Any], said: list[str]) -> None:
    assert differences(config(), config(**changes)) == said


def test_a_source_s_former_defaults_are_todays() -> None:
    """Runs from before columns were recognised by their names have them written down."""
    old = {"path": "m.jsonl", "prompt_field": "prompt", "messages_field": "messages", "answer_field": "answer"}
    today = config()
    assert differences(config(prompts={"medical": old | {"chat": False}}), today) == []
    [said] = differences(config(prompts={"medical": old | {"prompt_field": "q"}}), today)
    assert said == "prompts.medical.prompt_field: q -> None"
    [said] = differences(today, config(prompts={"medical": old}))[:1]
    assert said.startswith("prompts.medical.")


def test_a_prompt_source_more_or_less_differs() -> None:
    more = config(prompts={"medical": "m.jsonl", "legal": "l.jsonl"})
    assert any(d.startswith("prompts.legal.path: nothing -> l.jsonl") for d in differences(config(), more))
    assert any(d.startswith("prompts.legal.path: l.jsonl -> nothing") for d in differences(more, config()))


TWO = {"medical": {"model": "s"}, "new": {"model": "s", "mix": {"medical": 1}}}


def test_a_specialist_more_is_worked_on_and_one_less_is_left_alone() -> None:
    one, two = config(specialists={"medical": {"model": "s"}}), config(specialists=TWO)
    assert differences(one, two) == differences(two, one) == []
    more, less = later_specialists(one, two, lambda name: True), later_specialists(two, one, lambda name: True)
    assert more.work == more.written == two and more.left == ()
    assert less.work == one and less.written.specialists == two.specialists
    assert [why.split()[0] for why in less.left] == ["new"]


@pytest.mark.parametrize("trained", [False, True])
def test_a_specialist_that_says_otherwise_is_left_as_it_was_begun(trained: bool) -> None:
    old = config(specialists=TWO)
    changed = config(specialists=TWO | {"medical": {"model": "s", "train": {"lr": 0.5, "workers": 2}, "priority": 3}})
    later = later_specialists(old, changed, lambda name: trained)
    assert later.left == (
        "medical stays as it was begun (specialists.medical.train.lr: 2e-05 -> 0.5); under another name it is trained "
        "so",
    )
    assert later.written.specialists == old.specialists
    assert ("medical" in later.work.specialists) is trained and "new" in later.work.specialists
    assert later.work.specialists.get("medical", old.specialists["medical"]) == old.specialists["medical"]


def test_what_may_differ_of_a_specialist_is_taken_on_and_a_sibling_may_be_added() -> None:
    old = config(specialists=TWO)
    free = config(specialists=TWO | {"medical": {"model": "s", "train": {"workers": 2}, "quantised": "qad"}})
    later = later_specialists(old, free, lambda name: True)
    assert later.work == later.written == free and later.left == ()
    assert later_specialists(free, old, lambda name: True).left, "one that is taken away is a change"


def test_nothing_to_work_on_is_refused() -> None:
    old, changed = (config(specialists={"medical": {"model": m}}) for m in ("s", "t"))
    with pytest.raises(ValueError, match="none is left to work on: medical stays as it was begun"):
        later_specialists(old, changed, lambda name: False)


def test_a_name_like_a_free_field_is_only_a_name() -> None:
    """Free fields are fields of teachers and of train; a domain may be called `placement`."""
    changes: list[dict[str, Any]] = [
        {"prompts": {"medical": "m.jsonl", "placement": "p.jsonl"}},
        {"prompts": {"medical": "m.jsonl", "placement": "q.jsonl"}},
    ]
    old, new = (config(**c) for c in changes)
    assert differences(old, new) == ["prompts.placement.path: p.jsonl -> q.jsonl"]


def test_a_share_of_a_domain_named_like_a_free_field_differs() -> None:
    old, new = (config(specialists={"m": {"model": "s", "mix": {"medical": 1, "placement": w}}}) for w in (1, 2))
    assert "(specialists.m.mix.placement: 1.0 -> 2.0)" in later_specialists(old, new, lambda name: True).left[0]


def test_differences_leave_the_configurations_as_they_were() -> None:
    old, new = config(), config(seed=1)
    differences(old, new)
    assert old == config() and new == config(seed=1)


def test_a_later_configuration_that_leaves_controls_open_has_them_as_the_run_was_begun() -> None:
    short, null = config(evaluate={"control_tokens": "20%"}), config(evaluate={"bootstrap": 200})
    assert differences(short, null) == []
    begun = as_begun(short, null).evaluate
    assert (begun.control_tokens, begun.bootstrap) == (0.2, 200)
    other = config(evaluate={"control_tokens": 7})
    assert as_begun(short, other) == other and as_begun(null, null) == null
    assert differences(short, other) == ["evaluate.control_tokens: 0.2 -> 7"]
    small = {"medical": {"model": "s"}, "new": {"model": "s", "mix": {"medical": 1}, "train": {"tokens": 5}}}
    with pytest.raises(ValueError, match=r"evaluate.control_tokens: 7 is more than specialists.new.train.tokens, 5"):
        as_begun(other, config(specialists=small))


def test_settings_that_are_left_open_are_those_that_the_run_was_begun_with() -> None:
    """So a run from before they could be left open goes on with its slots and units."""
    open_ = config(teacher={"model": "t"}, targets={})
    begun = config(teacher={"model": "t", "batch": 32, "units_at_once": 1}, targets={"prompts_per_unit": 16})
    assert differences(begun, open_) == []
    resumed = as_begun(begun, open_)
    assert resumed.teachers["teacher"].batch == 32 and resumed.targets.prompts_per_unit == 16
    other = config(teacher={"model": "t"}, targets={"prompts_per_unit": 8})
    assert differences(begun, other) == ["targets.prompts_per_unit: 16 -> 8"]
    assert differences(open_, other) == ["targets.prompts_per_unit: None -> 8"]


# Opening ------------------------------------------------------------------------------------------------------


def test_a_run_can_be_opened_again_and_read_back(project: Project) -> None:
    file: ConfigFile = project.load()
    run = RunFolder.of(file.located())
    with pytest.raises(ValueError, match="no run at"):
        run.config()
    for _ in range(2):
        run.open(file)
    assert run.config() == file.config
    assert run.located_config() == file.located()
    assert yaml.safe_load(run.storage.read(CONFIG))["name"] == "trial"
    environment = run.environment()
    assert environment["config_folder"] == str(project.folder)
    assert {"python", "platform", "cpus", "packages"} <= environment.keys()
    assert {"torch", "ray", "deepspeed", "transformers"} <= environment["packages"].keys()


def test_a_run_of_another_configuration_is_left_as_it_was(project: Project) -> None:
    file: ConfigFile = project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    before = run.storage.read(CONFIG)
    with pytest.raises(ValueError, match=r"seed: 0 -> 5.*--set name="):
        run.open(project.load("seed=5"))
    assert run.storage.read(CONFIG) == before


def test_a_run_takes_on_what_may_change(project: Project) -> None:
    file: ConfigFile = project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    run.open(project.load("evaluate.bootstrap=200"))
    assert run.config().evaluate.bootstrap == 200


def test_a_run_from_before_controls_had_budgets_goes_on_with_whole_ones(project: Project) -> None:
    """On GPUs too, where those of a new run are short."""
    project.set("specialists.legal.train", {"gpus_per_worker": 1})
    file: ConfigFile = project.load()
    run = RunFolder.of(file.located())
    assert run.open(file).config.control_is_short("legal")
    written = yaml.safe_load(run.storage.read(CONFIG))
    assert written["evaluate"].pop("control_tokens", 0) is None
    run.storage.write(CONFIG, yaml.safe_dump(written).encode())
    for _ in range(2):
        begun = run.open(file).config
        assert not begun.control_is_short("legal") and begun == run.config()
    run.refuse_other(project.load("evaluate.control_tokens=100%").config)
    with pytest.raises(ValueError, match=r"evaluate.control_tokens: 1.0 -> 0.1"):
        run.open(project.load("evaluate.control_tokens=10%"))


def test_no_secret_of_the_environment_is_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "precious-secret")
    monkeypatch.setenv("HF_TOKEN", "precious-token")
    file: ConfigFile = project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    with Lease.take(run.storage, "the run"):
        pass
    assert not [p for p in Path(run.uri).rglob("*") if p.is_file() and b"precious" in p.read_bytes()]


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    assert run.read_json("report.json") is None and run.student_done("medical") is None
    run.storage.write("students/medical/done.json", json.dumps({"steps": 3}).encode())
    assert run.student_done("medical") == {"steps": 3}
