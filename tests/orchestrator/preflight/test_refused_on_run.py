"""Wrong requests that would be found out when money is spent: `stillhouse run` refuses each before Ray starts."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from support.project import Project

Command = Callable[..., Any]
"""The `stillhouse` fixture: words -> Outcome."""

SIZES, ENV, VLLM = "defaults.model.config", "cluster.runtime_env", "teacher.vllm.engine_kwargs"
CONFIG = "specialists.medical.model.config"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def refusal(project: Project, stillhouse: Command, settings: dict[str, Any], command: str = "run") -> str:
    for where, value in settings.items():
        project.set(where, value)
    error: str = stillhouse(command, project.write()).error
    assert not (project.folder / "runs" / "trial").exists(), "a refused request leaves nothing behind"
    return error


# Settings that are passed on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_hiden_layers", 2, ["num_hiden_layers: qwen3 has no such setting", "did you mean 'num_hidden_layers'"]),
        ("learning_rate", 1, ["learning_rate: qwen3 has no such setting", "take it out"]),
        ("temperature", 0.7, ["temperature: qwen3 has no such setting"]),
        ("dtype", "bfloat16", ["dtype: 'bfloat16'", "train.dtype"]),
        ("torch_dtype", "float16", ["torch_dtype: 'float16'", "train.dtype"]),
        ("quantization_config", {"bits": 4}, ["quantization_config", "not quantised"]),
        ("attn_implementation", "eager", ["attn_implementation", "take it out"]),
        ("auto_map", {}, ["auto_map", "not run for students"]),
        ("rms_norm_eps", "1e-6", ["rms_norm_eps: '1e-6' is text, and qwen3 takes float; write 1.0e-06"]),
        ("rms_norm_eps", 1, ["rms_norm_eps: 1 is a whole number", "write 1.0"]),
        ("num_hidden_layers", True, ["num_hidden_layers: True; expected a whole number from 1"]),
        ("max_position_embeddings", "128", ["max_position_embeddings: '128' is text", "write 128, without quotes"]),
        ("max_position_embeddings", 0, ["max_position_embeddings: 0; expected a whole number from 1"]),
        ("num_key_value_heads", 0, ["num_key_value_heads: 0; expected"]),
        ("num_key_value_heads", 3, ["num_attention_heads: 2 heads share 3", "set num_key_value_heads to 2"]),
        ("num_key_value_heads", -1, ["num_key_value_heads: -1"]),
        ("head_dim", 7, ["head_dim: heads of 7 numbers", "even"]),
        ("hidden_act", "swiglu", ["hidden_act: 'swiglu' is no activation of transformers", "did you mean"]),
        ("layer_types", ["full_attention"], ["layer_types: 1 kinds for 2 layers"]),
        ("tie_word_embeddings", "yes please", ["tie_word_embeddings: 'yes please' is text, and qwen3 takes bool"]),
        ("vocab_size", 5, ["vocab_size: 5, and the tokenizer has 12 ids", "leave it out"]),
        ("rope_theta", "1e6", ["rope_theta: '1e6' is text; write 1000000.0"]),
        ("rope_theta", 0, ["rope_theta: 0; give a number above 0"]),
        ("rope_parameters", 5, ["rope_parameters: 5; give a record"]),
        ("rope_parameters", {"rope_type": "yarm"}, ["rope_type: 'yarm' is no kind of rotary", "did you mean 'yarn'"]),
        ("rope_scaling", {"type": "linear"}, ["rope_scaling.factor: is missing"]),
        ("rope_parameters", {"rope_type": "yarn", "factor": "4"}, ["rope_parameters.factor: '4'; give a number"]),
        ("layer_types", ["full_attention", "half"], ["layer_types: 'half' is no kind of layer of transformers"]),
        ("attention_dropout", 2.0, ["attention_dropout: 2.0; give a probability"]),
        ("initializer_range", -1.0, ["initializer_range: -1.0; give a number above 0"]),
        ("is_encoder_decoder", True, ["is_encoder_decoder: students are decoders alone"]),
        ("pad_token_id", 12, ["pad_token_id: 12, and there are 12 ids"]),
        ("num_hidden_layers", 10**9, ["medical.model.config: its weights alone take", "smaller sizes"]),
        ("num_experts", 8, ["num_experts: qwen3 has no such setting"]),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_a_new_model_that_its_architecture_cannot_be(
    project: Project, stillhouse: Command, key: str, value: Any, words: list[str]
) -> None:
    error = refusal(project, stillhouse, {f"{SIZES}.{key}": value})
    assert error.startswith(f"error: {CONFIG}") and all(word in error for word in words), error


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen3", "num_attention_heads": 4}, ["share 32 of keys and values (what qwen3 has unless"]),
        ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, ["hidden_size: 30 is not a multiple"]),
        ({"model_type": "llama", "hidden_size": 12, "num_attention_heads": 4}, ["hidden_size: heads of 3 numbers"]),
        ({"model_type": "qwen3_moe"}, ["model_type: 'qwen3_moe' is a mixture of 128 experts", "qwen3 for qwen3_moe"]),
        ({"model_type": "gpt2", "n_embd": 30, "n_head": 4}, ["30 is not a multiple of the 4 of num_attention_heads"]),
        ({"model_type": "gpt2", "n_layers": 2}, ["n_layers: gpt2 has no such setting; did you mean 'n_layer'?"]),
        ({"model_type": "gemma3_text", "sliding_windw": 8}, ["sliding_windw: gemma3_text has no such setting"]),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_sizes_that_do_not_go_together(
    project: Project, stillhouse: Command, config: dict[str, Any], words: list[str]
) -> None:
    error = refusal(project, stillhouse, {SIZES: config})
    assert error.startswith(f"error: {CONFIG}.") and all(word in error for word in words), error


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"env_var": {"A": "b"}}, ["env_var: Ray has no such key; did you mean 'env_vars'?"]),
        ({"image": "x"}, ["image: Ray has no such key"]),
        ({"_ray_commit": "x"}, ["_ray_commit: Ray has no such key"]),
        ({"working_dir": "nowhere"}, ["working_dir: no folder 'nowhere' on this machine"]),
        ({"working_dir": 3}, ["working_dir: 3; give the path"]),
        ({"py_modules": ["nowhere"]}, ["py_modules: no folder 'nowhere'"]),
        ({"py_modules": "nowhere"}, ["py_modules: 'nowhere'; give a list"]),
        ({"env_vars": {"THREADS": 2}}, ["env_vars.THREADS: is int and has to be text; put it in quotes"]),
        ({"env_vars": ["A=b"]}, ["env_vars: has to map names to texts"]),
        ({"env_vars": {2: "a"}}, ["env_vars: 2 cannot name a variable"]),
        ({"env_vars": {"RANK": "0"}}, ["env_vars.RANK: is set in each process", "take it out"]),
        ({"pip": "no-such-requirements.txt"}, ["pip: no file 'no-such-requirements.txt'"]),
        ({"pip": [3]}, ["pip: [3]; give a list of packages"]),
        ({"pip": {"package": ["a"]}}, ["pip: package; Ray has packages"]),
        ({"pip": ["a"], "conda": "b"}, ["pip and conda cannot be given together"]),
        ({"image_uri": "x", "pip": ["a"]}, ["pip cannot be given with image_uri"]),
        ({"config": {"setup_timeout": 3}}, ["config: setup_timeout; Ray has", "setup_timeout_seconds"]),
        ({"config": {"setup_timeout_seconds": "soon"}}, ["setup_timeout_seconds: 'soon'; give whole seconds"]),
        ({"py_executable": "/nowhere/python"}, ["py_executable: '/nowhere/python' is no program on this machine"]),
        ({"image_uri": ""}, ["image_uri: ''; give the address of an image"]),
        ({"excludes": "*.bin"}, ["excludes: '*.bin'; give a list"]),
        ({"pip": None}, ["pip: is null"]),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_a_runtime_env_that_ray_cannot_make(
    project: Project, stillhouse: Command, env: dict[str, Any], words: list[str]
) -> None:
    error = refusal(project, stillhouse, {ENV: env})
    assert error.startswith("error: cluster.runtime_env") and all(word in error for word in words), error


@pytest.mark.parametrize(
    "where", ["teacher.label_selector", "specialists.medical.train.label_selector", "evaluate.label_selector"]
)
@pytest.mark.parametrize(
    "labels",
    [
        *({"role": value} for value in ("in(a", "a,b", "!!a", "in()", "", "teacher node", "(a, b)", "x" * 64)),
        *({key: "a"} for key in ("a b", "")),
    ],
    ids=repr,
)
def test_a_label_selector_that_is_none(
    project: Project, stillhouse: Command, where: str, labels: dict[str, str]
) -> None:
    assert refusal(project, stillhouse, {where: labels}).startswith(f"error: {where}")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"max_model_len": "8k"}, ["max_model_len: '8k'; vLLM takes int or null"]),
        ({"max_model_len": 0}, ["max_model_len: 0; give the most tokens"]),
        ({"gpu_memory_utilization": 90}, ["gpu_memory_utilization: 90; give a part"]),
        ({"enforce_eager": "yes"}, ["enforce_eager: 'yes'; vLLM takes bool"]),
        ({"seed": True}, ["seed: True; vLLM takes int or null"]),
        ({"load_format": "dummy"}, ["load_format: dummy weights are random ones"]),
        ({"max_logprobs": 20}, ["max_logprobs cannot be set"]),
        ({"data_parallel_address": "x"}, ["data_parallel_address cannot be set", "several engines"]),
        ({"generation_config": "auto"}, ["generation_config is what teacher.sampling says"]),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_arguments_that_vllm_cannot_take(
    project: Project, stillhouse: Command, kwargs: dict[str, Any], words: list[str]
) -> None:
    vllm = {"python": "/bin/sh", "engine_kwargs": kwargs}
    error = refusal(project, stillhouse, {"teacher.engine": "vllm", "teacher.vllm": vllm})
    assert error.startswith("error: teacher.vllm.engine_kwargs") and all(word in error for word in words), error


def test_an_argument_that_the_vllm_of_another_environment_has_not(project: Project, stillhouse: Command) -> None:
    source = "class EngineArgs:\n    model: str = ''\n    swap_space: float = 4\n    max_model_len: int | None = None\n"
    project.text("vllm/lib/python3.11/site-packages/vllm/engine/arg_utils.py", source)
    python = project.text("vllm/bin/python", "")
    python.chmod(0o755)
    vllm = {"python": str(python), "engine_kwargs": {"max_model_length": 8}}
    error = refusal(project, stillhouse, {"teacher.engine": "vllm", "teacher.vllm": vllm})
    assert "max_model_length: vLLM's engine has no such argument; did you mean 'max_model_len'?" in error
    vllm["engine_kwargs"] = {"swap_space": "much"}
    error = refusal(project, stillhouse, {"teacher.vllm": vllm})
    assert "swap_space: 'much'; vLLM takes float" in error


@pytest.mark.parametrize(
    ("setting", "remedy"), [("evaluate.targets", "take full"), ("targets.scheme", "take systematic, or topk")]
)
def test_hidden_states_of_vllm(project: Project, stillhouse: Command, setting: str, remedy: str) -> None:
    error = refusal(project, stillhouse, {"teacher.engine": "vllm", setting: "hidden"})
    assert error.startswith(f"error: {setting}: hidden, but teacher.engine is vllm") and remedy in error


def test_a_python_without_vllm(project: Project, stillhouse: Command) -> None:
    error = refusal(project, stillhouse, {"teacher.engine": "vllm", "teacher.vllm": {"python": sys.executable}})
    assert error.startswith("error: teacher.vllm.python: ") and "finds no package vllm" in error


# Places -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher.gpus_per_rank": 1}, ["teacher: 1 x 1 CPU + 1 GPU", "one process wants 1 GPU", "cluster.address"]),
        ({"teacher.cpus_per_rank": 4096}, ["teacher: 1 x 4096 CPU", "wants 4096 CPU", "cluster.cpus may say more"]),
        ({"teacher.cpus_per_rank": 2, "cluster.cpus": 1}, ["teacher:", "there are 1", "cluster.cpus is 1"]),
        ({"teacher.accelerator_type": "H100"}, ["teacher:", "accelerators of type H100; there are none"]),
        ({"teacher.label_selector": {"role": "a"}}, ["teacher:", "it has not the label role=a"]),
        ({"teacher.ep_size": 2, "teacher.placement": "STRICT_SPREAD"}, ["teacher:", "2 nodes are wanted"]),
        ({"teacher.ep_size": 2, "cluster.cpus": 1}, ["teacher:", "there is room for 1 of its 2 processes"]),
        ({"teacher.replicas": [2, 4], "cluster.cpus": 1}, ["teacher.replicas: 2 x 1 CPU", "room for 1 of its 2"]),
        ({"defaults.train.gpus_per_worker": 1}, ["specialists.medical.train: 1 x 1 CPU + 1 GPU", "gpus_per_worker"]),
        ({"defaults.train.workers": 4, "cluster.cpus": 2}, ["specialists.medical.train: 4 x 1 CPU", "workers"]),
        ({"specialists.legal.train.label_selector": {"a": "b"}}, ["specialists.legal.train:", "the label a=b"]),
        ({"evaluate.label_selector": {"a": "b"}}, ["evaluate:", "the label a=b"]),
        ({"evaluate.gpus": 0.5}, ["evaluate: 1 x 1 CPU + 0.5 GPU", "change cpus or gpus"]),
        ({"evaluate.cpus": 99, "cluster.cpus": 4}, ["evaluate: 1 x 99 CPU", "there are 4"]),
        ({"teacher.gpus_per_rank": 1.5}, ["teacher.gpus_per_rank: 1.5; Ray gives a part of one GPU, or whole ones"]),
        ({"evaluate.gpus": 2.5}, ["evaluate.gpus: 2.5"]),
        ({"defaults.train.cpus_per_worker": 0.00001}, ["train.cpus_per_worker: 1e-05; Ray counts in ten-thousandths"]),
        ({"cluster.cpus": 10**6}, ["cluster.cpus: 1000000, and Ray keeps a process ready for each; give at most"]),
        ({"seed": 10**30}, ["seed: Input should be less than or equal to"]),
        ({"teacher.accelerator_type": " "}, ["teacher.accelerator_type: names none"]),
    ],
    ids=lambda v: repr(v)[:50],
)
def test_what_this_machine_never_has(
    project: Project, stillhouse: Command, settings: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # wherever the tests run
    error = refusal(project, stillhouse, settings)
    assert error.startswith("error: ") and all(word in error for word in words), error


def test_only_what_a_command_starts_needs_a_place(project: Project, stillhouse: Command) -> None:
    project.set("evaluate.gpus", 1)
    project.set("specialists.legal.train.gpus_per_worker", 1)
    for words in (["capture"], ["train", "--only", "medical"]):
        assert "Ray was started" in stillhouse(words[0], project.write(), *words[1:]).err
    assert "error: specialists.legal.train: " in stillhouse("train", project.write()).error


def test_looking_needs_no_place(project: Project, stillhouse: Command) -> None:
    """A configuration for a cluster is checked and planned on a laptop."""
    project.set("teacher.gpus_per_rank", 1)
    project.set("cluster.address", "127.0.0.1:9")
    assert stillhouse("validate", project.write()).code == 0
    assert "does not fit" in stillhouse("plan", project.write()).out


# Addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_an_address_where_nobody_answers(project: Project, stillhouse: Command, form: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listened at
        address = form.format(f"127.0.0.1:{taken.getsockname()[1]}")
        error = refusal(project, stillhouse, {"cluster.address": address})
    assert error.startswith(f"error: cluster.address: nobody answers at {address}") and "is the cluster up" in error


def test_an_address_where_something_else_answers(
    project: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.session._ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        error = refusal(project, stillhouse, {"cluster.address": address})
    assert error.startswith(f"error: cluster.address: what answers at {address} is not the head of a Ray cluster")


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "a b:1", "head:99999", "http://head:8265", "1.2.3.4:-1"])
def test_an_address_that_is_none(project: Project, stillhouse: Command, address: str) -> None:
    error = refusal(project, stillhouse, {"cluster.address": address})
    assert error.startswith(
        f"error: cluster.address: {address!r} is no address of a Ray cluster; give auto, or HOST:PO"
    )


def test_auto_without_a_ray_on_this_machine(
    project: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.session.running_ray", lambda: None)
    error = refusal(project, stillhouse, {"cluster.address": "auto"})
    assert error.startswith("error: cluster.address: auto, but there is no Ray on this machine")


@pytest.mark.parametrize("given", [None, "auto"])
def test_an_address_in_the_environment(
    project: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    error = refusal(project, stillhouse, {"cluster.address": given})
    assert error.startswith("error: RAY_ADDRESS: nobody answers at 127.0.0.1:9")


@pytest.mark.parametrize("command", ["capture", "train", "evaluate"])
def test_every_command_that_starts_ray_minds_the_address(project: Project, stillhouse: Command, command: str) -> None:
    assert "nobody answers" in refusal(project, stillhouse, {"cluster.address": "127.0.0.1:9"}, command)


def test_a_plan_of_a_cluster_that_is_not_there(project: Project, stillhouse: Command) -> None:
    project.set("cluster.address", "127.0.0.1:9")
    assert "nobody answers at 127.0.0.1:9" in stillhouse("plan", project.write(), "--connect").error


def test_what_is_right_goes_on_to_ray(project: Project, stillhouse: Command, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    project.set(ENV, {"env_vars": {"A": "1"}, "working_dir": "code", "pip": ["a"], "config": {"eager_install": True}})
    sizes = {"rope_theta": 1000000.0, "num_key_value_heads": None, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    for key, value in sizes.items():
        project.set(f"{SIZES}.{key}", value)
    assert "Ray was started" in stillhouse("run", project.write()).err
