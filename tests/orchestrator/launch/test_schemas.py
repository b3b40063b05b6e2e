"""Whatever is rendered is what Ray's launcher, KubeRay and SkyPilot read; and a mistake would be noticed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from support.clusters.rendered import NODES, Clinic, Edit, at, clinic, documents, every_string, launcher, worker_groups

from orchestrator.launch.manifests.rendering import FILES, Target
from orchestrator.launch.manifests.yaml_text import comment, scalar, text_value

SCHEMAS = Path(__file__).parents[2] / "cluster" / "schemas"
RAYJOB: dict[str, Any] = json.loads((SCHEMAS / "rayjob.json").read_text())
SKYPILOT: dict[str, Any] = json.loads((SCHEMAS / "skypilot.json").read_text())

HOSTILE = [
    *("a: b", "x\ny: 1", "- item", "# comment", 'it\'s "quoted"', "{{ jinja }}", "${HOME} $(id) `id`", "%&*!|>'\"@"),
    *("yes", "null", "1e3", "0o17", "12:30:45", "é 😀 \u2028", "tab\there", " leading", "trailing ", "\x07", "a\r\nb"),
    *("---", "...", "key: |\n  text\n", "'", '"', "\\", "\n", "*alias", "&anchor", "!!python/object:os.system"),
]
"""Strings that break YAML which is pasted together."""

RUNS: dict[str, dict[str, Any]] = {
    "as it is": clinic(),
    "several nodes a replica": clinic(teacher__ep_size=16, teacher__accelerator_type="H100"),
    "a long name": clinic(name="A_very-long" + "0" * 80),
    "many specialists": clinic(specialists={f"s{i}": {"train": {"workers": 1 + i % 3}} for i in range(40)}),
    "extras": clinic(
        export=["gguf", "compressed-tensors"], trackers=["wandb"], defaults__model={"base": "a/b", "lora": {}}
    ),
    "own labels": clinic(teacher__label_selector={"example.com/pool": "a"}, defaults__train__label_selector={"b": "c"}),
}


def check(target: Target, text: str) -> None:
    """Raises where the program that it is for would refuse it."""
    if target == "kuberay":
        [job] = [d for d in yaml.safe_load_all(text) if d["kind"] == "RayJob"]
        jsonschema.validate(job, RAYJOB)
        spec = copy.deepcopy(job["spec"]["rayClusterSpec"])
        cr = {"metadata": {"name": "c", "namespace": "n"}, "spec": spec}
        validate_config(_derive_autoscaling_config_from_ray_cr(cr))
    elif target == "skypilot":
        jsonschema.validate(yaml.safe_load(text), SKYPILOT)
    else:
        validate_config(prepare_config(yaml.safe_load(text)))


@pytest.mark.parametrize("target", list(FILES))
@pytest.mark.parametrize("data", RUNS.values(), ids=RUNS)
def test_every_run_is_rendered_as_its_program_reads_it(
    clinic_folder: Clinic, data: dict[str, Any], target: Target
) -> None:
    check(target, clinic_folder.render(target, data).files[FILES[target]])


@pytest.mark.parametrize("where", ["eks", "karpenter", "gke"])
def test_on_each_kubernetes(clinic_folder: Clinic, where: str) -> None:
    check(
        "kuberay",
        clinic_folder.render("kuberay", RUNS["several nodes a replica"], kubernetes=where).files[FILES["kuberay"]],
    )


@pytest.mark.parametrize("target", list(FILES))
def test_with_an_image_of_ones_own(clinic_folder: Clinic, target: Target) -> None:
    rendered = clinic_folder.render(target, clinic(), image="registry.example/team/stillhouse:1")
    check(target, rendered.files[FILES[target]])
    assert "Dockerfile" not in rendered.files and "pip install" not in rendered.files[FILES[target]]
    assert any(
        "registry.example/team/stillhouse:1" in s
        for s in every_string(list(yaml.safe_load_all(rendered.files[FILES[target]])))
    )


# Mistakes that would be noticed -----------------------------------------------------------------------------------


def group(job: dict[str, Any], *keys: Any) -> Any:
    """Of the RayJob's first worker group."""
    return at(job, "spec", "rayClusterSpec", "workerGroupSpecs", 0, *keys)


def node_type(config: dict[str, Any], name: str, *keys: Any) -> Any:
    return at(config, "available_node_types", name, *keys)


LIMITS = ("template", "spec", "containers", 0, "resources", "limits")
MISTAKES: list[tuple[Target, str, Edit]] = [
    ("kuberay", "a group's label", lambda d: group(d).update(label={})),
    ("kuberay", "priority as text", lambda d: group(d).update(priority="10")),
    ("kuberay", "a number as a resource", lambda d: group(d).update(resources={"a": 1})),
    ("kuberay", "GPUs with a unit", lambda d: group(d, *LIMITS).update({"nvidia.com/gpu": "8 GPUs"})),
    ("kuberay", "no entrypoint", lambda d: d["spec"].pop("entrypoint")),
    ("kuberay", "a long name", lambda d: d["metadata"].update(name="x" * 48)),
    ("aws", "a type's label", lambda d: node_type(d, "teacher").update(label={})),
    ("aws", "half a GPU", lambda d: node_type(d, "teacher", "resources").update(GPU=0.5)),
    ("aws", "no such head", lambda d: d.update(head_node_type="heads")),
    ("aws", "priority as text", lambda d: node_type(d, "student-spot").update(priority="high")),
    ("gcp", "max_worker", lambda d: d.update(max_worker=d.pop("max_workers"))),
    ("gcp", "a command that is none", lambda d: node_type(d, "teacher").update(initialization_commands="nvidia-smi")),
    ("gcp", "no machine", lambda d: node_type(d, "teacher").pop("node_config")),
    ("skypilot", "accelerator", lambda d: d["resources"].update(accelerator=d["resources"].pop("accelerators"))),
    ("skypilot", "two kinds of GPUs", lambda d: d["resources"]["accelerators"].update(L4=1)),
    ("skypilot", "nodes as text", lambda d: d.update(num_nodes="3")),
    ("skypilot", "a variable's name", lambda d: d["envs"].update({"A-B": "c"})),
    ("skypilot", "commands", lambda d: d.update(run=["stillhouse run"])),
]


