"""Configurations that a cluster can be rendered for, what was rendered, and models that are known by their shapes."""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.launch.manifests.rendering import FILES, Rendered, Request, Target, render

CLINIC: dict[str, Any] = {
    "name": "clinic",
    "storage": "s3://shelf/runs",
    "teacher": {"model": "acme/teacher", "ep_size": 8, "gpus_per_rank": 1, "replicas": [1, 2]},
    "prompts": {"medical": "s3://shelf/medical.jsonl", "legal": "s3://shelf/legal.jsonl"},
    "defaults": {"model": "acme/student", "train": {"workers": 2, "gpus_per_worker": 1}},
    "specialists": {"medical": {}, "legal": {}},
    "evaluate": {"gpus": 1},
}
"""Two replicas of eight GPUs, two specialists of two."""

NODES: dict[Target, str] = {
    "kuberay": "teacher=h100:8,student=l40s:2",
    "aws": "teacher=h100:8,student=l40s:4",
    "gcp": "teacher=h100:8,student=a100-40:2",
    "skypilot": "h100:8",
}


def clinic(**changes: Any) -> dict[str, Any]:
    """A configuration with `a.b.c` changed, dots written as two underscores."""
    data = copy.deepcopy(CLINIC)
    for where, value in changes.items():
        place = data
        *parents, last = where.split("__")
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return data


class Clinic:
    """A folder from which clusters are rendered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def render(self, target: Target, data: dict[str, Any], nodes: str | None = None, **more: Any) -> Rendered:
        """Unplanned, unless `planned=True`; `sets` are those of --set."""
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        words = [NODES[target] if nodes is None else nodes]
        request = Request(
            target,
            path,
            more.pop("sets", []),
            [word for word in words if word],
            **{"planned": False, **more},
        )
        return render(request)

    def refused(self, target: Target, data: dict[str, Any], nodes: str | None = None, **more: Any) -> str:
        """What is said of a request that is refused."""
        with pytest.raises(ValueError) as caught:
            self.render(target, data, nodes, **more)
        return str(caught.value)


def documents(rendered: Rendered) -> dict[str, dict[str, Any]]:
    """The manifests for KubeRay by kind."""
    return {d["kind"]: d for d in yaml.safe_load_all(rendered.files[FILES["kuberay"]])}


def worker_groups(rendered: Rendered) -> dict[str, dict[str, Any]]:
    """The worker groups of a RayJob by name."""
    return {g["groupName"]: g for g in documents(rendered)["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def launcher(rendered: Rendered, target: Target) -> dict[str, Any]:
    """The file of Ray's cluster launcher, or of SkyPilot."""
    loaded: dict[str, Any] = yaml.safe_load(rendered.files[FILES[target]])
    return loaded


def limits(group: dict[str, Any]) -> dict[str, str]:
    """What a worker group's container may take."""
    [container] = group["template"]["spec"]["containers"]
    found: dict[str, str] = container["resources"]["limits"]
    return found


Tensors = dict[str, list[int]]


def mixture(layers: int, hidden: int, experts: int, width: int, vocabulary: int) -> tuple[dict[str, Any], Tensors]:
    """config.json and tensors of a Qwen3-MoE, the experts of a layer as one."""
    config = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        **{"hidden_size": hidden, "intermediate_size": 3 * hidden, "moe_intermediate_size": width},
        **{"num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128},
        **{"num_experts": experts, "num_experts_per_tok": 8, "vocab_size": vocabulary, "norm_topk_prob": True},
        **{"decoder_sparse_step": 1, "max_position_embeddings": 40960, "tie_word_embeddings": False},
    }
    tensors: Tensors = {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}
    for i in range(layers):
        tensors[f"model.layers.{i}.self_attn.q_proj.weight"] = [9216, hidden]
        tensors[f"model.layers.{i}.mlp.experts.0.up_proj.weight"] = [3 * experts * width, hidden]
    return config, tensors


def dense(layers: int, hidden: int, width: int, vocabulary: int) -> tuple[dict[str, Any], Tensors]:
    """config.json and tensors of a Qwen3."""
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        **{"hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers},
        **{"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": vocabulary},
        **{"max_position_embeddings": 40960, "tie_word_embeddings": True},
    }
    tensors: Tensors = {"model.embed_tokens.weight": [vocabulary, hidden]}
    for i in range(layers):
        tensors[f"model.layers.{i}.self_attn.q_proj.weight"] = [6144, hidden]
        tensors[f"model.layers.{i}.mlp.up_proj.weight"] = [3 * width, hidden]
    return config, tensors


def cached_model(cache: Path, name: str, config: dict[str, Any], tensors: Tensors, tokenizer: Path) -> None:
    """A model in a cache of the Hugging Face Hub, with weights of which only the header is written."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((tokenizer / file).read_bytes())
    header, end = {}, 0
    for tensor, shape in tensors.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


Edit = Callable[[dict[str, Any]], Any]


def at(data: Any, *keys: Any) -> Any:
    """What lies at a path."""
    for key in keys:
        data = data[key]
    return data


def every_string(data: Any) -> Iterator[str]:
    """All strings in plain data, keys too."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from every_string(key)
            yield from every_string(value)
    elif isinstance(data, list):
        for value in data:
            yield from every_string(value)
