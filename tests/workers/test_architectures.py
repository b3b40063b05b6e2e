"""What is read of transformers' source files, against the classes themselves."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from transformers.activations import ACT2CLS
from transformers.configuration_utils import ALLOWED_ATTN_LAYER_TYPES
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from workers.architectures import activations, architecture, configuration_keys, layer_types, rope_types
from workers.model_files import EXPERT_KEYS, active_experts, expert_count
from workers.sources import package_folder, plain_types

TYPES = [
    *("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text", "llama4_text", "granite", "olmo2", "phi3"),
    *("gpt2", "gpt_neox", "smollm3", "qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss", "ernie4_5_moe", "dbrx"),
    "xlm-roberta",
]


@pytest.mark.parametrize("model_type", TYPES)
def test_names_defaults_and_types_are_those_of_the_class(model_type: str) -> None:
    found, theirs = architecture(model_type), CONFIG_MAPPING[model_type]
    assert found is not None
    written = {f.name: f for f in dataclasses.fields(theirs) if not f.name.startswith("_")}
    made = {name for name in theirs().to_dict() if not name.startswith("_")}
    assert (written.keys() | made) <= found.keys
    assert {n: f.default for n, f in written.items() if n in found.defaults} == found.defaults
    assert found.aliases.items() >= theirs.attribute_map.items()
    assert not {"num_hiden_layers", "temperature", "cache_dir", "learning_rate"} & found.keys
    for name, types in found.types.items():
        default = written[name].default
        assert default is dataclasses.MISSING or isinstance(default, types), name


@pytest.mark.parametrize("model_type", ["nonsense", "", "our_own"])
def test_nothing_is_said_of_what_is_not_found(model_type: str) -> None:
    assert architecture(model_type) is None and configuration_keys(model_type) is None


def test_a_size_is_found_by_its_usual_name() -> None:
    gpt2 = architecture("gpt2")
    assert gpt2 is not None
    assert gpt2.value({}, "hidden_size") == 768 and gpt2.value({"n_embd": 8}, "hidden_size") == 8
    assert gpt2.value({"hidden_size": 16}, "hidden_size") == 16 and gpt2.value({}, "num_key_value_heads") is None


def test_what_only_the_code_of_a_model_reads_may_be_said() -> None:
    for model_type in ("qwen2", "qwen3_moe"):
        assert "head_dim" in (configuration_keys(model_type) or ())


def test_names_of_activations_positions_and_layers_are_those_of_transformers() -> None:
    assert activations() == frozenset(ACT2CLS)
    assert rope_types() == {"default", *ROPE_INIT_FUNCTIONS}
    assert layer_types() >= {*ALLOWED_ATTN_LAYER_TYPES, "attention", "mamba"}


@pytest.mark.parametrize(
    ("annotation", "types"),
    [
        ("int", (int,)),
        ("float | int", (float, int)),
        ("list[str] | None", (list, type(None))),
        ("RopeParameters | dict | None", None),
        ("Literal['a']", None),
        ("Optional[int]", None),
    ],
)
def test_types_of_annotations(annotation: str, types: Any) -> None:
    assert plain_types(ast.parse(annotation, mode="eval").body) == types


# Experts ------------------------------------------------------------------------------------------------------

OTHERS = re.compile(r"per_tok|top_?k|shared|intermediate_size|implementation|_experts_layers|output|drop_")
"""In names with `experts` that do not count those of a layer."""


def named_experts() -> dict[str, list[str]]:
    """Names with `experts` of the fields of every configuration class of transformers, and where they stand."""
    folder = package_folder("transformers")
    assert folder is not None
    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).glob("models/*/configuration_*.py")):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^    (?:    self\.)?(\w*experts\w*)\s*[:=](?!=)", text, re.MULTILINE):
            found.setdefault(name, []).append(path.parent.name)
    return found


def test_every_count_of_experts_that_transformers_names_is_known() -> None:
    found = named_experts()
    assert len(found) > 5 and "ernie4_5_moe" in found["moe_num_experts"]
    counts = {name: where for name, where in found.items() if not OTHERS.search(name)}
    assert set(counts) == set(EXPERT_KEYS), {n: counts[n] for n in counts.keys() - set(EXPERT_KEYS)}


@pytest.mark.parametrize(
    ("config", "experts"),
    [
        ({}, 0),
        ({"num_experts": None}, 0),
        ({"num_experts": 8}, 8),
        ({"num_local_experts": 4}, 4),
        ({"n_routed_experts": 256}, 256),
        ({"moe_num_experts": 64}, 64),
        ({"moe_num_experts": [64, 32]}, 64),
        ({"num_experts": None, "text_config": {"num_experts": 16}}, 16),
        ({"thinker_config": {"text_config": {"num_experts": 128}}}, 128),
        ({"ffn_config": {"moe_num_experts": 4}}, 4),
        ({"vision_config": {"num_experts": 9}}, 0),
    ],
)
def test_experts_are_counted_however_they_are_spelt(config: dict[str, Any], experts: int) -> None:
    assert expert_count(config) == experts


@pytest.mark.parametrize(
    ("config", "active"),
    [
        ({"num_experts": 8}, 8),
        ({"num_experts": 8, "num_experts_per_tok": 2}, 2),
        ({"num_experts": 8, "moe_topk": [1, 2, 1]}, 2),
        ({"text_config": {"num_experts": 8, "num_experts_per_tok": 2}}, 2),
    ],
)
def test_those_that_a_token_is_sent_to_are_counted(config: dict[str, Any], active: int) -> None:
    assert active_experts(config) == active


@pytest.mark.parametrize("value", ["many", -1, 2.5, ["a"]])
def test_a_count_that_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="num_experts"):
        expert_count({"num_experts": value})
