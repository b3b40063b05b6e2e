"""What a cluster cannot have, and what does not fit it, is refused before anything is written, with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from support.clusters.rendered import FILES, Clinic, cached_model, clinic, dense, launcher, mixture, worker_groups
from support.project import Project
from support.servers.s3_servers import KEYS, reached_at

from orchestrator.launch.manifests.rendering import Target

Command = Callable[..., Any]

# Places of this machine ------------------------------------------------------------------------------------------

LOCAL: dict[str, tuple[dict[str, Any], str, str]] = {
    "storage": ({"storage": "runs"}, "storage", "s3://"),
    "storage elsewhere": ({"storage": "/mnt/shared"}, "storage", "s3://"),
    "prompts": ({"prompts__medical": "medical.jsonl"}, "prompts.medical", "s3://"),
    "prompts by pattern": ({"prompts__medical": {"path": "data/*.parquet"}}, "prompts.medical", "s3://"),
    "teacher": ({"teacher__model": "./teacher"}, "teacher.model", "Hugging Face id"),
    "base": ({"specialists__legal": {"model": "~/models/base"}}, "specialists.legal.model.base", "Hugging Face id"),
    "mixture": (
        {"defaults__model": {"merge_experts": "/models/moe"}},
        "specialists.medical.model.merge_experts",
        "Hugging Face id",
    ),
    "measured": ({"evaluate__models": {"m": {"model": "/models/m"}}}, "evaluate.models.m", "Hugging Face id"),
    "tasks": ({"evaluate__tasks": {"exams": {"path": "exams.jsonl"}}}, "evaluate.tasks.exams", "s3://"),
    "older run": ({"continues": {"generation": "runs/last"}}, "continues.generation", "s3://"),
    "cluster": ({"cluster": {"address": "10.0.0.1:6379"}}, "cluster.address", "leave it out"),
}


@pytest.mark.parametrize(("changes", "key", "remedy"), LOCAL.values(), ids=LOCAL)
@pytest.mark.parametrize("target", list(FILES))
def test_places_of_this_machine(
    clinic_folder: Clinic, changes: dict[str, Any], key: str, remedy: str, target: Target
) -> None:
    lines = clinic_folder.refused(target, clinic(**changes)).splitlines()
    assert any(line.startswith(f"{key}: ") and remedy in line for line in lines), lines


def test_a_model_folder_that_is_there_is_no_id(clinic_folder: Clinic) -> None:
    (clinic_folder.folder / "acme" / "teacher").mkdir(parents=True)
    assert clinic_folder.refused("kuberay", clinic()).startswith("teacher.model: ")


def test_all_of_them_at_once(clinic_folder: Clinic) -> None:
    data = clinic(storage="runs", prompts={"medical": "m.jsonl", "legal": "l.jsonl"}, teacher__model="./teacher")
    lines = clinic_folder.refused("aws", data).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "storage",
        "teacher.model",
        "prompts.medical",
        "prompts.legal",
    ]


CARRIED: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "not there": ({}, {"answers__filter": "keep.py:keep"}, "answers.filter"),
    "one name twice": (
        {"a/x.py": "1", "b/x.py": "2"},
        {"answers__filter": "a/x.py:f", "evaluate__truth": "b/x.py:g"},
        "evaluate.truth",
    ),
    "the configuration's name": ({"a/run.yaml": ""}, {"evaluate__probes": "a/run.yaml"}, "evaluate.probes"),
    "a name that is none there": ({"my probes.jsonl": ""}, {"evaluate__probes": "my probes.jsonl"}, "evaluate.probes"),
    "too large": ({"p.jsonl": "x" * 10**6}, {"evaluate__probes": "p.jsonl"}, "evaluate.probes"),
}


@pytest.mark.parametrize(("files", "changes", "key"), CARRIED.values(), ids=CARRIED)
def test_files_that_cannot_go_along(
    clinic_folder: Clinic, files: dict[str, str], changes: dict[str, Any], key: str
) -> None:
    for name, text in files.items():
        path = clinic_folder.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert clinic_folder.refused("kuberay", clinic(**changes)).startswith(f"{key}: ")


# Nodes -----------------------------------------------------------------------------------------------------------

NODES: dict[str, tuple[Target, str, str]] = {
    "none": ("kuberay", "", "--nodes: the teacher wants GPUs"),
    "none for students": ("kuberay", "teacher=h100:8", "--nodes: a specialist wants GPUs"),
    "no such kind": ("aws", "h1000:8", "--nodes: 'h1000' is no known kind"),
    "no number": ("aws", "h100", "--nodes: 'h100' is not KIND:GPUS"),
    "of a plan": ("aws", "h100:8x2", "--nodes: 'h100:8x2' is not KIND:GPUS"),
    "no such role": ("aws", "teachers=h100:8", "--nodes: 'teachers=h100:8' is not KIND:GPUS"),
    "hostile": ("aws", "h100:8\nteacher=l4:1", "--nodes: "),
    "twice": ("aws", "h100:8,student=l4:1", "--nodes: student=l4:1: a kind of node for the role student"),
    "more GPUs than there are": ("aws", "h100:9", "--nodes: h100:9: a node of h100 has 8 GPUs"),
    "GPUs for what needs none": ("aws", "h100:8,cpu=l4:1", "--nodes: cpu=l4:1"),
    "a teacher without": ("aws", "teacher=cpu:0,student=l4:1", "--nodes: teacher=cpu:0"),
    "not sold so": ("aws", "teacher=h100:4,student=l4:1", "cluster.node_kinds.h100.aws: "),
    "not sold there": ("gcp", "teacher=h100:8,student=l40s:4", "cluster.node_kinds.l40s.gcp: "),
    "two kinds for one SkyPilot": ("skypilot", "teacher=h100:8,student=l4:8", "--nodes: h100:8 and l4:8"),
}


@pytest.mark.parametrize(("target", "nodes", "said"), NODES.values(), ids=NODES)
def test_nodes_that_are_none(clinic_folder: Clinic, target: Target, nodes: str, said: str) -> None:
    message = clinic_folder.refused(target, clinic(), nodes)
    assert message.startswith(said) and "\n" not in message


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "a packed replica larger than a node": ({"teacher__ep_size": 16, "teacher__placement": "STRICT_PACK"}, "teacher: "),
    "a rank larger than a node": ({"teacher__gpus_per_rank": 9}, "teacher: "),
    "CPUs of a rank": ({"teacher__cpus_per_rank": 500}, "teacher: "),
    "another accelerator": ({"teacher__accelerator_type": "A100"}, "teacher: "),
    "another accelerator by label": ({"teacher__label_selector": {"ray.io/accelerator-type": "A100"}}, "teacher: "),
    "no role of its own": ({"teacher__label_selector": {"stillhouse-role": "!teacher"}}, "teacher: "),
    "a label that Ray sets": ({"teacher__label_selector": {"ray.io/market-type": "spot"}}, "teacher.label_selector: "),
    "no label": ({"teacher__label_selector": {"pool": "a b"}}, "teacher.label_selector.pool: "),
    "a worker larger than a node": ({"defaults__train__gpus_per_worker": 3}, "specialists.medical.train: "),
    "an evaluator larger than a node": ({"evaluate__gpus": 9}, "evaluate: "),
    "more nodes than a plan has": ({"teacher__replicas": [1, 5000]}, "--nodes: "),
    "vLLM in our image": ({"teacher__engine": "vllm"}, "--image: teacher.engine is vllm"),
}


@pytest.mark.parametrize(("changes", "said"), PLACES.values(), ids=PLACES)
def test_what_finds_no_place_on_its_nodes(clinic_folder: Clinic, changes: dict[str, Any], said: str) -> None:
    assert clinic_folder.refused("kuberay", clinic(**changes)).startswith(said)


# The plan ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hospital(
    project: Project, moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """A configuration whose models lie in a Hub's cache, of 30 and 1.4 billion parameters by their headers, and whose
    prompts lie on S3."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    tokenizer = project.folder / "teacher"
    cached_model(cache, "acme/big", *mixture(8, 2048, 128, 4608, 12), tokenizer)
    cached_model(cache, "acme/small", *dense(28, 2048, 6144, 12), tokenizer)
    with reached_at(moto_endpoint) as bucket:
        filesystem = fsspec.filesystem("s3", key=KEYS["AWS_ACCESS_KEY_ID"], secret=KEYS["AWS_SECRET_ACCESS_KEY"])
        for domain in ("medical", "legal"):
            filesystem.pipe(f"{bucket}/{domain}.jsonl", (project.folder / f"{domain}.jsonl").read_bytes())
        yield clinic(teacher__model="acme/big", defaults__model="acme/small", storage=f"{bucket}/runs")


