"""How large models and stores are, from files and settings alone: for the plan. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.model_files import text_settings
from workers.model_sizes import DTYPE_BYTES, EXPERT_WEIGHTS, model_size, stored_width, tensor_shapes
from workers.student.config import ModelConfig, TrainConfig
from workers.student.layers.recomputing import recomputed_layers
from workers.student.models.dense_sibling import active_width, dense_config, expert_width
from workers.student.training.deepspeed_config import BUCKET_NUMBERS, LIVE_NUMBERS
from workers.targets.config import TargetsConfig
from workers.teacher.engines.families import layers_that_remember


def decoder_parameters(config: dict[str, Any], vocabulary: int) -> int:
    """Parameters of a decoder with gated MLPs (llama, qwen3, mistral ...), from its configuration; norms left out."""
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    heads = config.get("num_attention_heads", 1)
    head = config.get("head_dim") or hidden // max(heads, 1)
    attention = hidden * head * (2 * heads + 2 * (config.get("num_key_value_heads") or heads))
    embeddings = config.get("vocab_size", vocabulary) * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return layers * (attention + 3 * hidden * config.get("intermediate_size", 0)) + embeddings


def student_size(
    model: ModelConfig, folder: Path | None, base_config: dict[str, Any] | None, vocabulary: int
) -> int | None:
    """Parameters of a student before it is made; None where the base is not downloaded yet."""
    if model.config is not None:
        return decoder_parameters(model.config, vocabulary)
    if model.merge_experts is not None:
        return _merged_size(model, base_config, vocabulary) if base_config else None
    size = model_size(folder) if folder is not None else None
    if size is None or base_config is None:
        return decoder_parameters(base_config, vocabulary) if base_config else None
    dropped, layers = _dropped(model), base_config.get("num_hidden_layers", 0)
    embeddings = decoder_parameters({**base_config, "num_hidden_layers": 0}, vocabulary)
    return size.parameters - round((size.parameters - embeddings) * dropped / max(layers, 1))


def decoder_of(model: ModelConfig, base_config: dict[str, Any] | None) -> dict[str, Any]:
    """The sizes of a student's decoder by transformers' names; none where its base is not downloaded yet."""
    if model.config is not None:
        return model.config
    if not base_config:
        return {}
    if model.merge_experts is not None:
        base_config = dense_config(base_config, _merged_width(model, base_config))
    return {**base_config, "num_hidden_layers": int(base_config.get("num_hidden_layers", 0)) - _dropped(model)}


def part_bytes(config: dict[str, Any], parameters: int, vocabulary: int) -> int:
    """Bytes, as they lie in the files, of the largest part of a student that is read at once when its workers start
    (streaming/read_once.py): embeddings and head, or a layer."""
    ends = decoder_parameters({**config, "num_hidden_layers": 0}, vocabulary)
    layer = (parameters - ends) // max(int(config.get("num_hidden_layers", 0)), 1)
    return max(ends, layer) * stored_width(config)


def activation_bytes(config: dict[str, Any], tokens: int, width: int, *, recomputed: float) -> int:
    """Bytes that a decoder with gated MLPs keeps of so many tokens for its backward pass, in numbers of `width` bytes,
    where attention is fused. Of layers that are recomputed (a share of them), their inputs; and where the last one is,
    before whose backward pass nothing is given up, all of that one.

    Of a token in a layer: what enters the linear layers, gate and up before and after their product, queries, keys and
    values once turned, and of norms their input (in float32), the normalised and the scaled. Of what autograd
    saves, this is within 2 % for Qwen3; Llama, which normalises no queries and keys, saves up to 27 % less, and Gemma 3
    in bfloat16 up to 14 % more.
    """
    hidden, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    heads = int(config.get("num_attention_heads", 1))
    head = int(config.get("head_dim") or hidden // max(heads, 1))
    queries, keys = heads * head, int(config.get("num_key_value_heads") or heads) * head
    norms = 4 if str(config.get("model_type", "")).startswith(("gemma2", "gemma3")) else 2
    linear = width * (4 * int(config.get("intermediate_size", 0)) + 2 * queries + 2 * keys)
    layer = linear + norms * (2 * width + 4) * hidden + (width + 4) * (queries + keys)
    again = recomputed_layers(layers, recomputed)
    whole = layers - len(again) + (layers - 1 in again)
    return tokens * (whole * layer + len(again) * width * hidden)


def state_bytes(
    train: TrainConfig, stage: int, parameters: int, trained: int, width: int, *, rounded: bool
) -> dict[str, int]:
    """Bytes of what one worker holds of a student whose least workers train it, by name: weights in numbers of `width`
    bytes, and of those that are trained gradients, AdamW's moments, masters and DeepSpeed's room to add gradients up.

    ZeRO shares moments and masters out from stage 1, gradients from 2, weights from 3; there weights that are gathered
    stay until they are used again (`LIVE_NUMBERS`), and a bucket of gradients is copied to be shared out. A worker's
    own part of the sums is copied too. Rounded weights have masters beside them at any stage.

    Measured on CPUs (size_bench/planned.py): all within 6 %, once gathered weights count twice, as the C library keeps
    about as much of what was gathered and given up.
    """
    workers = train.workers[0]

    def part(numbers: int, shared_from: int) -> int:
        return numbers // workers if stage >= shared_from else numbers

    gpu = bool(train.gpus_per_worker)
    bucket = (BUCKET_NUMBERS if gpu else min(BUCKET_NUMBERS, trained)) * width
    masters = part(trained, 1) * 4 if stage else 0
    if rounded and stage != 1 and stage != 2:  # those have masters anyway
        masters += part(parameters, 3) * (width if stage == 3 else 4)
    return {
        "weights": part(parameters, 3) * width,
        "gathered": min(parameters, LIVE_NUMBERS) * width * (1 if gpu else 2) if stage == 3 else 0,
        "gradients": part(trained, 2) * 4,
        "own_gradients": (bucket if stage == 3 else trained * 4) // workers if stage else 0,
        "reduce_bucket": bucket * (0, 1, 1, 2)[stage],
        "moments": part(trained, 1) * 8,
        "masters": masters,
    }


def _merged_size(model: ModelConfig, mixture: dict[str, Any], vocabulary: int) -> int:
    """Parameters of the dense model that a mixture of experts becomes."""
    dense = dense_config(mixture, _merged_width(model, mixture))
    return decoder_parameters({**dense, "num_hidden_layers": dense["num_hidden_layers"] - _dropped(model)}, vocabulary)


def _merged_width(model: ModelConfig, mixture: dict[str, Any]) -> int:
    return expert_width(mixture) if model.merge == "average" else model.merged_width or active_width(mixture)


def linear_layers(model: ModelConfig, folder: Path, base_config: dict[str, Any]) -> dict[str, int]:
    """Linear layers of a student's decoder by name: the sum of inputs and outputs of all of a name, which is what a
    rank of LoRA costs. Empty where the weights are not downloaded yet."""
    sums: dict[str, int] = {}
    layers = int(base_config.get("num_hidden_layers", 0))
    for name, shape in tensor_shapes(folder).items():
        if ".layers." in name and name.endswith(".weight") and len(shape) == 2 and not _is_of_experts(name):
            sums[name.split(".")[-2]] = sums.get(name.split(".")[-2], 0) + sum(shape)
    if model.merge_experts is not None and sums:
        sizes = layers * (_merged_width(model, base_config) + int(base_config["hidden_size"]))
        sums |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), sizes)
    return {name: size * (layers - _dropped(model)) // max(layers, 1) for name, size in sums.items()}


def _is_of_experts(name: str) -> bool:
    """Whether a tensor is an expert's or a router's."""
    return any(part in name for part in EXPERT_WEIGHTS) or name.endswith((".gate.weight", ".router.layer.weight"))


def _dropped(model: ModelConfig) -> int:
    return len(model.drop_layers) if isinstance(model.drop_layers, list) else model.drop_layers


def target_bytes(targets: TargetsConfig, vocabulary: int) -> float:
    """Bytes of one target token on disk, about.

    Of a draw, entries grow like N^0.7 (9.2 at 20 draws, 17 at 50: measured on a 135M model, 2.5 nats a token), and an
    entry takes about 1.3 bytes; the scalars take about 4, the text about 4. An exact probability takes two. A mixture
    made of that model took 20.1 bytes a token at 21 draws, where this says 20.4; of one that knows nothing every draw
    is another entry, and 1.6 times as many bytes.
    """
    assert targets.scheme != "hidden", "its size is the teacher's to say"
    if targets.scheme == "full":
        return vocabulary * DTYPE_BYTES[targets.precision] + 8.0
    exact = 2.0 * len(targets.always_keep)
    if targets.scheme == "topk":
        return 10.0 + exact + 3.3 * min(targets.top_k, vocabulary)
    return 8.0 + exact + targets.redraws * 1.3 * 1.13 * targets.draws**0.7


def state_cache_bytes(config: dict[str, Any], texts: float) -> int:
    """Bytes of the states of so many texts, in float32, of layers that keep one: of linear attention a matrix of keys
    and values for each head, of Mamba one of channels and states; short convolutions keep their last inputs. What the
    others' convolutions keep is little beside it, and left out."""
    text, (_, layers) = text_settings(config), layers_that_remember(config)
    hidden = int(text.get("hidden_size") or 0)
    if heads := text.get("linear_num_value_heads"):
        numbers = heads * text.get("linear_key_head_dim", 128) * text.get("linear_value_head_dim", 128)
    elif heads := text.get("linear_num_heads"):
        numbers = heads * text.get("linear_head_dim", 128) ** 2
    elif heads := text.get("mamba_n_heads") or text.get("mamba_num_heads"):
        size = text.get("mamba_d_head") or text.get("mamba_head_dim")
        channels = heads * size if isinstance(size, int) else hidden * text.get("mamba_expand", 2)
        numbers = channels * (text.get("mamba_d_state") or text.get("ssm_state_size") or 128)
    else:
        numbers = hidden * text.get("conv_L_cache", 3)
    return round(texts * layers * numbers * 4)
