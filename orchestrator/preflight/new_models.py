"""What must hold of the configuration of a student that starts from random weights: names that its architecture knows,
values of their types, sizes that go together. Imports neither torch nor transformers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from workers.architectures import Architecture, activations, architecture, layer_types, rope_types
from workers.model_files import EXPERT_KEYS, expert_count, token_ids
from workers.sources import in_words

_SET_ELSEWHERE = {
    "dtype": "train.dtype says in which type it is computed; take it out",
    "torch_dtype": "train.dtype says in which type it is computed; take it out",
    "quantization_config": "random weights are not quantised; take it out, or name a model (base)",
    "attn_implementation": "what attends is chosen by what the architecture can; take it out",
    "experts_implementation": "students are dense; take it out",
    "name_or_path": "a new model comes from nowhere; take it out, or name a model (base)",
    "auto_map": "code that comes with a model is not run for students; take it out",
}

_COUNTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "vocab_size", "max_position_embeddings"),
)


def check_new_models(config: RunConfig, teacher: Path) -> None:
    """Raise ValueError for the first setting of a new model that its architecture cannot follow. `teacher` is the
    folder of the tokenizer."""
    for name, specialist in config.specialists.items():
        model = specialist.model.config
        found = architecture(str(model["model_type"])) if model is not None else None
        if model is not None and found is not None:  # students.py refuses a type that there is not
            where = f"specialists.{name}.model.config"
            _check_dense(where, model, found)
            _check_keys(where, model, found)
            _check_types(where, model, found)
            _check_sizes(where, model, found)
            _check_values(where, model, found)
            _check_vocabulary(where, model, teacher)


def _check_keys(where: str, model: dict[str, Any], found: Architecture) -> None:
    for key in model:
        if key in _SET_ELSEWHERE:
            raise ValueError(f"{where}.{key}: {model[key]!r}: {_SET_ELSEWHERE[key]}")
        if key not in found.keys and key != "_name_or_path":
            near = difflib.get_close_matches(str(key), sorted(found.keys), 1, 0.6)
            raise ValueError(
                f"{where}.{key}: {model['model_type']} has no such setting"
                + (f"; did you mean {near[0]!r}?" if near else "; take it out (its settings are in transformers)")
            )


def _check_types(where: str, model: dict[str, Any], found: Architecture) -> None:
    for key, value in model.items():
        allowed = found.types.get(key)
        if allowed is not None and not isinstance(value, allowed):
            raise ValueError(
                f"{where}.{key}: {value!r} is {_kind(value)}, and {model['model_type']} takes {in_words(allowed)}"
                + _hint(value)
            )
        if key not in found.types and isinstance(value, str) and _hint(value):
            raise ValueError(f"{where}.{key}: {value!r} is text{_hint(value)}")
    _check_named(f"{where}.hidden_act", "activation", model.get("hidden_act"), activations())


def _check_named(where: str, what: str, name: Any, known: frozenset[str]) -> None:
    """A name is one of those that transformers knows."""
    if not known or name is None or name in known:
        return
    near = difflib.get_close_matches(str(name), sorted(known), 1, 0.5)
    raise ValueError(
        f"{where}: {name!r} is no {what} of transformers"
        + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}")
    )


def _check_values(where: str, model: dict[str, Any], found: Architecture) -> None:
    """Values that building the model, or its first step, would stumble over."""
    for key, value in model.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if key.endswith(("dropout", "pdrop")) and not 0 <= value < 1:
            raise ValueError(f"{where}.{key}: {value!r}; give a probability from 0, and below 1")
        if (key.endswith("_eps") or key in ("initializer_range", "rope_theta")) and not value > 0:
            raise ValueError(f"{where}.{key}: {value!r}; give a number above 0")
    if model.get("is_encoder_decoder"):
        raise ValueError(f"{where}.is_encoder_decoder: students are decoders alone; take it out")
    for kind in model["layer_types"] if isinstance(model.get("layer_types"), list) else ():
        _check_named(f"{where}.layer_types", "kind of layer", kind, layer_types())
    for key in ("rope_parameters", "rope_scaling"):
        if model.get(key) is not None:
            _check_rope(f"{where}.{key}", model[key])


def _check_rope(where: str, rope: Any) -> None:
    """One record, or one for each kind of layer."""
    if not isinstance(rope, dict):
        raise ValueError(f"{where}: {rope!r}; give a record, for example {{rope_type: default, rope_theta: 10000.0}}")
    if rope and all(isinstance(value, dict) for value in rope.values()):
        for kind, own in rope.items():
            _check_rope(f"{where}.{kind}", own)
        return
    kind = rope.get("rope_type", rope.get("type"))
    _check_named(f"{where}.rope_type", "kind of rotary positions", kind, rope_types())
    for key in ("rope_theta", "factor"):
        value = rope.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise ValueError(f"{where}.{key}: {value!r}; give a number above 0{_hint(value)}")
    if kind in ("linear", "dynamic", "yarn", "llama3") and "factor" not in rope:
        raise ValueError(f"{where}.factor: is missing, and rope_type {kind} stretches by it; give one")


def _kind(value: Any) -> str:
    return {str: "text", bool: "a truth value", int: "a whole number", float: "a fraction", type(None): "null"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _hint(value: Any) -> str:
    """How the number is written that was meant: YAML reads 1e-6 as text, and 1 as a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if isinstance(value, str) and number.is_integer() and "e" not in value:
        return f"; write {int(number)}, without quotes"
    written = repr(number)
    return f"; write {written if '.' in written else written.replace('e', '.0e')}"