def test_what_does_not_fit_is_refused_with_the_plans_sentence(
    hospital: dict[str, Any], clinic_folder: Clinic, stillhouse: Command
) -> None:
    fits = clinic_folder.render("kuberay", hospital, "h100:8", planned=True)
    assert worker_groups(fits)["teacher"]["maxReplicas"] == 2
    nodes = "teacher=l4:8,student=l4:2"
    told = clinic_folder.refused("kuberay", hospital, nodes, planned=True)
    planned = stillhouse("plan", "run.yaml", "--nodes", "l4:8x2,cpu:0x2")
    assert planned.code == 1 and all(line in planned.out.replace("\n", " ") for line in told.splitlines()[:1]), told
    assert told.startswith("specialists.medical.train, specialists.legal.train: a process holds ")
    out = clinic_folder.folder / "out"
    words = ["cluster", "render", "kuberay", "run.yaml", "--nodes", nodes, "--out", out]
    assert stillhouse(*words).refusal and not out.exists()
    assert stillhouse(*words, "--unplanned").code == 0 and (out / FILES["kuberay"]).exists()


def test_prompts_that_are_not_there_are_refused(hospital: dict[str, Any], clinic_folder: Clinic) -> None:
    hospital["prompts"]["legal"] = "s3://shelf/nothing.jsonl"
    assert "prompts.legal" in clinic_folder.refused("aws", hospital, planned=True)