@pytest.mark.parametrize(("target", "edit"), [m[::2] for m in MISTAKES], ids=[f"{m[0]} {m[1]}" for m in MISTAKES])
def test_planted_mistakes_are_caught(clinic_folder: Clinic, target: Target, edit: Edit) -> None:
    rendered = clinic_folder.render(target, clinic())
    data = documents(rendered)["RayJob"] if target == "kuberay" else launcher(rendered, target)
    check(target, yaml.safe_dump(data))
    edit(data)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check(target, yaml.safe_dump(data))


# Values stay values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_is_one_value_in_one_line(text: str) -> None:
    for value in (text, {text: text}, [text, text], {"a": [text]}):
        written = scalar(value)
        assert yaml.safe_load(f"key: {written}\nnext: 1\n") == {"key": value, "next": 1} and "\n" not in written
    block = text_value(f"first\n{text}\n", 4)
    assert yaml.safe_load(f"data:\n  key: {block}\nnext: 1\n") == {"data": {"key": f"first\n{text}\n"}, "next": 1}
    assert yaml.safe_load(f"# {comment(text)}\nnext: 1\n") == {"next": 1}


@pytest.mark.parametrize("target", list(FILES))
def test_no_setting_breaks_out(clinic_folder: Clinic, target: Target) -> None:
    notes = {f"NOTE_{i}": text for i, text in enumerate(HOSTILE)}
    data = clinic(teacher__sampling={"stop": HOSTILE}, cluster={"runtime_env": {"env_vars": notes}})
    sets = [f"answers.min_tokens=  1  # {text.strip()}" for text in HOSTILE if text.isprintable()]
    text = clinic_folder.render(target, data, sets=sets).files[FILES[target]]
    check(target, text)
    loaded = list(yaml.safe_load_all(text))
    assert [d.get("kind") for d in loaded] == (
        ["ConfigMap", "ServiceAccount", "RayJob"] if target == "kuberay" else [None]
    )
    if target == "kuberay":
        found = yaml.safe_load(loaded[0]["data"]["run.yaml"])
        assert found["teacher"]["sampling"]["stop"] == HOSTILE and found["answers"] == {"min_tokens": 1}
        assert found["cluster"]["runtime_env"]["env_vars"] == notes


@pytest.mark.parametrize("target", list(FILES))
def test_no_image_breaks_out(clinic_folder: Clinic, target: Target) -> None:
    image = "a: b\nkey: {x: 1}\n--- # 'é\""
    plain = list(yaml.safe_load_all(clinic_folder.render(target, clinic(), image="team/image:1").files[FILES[target]]))
    loaded = list(yaml.safe_load_all(clinic_folder.render(target, clinic(), image=image).files[FILES[target]]))
    new = set(every_string(loaded)) - set(every_string(plain))
    assert len(loaded) == len(plain) and new == {f"docker:{image}" if target == "skypilot" else image}


def test_small_files_go_along(clinic_folder: Clinic) -> None:
    keep = "def keep(prompt, answer, about):\n\treturn 'é' not in answer  \n\n"
    (clinic_folder.folder / "mine").mkdir()
    (clinic_folder.folder / "mine" / "keep.py").write_text(keep)
    rendered = clinic_folder.render("kuberay", clinic(answers__filter="mine/keep.py:keep"))
    config_map = documents(rendered)["ConfigMap"]["data"]
    assert config_map["keep.py"] == keep
    assert yaml.safe_load(config_map["run.yaml"])["answers"]["filter"] == "keep.py:keep"
    for group in worker_groups(rendered).values():
        mounts = {m["name"]: m["mountPath"] for m in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["run"] == "/home/ray/run"
    task = clinic_folder.render("skypilot", clinic(answers__filter="mine/keep.py:keep"))
    assert task.files["keep.py"] == keep
    assert set(launcher(task, "skypilot")["file_mounts"].values()) >= {"keep.py", "skypilot-run.yaml"}


def test_the_image_has_the_packages_that_the_run_needs(clinic_folder: Clinic) -> None:
    file = clinic_folder.render("kuberay", RUNS["extras"]).files["Dockerfile"]
    assert '.whl)[lora,gguf,llama-cpp,compressed-tensors,wandb]"' in file
    [install] = launcher(clinic_folder.render("aws", RUNS["extras"]), "aws")["setup_commands"]
    assert "[lora,gguf,llama-cpp,compressed-tensors,wandb]" in install
    assert "[" not in clinic_folder.render("kuberay", clinic()).files["Dockerfile"].split("RUN pip")[1]


def test_every_target_has_nodes_to_be_tried_on() -> None:
    assert set(NODES) == set(FILES)