def _check_sizes(where: str, model: dict[str, Any], found: Architecture) -> None:
    for key in _COUNTS:
        given = model.get(key)
        if given is not None and not isinstance(given, list) and (type(given) is not int or given < 1):
            raise ValueError(f"{where}.{key}: {given!r}; expected a whole number from 1")
    sizes = {key: found.value(model, key) for key in _COUNTS}
    hidden, heads, shared = (sizes[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if _whole(heads, shared) and heads % shared:
        own = "num_key_value_heads" in model
        raise ValueError(
            f"{where}.num_attention_heads: {heads} heads share {shared} of keys and values"
            + ("" if own else f" (what {model['model_type']} has unless num_key_value_heads says otherwise)")
            + f", which does not divide them; set num_key_value_heads to {heads}, or to a divisor of it"
        )
    if "qk_rope_head_dim" not in found.keys:  # attention by latents has widths of its own
        _check_heads(where, model, found, hidden, heads)
    kinds, layers = model.get("layer_types"), sizes["num_hidden_layers"]
    if isinstance(kinds, list) and _whole(layers) and len(kinds) != layers:
        raise ValueError(f"{where}.layer_types: {len(kinds)} kinds for {layers} layers; give one for each, or none")


def _check_heads(where: str, model: dict[str, Any], found: Architecture, hidden: Any, heads: Any) -> None:
    """How wide a head is."""
    given = found.value(model, "head_dim")
    if given is None and _whole(hidden, heads) and hidden % heads:
        raise ValueError(
            f"{where}.hidden_size: {hidden} is not a multiple of the {heads} of num_attention_heads; choose one that "
            "is" + (", or set head_dim" if "head_dim" in found.keys else "")
        )
    width = given if given is not None else (hidden // heads if _whole(hidden, heads) else None)
    turned = "rope_parameters" in found.keys and "partial_rotary_factor" not in model
    if turned and width is not None and _whole(width) and width % 2:
        raise ValueError(
            f"{where}.{'hidden_size' if given is None else 'head_dim'}: heads of {width} numbers, and rotary positions "
            "turn pairs; choose sizes that make it even"
        )


def _whole(*values: Any) -> bool:
    return all(type(v) is int and v > 0 for v in values)


def _check_dense(where: str, model: dict[str, Any], found: Architecture) -> None:
    experts = expert_count({k: v for k, v in model.items() if k in found.keys}) or max(
        (n for k in EXPERT_KEYS if type(n := found.defaults.get(k)) is int and model.get(k, n) is not None), default=0
    )
    if experts > 1:
        raise ValueError(
            f"{where}.model_type: {model['model_type']!r} is a mixture of {experts} experts; students are dense. Take "
            "its dense sibling, for example qwen3 for qwen3_moe"
        )


def _check_vocabulary(where: str, model: dict[str, Any], teacher: Path) -> None:
    special = {k: model[k] for k in ("pad_token_id", "bos_token_id", "eos_token_id") if type(model.get(k)) is int}
    own = model.get("vocab_size")
    if own is None and not special:
        return
    vocabulary = len(set(token_ids(teacher).values()))
    if own is not None and own < vocabulary:
        raise ValueError(
            f"{where}.vocab_size: {own}, and the tokenizer has {vocabulary} ids; leave it out, so that it follows the "
            f"tokenizer, or give {vocabulary} or more"
        )
    for key, token in special.items():
        if not 0 <= token < (own or vocabulary):
            raise ValueError(f"{where}.{key}: {token}, and there are {own or vocabulary} ids; leave it out")
