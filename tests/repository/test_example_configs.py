"""Every run configuration that we ship is one that the program accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.loading import load_config, validate
from orchestrator.config.template import TEMPLATE
from orchestrator.prompts.policy import PolicyResolver

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "examples"


def run_configs() -> list[Path]:
    """YAML files below examples/ that configure a run: one document, with specialists."""
    found = []
    for path in sorted(EXAMPLES.rglob("*.y*ml")):
        documents = list(yaml.safe_load_all(path.read_text()))
        if len(documents) == 1 and isinstance(documents[0], dict) and "specialists" in documents[0]:
            found.append(path)
    return found


def test_the_quickstart_is_among_them() -> None:
    assert EXAMPLES / "quickstart" / "stillhouse.yaml" in run_configs()


@pytest.mark.parametrize("path", run_configs(), ids=lambda p: p.parent.name)
def test_shipped_configuration_is_accepted(path: Path) -> None:
    file = load_config(path, [])
    located = file.located()
    for source in located.prompts.values():
        if not source.path.startswith("s3://"):
            assert Path(source.path).is_absolute() or "/" in source.path


def test_the_configuration_in_the_rayjob_is_accepted(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((EXAMPLES / "cluster" / "kuberay-rayjob.yaml").read_text())
    [text] = [d["data"]["run.yaml"] for d in documents if d["kind"] == "ConfigMap"]
    path = tmp_path / "run.yaml"
    path.write_text(text)
    config = load_config(path, []).config
    assert set(config.specialists) and config.storage.startswith("s3://")
    domains = {d for name in config.specialists for d in config.mix_of(name)}
    assert domains <= set(config.prompts)


def test_the_rayjob_uses_the_gpus_that_its_nodes_have() -> None:
    documents = {d["kind"]: d for d in yaml.safe_load_all((EXAMPLES / "cluster" / "kuberay-rayjob.yaml").read_text())}
    config = validate(yaml.safe_load(documents["ConfigMap"]["data"]["run.yaml"]))
    gpus = {}
    for group in documents["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        gpus[group["groupName"]] = int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) * group["numOfHosts"]
    for teacher in config.teachers.values():
        assert teacher.ep_size * teacher.gpus_per_rank == gpus["teacher"]
    for specialist in config.specialists.values():
        assert 0 < specialist.train.workers[1] * specialist.train.gpus_per_worker <= gpus["student"]


def shown_in_the_readme() -> list[dict[str, Any]]:
    texts = (CHECKOUT / "README.md").read_text().split("```yaml\n")[1:]
    return [yaml.safe_load(text.split("```")[0]) for text in texts]


def test_the_answers_in_the_readme_are_accepted() -> None:
    [data] = [d for d in shown_in_the_readme() if "domains" in d]
    teachers = {"teachers": {"first": {"model": "acme/first"}, "coder": {"model": "acme/coder"}}}
    specialists = {"specialists": {d: {"model": "acme/student"} for d in data["domains"]}}
    config = validate({"name": "shown"} | teachers | specialists | data)
    assert config.domains["medical"].sampling and config.answers.filter == "keep.py:keep"
    for source, domains in (("medical", ("medical",)), ("code", ("code",))):
        assert PolicyResolver(config).of(source, domains).teacher == ("coder" if source == "code" else "first")


def test_the_trackers_in_the_readme_are_accepted() -> None:
    [data] = [d for d in shown_in_the_readme() if "trackers" in d]
    names = [name for name, _ in validate(yaml.safe_load(TEMPLATE) | data).trackers.named()]
    assert names == ["tensorboard", "mlflow", "wandb", "prometheus"]


def test_the_students_in_the_readme_are_accepted() -> None:
    [data] = [d for d in shown_in_the_readme() if "defaults" in d]
    others = yaml.safe_load(TEMPLATE)
    config = validate(others | {"defaults": others["defaults"] | data["defaults"]})
    for specialist in config.specialists.values():
        assert specialist.loss.weighting == "entropy" and specialist.texts.mask_prompts
        assert specialist.train.workers == (1, 4) and specialist.train.restarts
        specialist.loss.check_scheme(config.targets.scheme)


def test_what_is_to_be_evaluated_in_the_readme_is_accepted() -> None:
    shown = [d for d in shown_in_the_readme() if "evaluate" in d]
    assert len(shown) == 3
    for data in shown:
        config = validate(yaml.safe_load(TEMPLATE) | data)
        assert config.evaluate.tasks.keys() >= {"exams"} or config.evaluate.harness is not None


def test_what_init_writes_is_accepted_and_names_domains_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(TEMPLATE)
    config = load_config(path, []).config
    for name in config.specialists:
        assert sum(config.mix_of(name).values()) == pytest.approx(1)
        assert set(config.mix_of(name)) <= set(config.prompts)
