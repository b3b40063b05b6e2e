"""The files in examples/cluster are what the command writes for the configuration beside them, to the byte: without a
look at anything, and with the plan of models of their real shapes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.clusters.rendered import FILES, cached_model, dense, mixture
from support.project import Project
from support.servers.s3_servers import KEYS, reached_at

from orchestrator.config.loading import load_config
from orchestrator.launch.manifests.rendering import Target

EXAMPLES = Path(__file__).parents[3] / "examples" / "cluster"
MAKEFILE = EXAMPLES.parents[1] / "Makefile"
Command = Callable[..., Any]


def command(target: Target) -> list[str]:
    """The words behind `stillhouse`, as the file's first line has them."""
    first = (EXAMPLES / FILES[target]).read_text().splitlines()[0]
    assert first.startswith("# Written by: stillhouse cluster render ")
    return shlex.split(first.removeprefix("# Written by: stillhouse "))


@pytest.mark.parametrize("target", list(FILES))
def test_examples_are_what_the_command_writes(
    target: Target, stillhouse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    assert stillhouse(*command(target), "--unplanned", "--out", tmp_path).code == 0
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert FILES[target] in written
    assert written == {name: (EXAMPLES / name).read_bytes() for name in written}


@pytest.mark.parametrize("target", list(FILES))
def test_make_writes_them_in_the_same_way(target: Target) -> None:
    assert f"$(RENDER) {shlex.join(command(target)[2:])}\n" in MAKEFILE.read_text()


@pytest.fixture
def real_sizes(
    project: Project, moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The example's models in a Hub's cache, by the shapes of their tensors alone, and its prompts on S3."""
    cache, tokenizer = tmp_path / "hub", project.folder / "teacher"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    cached_model(cache, "Qwen/Qwen3-30B-A3B", *mixture(48, 2048, 128, 768, 151936), tokenizer)
    cached_model(cache, "Qwen/Qwen3-1.7B", *dense(28, 2048, 6144, 151936), tokenizer)
    with reached_at(moto_endpoint):
        filesystem = fsspec.filesystem("s3", key=KEYS["AWS_ACCESS_KEY_ID"], secret=KEYS["AWS_SECRET_ACCESS_KEY"])
        filesystem.mkdirs("s3://my-bucket", exist_ok=True)
        for name, source in load_config(EXAMPLES / "run.yaml", []).config.prompts.items():
            rows = (json.dumps({"id": i, "prompt": f"the {name} fever {i}"}) for i in range(20))
            filesystem.pipe(source.path, "\n".join(rows).encode())
        yield project


@pytest.mark.parametrize("target", list(FILES))
def test_the_plan_says_that_the_example_fits_its_nodes(
    target: Target, real_sizes: Project, stillhouse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    outcome = stillhouse(*command(target), "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "not downloaded" not in outcome.out, "sizes of all models are known"
    assert (tmp_path / "out" / FILES[target]).read_bytes() == (EXAMPLES / FILES[target]).read_bytes()
