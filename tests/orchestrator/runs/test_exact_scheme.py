"""How held-out distributions are kept where the settings leave it open, and what runs that have a store go on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import Project

from cluster.inventory import Inventory
from orchestrator.preflight.checks import check
from orchestrator.preflight.plan import RunPlan, make_plan
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import open_stores
from workers.layout import CONFIG
from workers.manifest import read_plan
from workers.splits import HELDOUT
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore

ROOMY = Inventory("this machine", 1, cpus=64, gpus=0, memory=10**13, memory_free=10**13)
VOCABULARY, HIDDEN, ANSWER = 302, 32, 8
"""Ids and hidden size of the teacher, and most tokens of its answers."""
HEAD = VOCABULARY * HIDDEN * 4
WORTH = HEAD // (4 * (VOCABULARY - HIDDEN)) + 1
"""Held-out tokens from which hidden states and a head are less than all log-probabilities."""


@pytest.fixture
def wide(project: Project) -> Project:
    """A project whose teacher has more ids than numbers in a hidden state; one medical prompt is held out."""
    words = [f"w{i}" for i in range(VOCABULARY - 2)]
    project.model("wide", words=words, experts=0, architectures=["Qwen3ForCausalLM"])
    project.set("teacher", {"model": "wide", "sampling": {"max_new_tokens": ANSWER}})
    project.set("evaluate.heldout", {"max_texts": None})
    hold_out(project, 1)
    return project


def hold_out(project: Project, texts: int) -> None:
    held = [{"prompt": f"w{i}", "split": HELDOUT} for i in range(texts)]
    trained = [{"prompt": f"w{i}", "split": "train"} for i in range(100, 104)]
    project.rows("medical.jsonl", *held, *trained)
    project.rows("legal.jsonl", *trained)


def planned(project: Project) -> RunPlan:
    file = project.load()
    return make_plan(file.located(), check(file), ROOMY)


def opened(project: Project, *sets: str) -> StoreHeader:
    """The held-out store's header of a run that is begun, or gone on with."""
    file = project.load(*sets)
    config = file.located()
    run = RunFolder.of(config)
    run.open(file)
    if not run.storage.exists("prompts/summary.json"):
        freeze(config, run.uri)
    found = check(file, frozen_will_do=True)
    open_stores(run, config, found.tokenizer, VOCABULARY)
    return TargetStore(run.storage, HELDOUT).header


# What is chosen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("texts", "scheme"), [(WORTH // ANSWER, "full"), (WORTH // ANSWER + 1, "hidden")])
def test_the_smaller_one_with_the_head_at_so_many_tokens(wide: Project, texts: int, scheme: str) -> None:
    hold_out(wide, texts)
    plan, header = planned(wide), opened(wide)
    tokens = texts * ANSWER
    sizes = {"full": tokens * VOCABULARY * 4, "hidden": tokens * HIDDEN * 4 + HEAD}
    assert plan.heldout_scheme == header.scheme == scheme == min(sizes, key=lambda s: sizes[s])
    assert plan.heldout_bytes == sizes[scheme] and "the smaller of both" in plan.heldout_why
    assert sum(u.tokens for u in read_plan(RunFolder.of(wide.load().located()).storage, HELDOUT).units) == tokens


def test_the_plan_says_which_and_why_in_one_line(wide: Project, stillhouse: Callable[..., Any]) -> None:
    hold_out(wide, 40)
    said = stillhouse("plan", wide.write())
    [line] = [line for line in said.out.splitlines() if line.startswith("held-out distributions")]
    assert line.startswith("held-out distributions are kept as hidden: ") and "full 386.6 kB, hidden 79.6 kB" in line
    data = json.loads(stillhouse("plan", wide.write(), "--json").out)
    assert (data["heldout_scheme"], data["heldout_bytes"]) == ("hidden", 40 * 8 * 32 * 4 + HEAD)


def test_half_the_bytes_of_a_full_store_count(wide: Project) -> None:
    wide.set("evaluate.precision", "float16")
    hold_out(wide, WORTH // ANSWER + 1)
    assert planned(wide).heldout_scheme == opened(wide).scheme == "full"


def test_types_of_two_bytes_count(wide: Project) -> None:
    hold_out(wide, WORTH // ANSWER - 1)
    assert planned(wide).heldout_scheme == "full"
    wide.set("teacher.dtype", "bfloat16")
    assert planned(wide).heldout_scheme == opened(wide).scheme == "hidden"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"architectures": ["FalconH1ForCausalLM"]}, "the LM head of qwen3 is not known to be a plain matrix"),
        ({"architectures": None}, "not known to be a plain matrix; evaluate.targets: hidden tries it"),
        ({"auto_map": {}}, "not known to be a plain matrix"),
    ],
    ids=str,
)
def test_full_where_hidden_states_may_not_say_all(wide: Project, change: dict[str, Any], why: str) -> None:
    hold_out(wide, 40)
    wide.set("teacher.trust_remote_code", True)
    assert planned(wide).heldout_scheme == "hidden"
    path = wide.folder / "wide" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    plan = planned(wide)
    assert plan.heldout_scheme == opened(wide).scheme == "full"
    assert plan.heldout_why.startswith("teacher: ") and why in plan.heldout_why
    wide.set("evaluate.targets", "hidden")
    wide.set("name", "tried")
    assert planned(wide).heldout_scheme == opened(wide).scheme == "hidden"