def test_the_plan_changes_nothing_in_the_files(hospital: dict[str, Any], clinic_folder: Clinic) -> None:
    planned = clinic_folder.render("aws", hospital, "h100:8", planned=True)
    assert planned.files == clinic_folder.render("aws", hospital, "h100:8").files
    assert launcher(planned, "aws")["available_node_types"]["teacher"]["max_workers"] == 2


# Writing ----------------------------------------------------------------------------------------------------------


def test_an_edited_file_is_not_overwritten(clinic_folder: Clinic, stillhouse: Command) -> None:
    (clinic_folder.folder / "run.yaml").write_text(yaml.safe_dump(clinic()))
    words = ["cluster", "render", "aws", "run.yaml", "--nodes", "h100:8", "--unplanned", "--out", "out"]
    assert stillhouse(*words).code == 0
    assert stillhouse(*words).code == 0, "the same again is no change"
    path = clinic_folder.folder / "out" / "aws.yaml"
    path.write_text(edited := path.read_text().replace("us-west-2", "eu-west-1"))
    assert any("aws.yaml" in line and "--force" in line for line in stillhouse(*words).refusal)
    assert path.read_text() == edited
    assert stillhouse(*words, "--force").code == 0 and path.read_text() != edited


def test_spot_nodes_of_kubernetes_are_no_matter_of_others(clinic_folder: Clinic, stillhouse: Command) -> None:
    (clinic_folder.folder / "run.yaml").write_text(yaml.safe_dump(clinic()))
    words = ["cluster", "render", "aws", "run.yaml", "--nodes", "h100:8", "--unplanned", "--on", "eks"]
    assert stillhouse(*words).refusal[0].startswith("error: --on: ")