def test_full_where_an_engine_shows_no_hidden_states(wide: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.preflight.checks._check_vllm_is_there", lambda *_: None)
    hold_out(wide, 40)
    wide.set("teacher.engine", "vllm")
    plan = planned(wide)
    assert plan.heldout_scheme == "full" and "engine vllm shows no hidden states" in plan.heldout_why


def test_full_where_the_head_is_in_no_safetensors_file(wide: Project) -> None:
    hold_out(wide, 40)
    (wide.folder / "wide" / "model.safetensors").rename(wide.folder / "wide" / "pytorch_model.bin")
    assert "safetensors" in planned(wide).heldout_why and planned(wide).heldout_scheme == "full"


# Runs that have a store ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["full", "hidden"])
def test_a_run_goes_on_with_the_scheme_that_its_store_has(wide: Project, scheme: str) -> None:
    """Whatever would be chosen today: the other one."""
    hold_out(wide, 40 if scheme == "full" else 1)
    assert opened(wide, f"evaluate.targets={scheme}").scheme == scheme
    assert opened(wide).scheme == scheme
    plan = planned(wide)
    assert plan.heldout_scheme == scheme and "held-out store" in plan.heldout_why
    assert RunFolder.of(wide.load().located()).config().evaluate.targets == scheme, "on record, for the next attempt"
    assert opened(wide, f"evaluate.targets={scheme}").scheme == scheme
    other = {"full": "hidden", "hidden": "full"}[scheme]
    with pytest.raises(ValueError, match=rf"evaluate\.targets: {scheme} -> {other}"):
        opened(wide, f"evaluate.targets={other}")


def test_a_run_that_chose_itself_may_be_told_the_same(wide: Project) -> None:
    hold_out(wide, 40)
    assert opened(wide).scheme == "hidden"
    assert opened(wide, "evaluate.targets=hidden").scheme == "hidden"
    with pytest.raises(ValueError, match=r"evaluate\.targets: hidden -> full"):
        opened(wide, "evaluate.targets=full")


def test_a_run_from_before_the_caps_goes_on_with_what_it_froze(wide: Project) -> None:
    """Its record has a plain share and `full`; the prompts that it holds out are more than today's cap."""
    del wide.data["evaluate"]
    wide.rows("medical.jsonl", *({"prompt": f"w{i} w{j}"} for i in range(60) for j in range(5)))
    settings = ("evaluate.heldout={share: 0.5, max_texts: null, max_tokens: null}", "evaluate.targets=full")
    first = opened(wide, *settings)
    run = RunFolder.of(wide.load().located())
    before = run.storage.read("prompts/g0000/heldout.plan.parquet")
    record = yaml.safe_load(run.storage.read(CONFIG))
    record["evaluate"]["heldout"] = 0.5
    run.storage.write(CONFIG, yaml.safe_dump(record).encode())
    assert opened(wide, "evaluate.heldout=0.5") == first and first.scheme == "full"
    assert run.storage.read("prompts/g0000/heldout.plan.parquet") == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("max_texts=7", "evaluate.heldout.max_texts: None -> 7"),
        ("max_tokens=800", "evaluate.heldout.max_tokens: 256000 -> 800"),
        ("share=0.2", "evaluate.heldout.share: 0.05 -> 0.2"),
        ("prompts_per_unit=2", "evaluate.heldout.prompts_per_unit: 32 -> 2"),
    ],
)
def test_another_cap_is_another_run(wide: Project, setting: str, said: str) -> None:
    opened(wide)
    with pytest.raises(ValueError, match=rf"{said}\. Choose another name"):
        opened(wide, f"evaluate.heldout.{setting}")


def test_a_store_is_looked_at_where_the_run_is(wide: Project, tmp_path: Path) -> None:
    hold_out(wide, 40)
    opened(wide, "evaluate.targets=full")
    wide.set("storage", str(tmp_path / "elsewhere"))
    assert planned(wide).heldout_scheme == "hidden"
