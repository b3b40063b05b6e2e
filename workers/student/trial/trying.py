"""One micro-batch of a student before its teacher answers anything.

The model is built at its full size on the meta device, which takes no memory and finds what no shape can be made of.
Then one micro-batch goes forward and backward through the real thing with random weights: all of it where it is small,
else as many layers as it has kinds of, at their full width, with few ids. What that finds, the first step of training
would find too, after the teacher has been paid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from workers.fetching.folder import model_folder
from workers.logit_map import LogitMap
from workers.model_files import expert_count
from workers.quantise.layers import quantised_weights
from workers.student.batches.batching import collate
from workers.student.config import LoraConfig, ModelConfig, SpecialistConfig, TrainConfig
from workers.student.layers.compiling import check_layers
from workers.student.layers.recomputing import recompute
from workers.student.losses.config import LossConfig
from workers.student.losses.objective import divergence_of
from workers.student.models.lora import add_adapters, target_names
from workers.student.models.positions import Positions, positions_of
from workers.student.models.student_model import DistillationModel, ready_to_train
from workers.student.trial.building import made_small, on_meta, parameters, planned_config
from workers.student.trial.files import check_files
from workers.targets.heads import TeacherHead
from workers.targets.reader import TargetRow

_WHOLE, _MOST = 1 << 24, 1 << 28
"""Parameters up to which a student is tried whole, and up to which it is tried at all: float32 weights and gradients
take eight bytes each, 2 GB at most, and a head node may have little more."""

_LENGTHS = (7, 5)
"""Tokens of the texts that are tried: two, so that packing is tried too."""

_HIDDEN = 4
"""Size of the hidden states that are tried: a teacher's size makes no difference to its student."""

_SHAPES = ("size of tensor", "shape", "mat1 and mat2", "expanded size")
"""In what torch says of tensors that do not go together."""


@dataclass(frozen=True)
class Tried:
    """What is known of a student before it is made."""

    parameters: int
    positions: Positions | None
    stepped: bool
    """Whether a micro-batch went through it; False where one of its layers alone is too large to be tried here."""


def try_students(specialists: Mapping[str, SpecialistConfig], scheme: str, vocabulary: int) -> dict[str, Tried]:
    """Try every specialist, by name; those that differ in nothing that matters here, once. See `try_student`."""
    tried: dict[str, Tried] = {}
    found: dict[str, Tried] = {}
    for name, specialist in specialists.items():
        same = "".join(part.model_dump_json() for part in (specialist.model, specialist.loss))
        same += f" {specialist.train.packing} {specialist.train.gradient_checkpointing} {specialist.train.compile} "
        same += f"{specialist.roundings}"
        if same not in tried:
            tried[same] = try_student(f"specialists.{name}", specialist, scheme, vocabulary)
        found[name] = tried[same]
    return found


def try_student(where: str, specialist: SpecialistConfig, scheme: str, vocabulary: int) -> Tried:
    """Build a student and run one micro-batch; `where` names it in the settings, `scheme` is `targets.scheme`.

    Raises ValueError, with what is wrong and what to change.
    """
    model = specialist.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            config = planned_config(model, vocabulary)
            meta = on_meta(config)
        except Exception as error:
            raise ValueError(f"{_settings(where, model)}: no model can be built of it: {_told(error)}") from error
        positions = _positions(meta)
        _check_built(where, specialist, meta, vocabulary)
        if model.base is not None:
            check_files(f"{where}.model", meta, model_folder(model.base, model.revision, weights=False))
        size = parameters(meta)
        small = _small(config, size)
        if small is not None:
            _step(where, specialist, scheme, small)
    return Tried(size, positions, small is not None)


def _check_built(where: str, specialist: SpecialistConfig, meta: Any, vocabulary: int) -> None:
    """What shows without a number in it."""
    has = meta.config.get_text_config().vocab_size
    if has < vocabulary:
        raise ValueError(
            f"{_settings(where, specialist.model)}: its vocabulary of {has} cannot hold the tokenizer's {vocabulary} "
            "ids; leave vocab_size out, or take a base that has as many"
        )
    if experts := expert_count(meta.config.to_dict()):
        raise ValueError(
            f"{_settings(where, specialist.model)}: {meta.config.model_type} is a mixture of {experts} experts; "
            "students are dense"
        )
    try:
        recompute(meta, specialist.train.gradient_checkpointing)
        if specialist.train.compile:
            check_layers(meta)
    except ValueError as error:
        raise ValueError(f"{where}.train.{error}") from None
    if specialist.model.lora is not None:
        try:
            target_names(meta, specialist.model.lora.targets)
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None
    for key, rounding in specialist.roundings.items():
        try:
            quantised_weights(meta, rounding)
        except ValueError as error:
            raise ValueError(f"{where}.{key}.{error}") from None


def _small(config: Any, size: int) -> Any | None:
    """The configuration that is tried; None where it would be too large however small it is made."""
    if size <= _WHOLE:
        return config
    small = made_small(config)
    try:
        fits = parameters(on_meta(small)) <= _MOST
    except (ValueError, TypeError, KeyError, RuntimeError):  # an architecture whose layers cannot be counted off
        return None
    return small if fits else None


def _step(where: str, specialist: SpecialistConfig, scheme: str, config: Any) -> None:
    """One micro-batch. Raises ValueError with what comes of it."""
    settings = _settings(where, specialist.model)
    try:
        causal_lm = _random_model(config, specialist.train, specialist.model.lora)
        causal = _sees_no_later_token(causal_lm)
        loss = _loss_of_one_batch(causal_lm, specialist.loss, specialist.train, scheme)
    except Exception as error:
        sizes = any(words in str(error) for words in _SHAPES)
        what = "num_attention_heads, num_key_value_heads, head_dim and hidden_size in " if sizes else ""
        raise ValueError(f"{where}: its first step would fail: {_told(error)}; check {what}{settings}") from error
    if not causal:
        raise ValueError(
            f"{settings}: {config.model_type} sees tokens that come later, so that it would learn to copy them; take "
            "a causal decoder, for example qwen3 or llama (or is_decoder: true where the architecture has that)"
        )
    if not math.isfinite(loss):
        raise ValueError(
            f"{where}: the loss of its first step would be {loss}, of random weights; check the scales in {settings}"
        )


def _random_model(config: Any, train: TrainConfig, lora: LoraConfig | None) -> Any:
    from transformers import AutoModelForCausalLM

    causal_lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    ready_to_train(causal_lm, gradient_checkpointing=train.gradient_checkpointing)
    if lora is not None:
        add_adapters(causal_lm, lora, 0)
    return causal_lm


def _sees_no_later_token(causal_lm: Any) -> bool:
    """Whether logits stay as they are when a later token is another one."""
    ids_BS = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % causal_lm.config.get_text_config().vocab_size
    causal_lm.eval()
    with torch.no_grad():
        z_BSV = causal_lm(input_ids=ids_BS, use_cache=False).logits[:, :-1]
    causal_lm.train()
    # Rows of one batch may be summed up in another order; what a token adds is of the size of the logits themselves.
    return bool((z_BSV[0] - z_BSV[1]).abs().max() <= 1e-4 * z_BSV.abs().max())


def _loss_of_one_batch(causal_lm: Any, loss: LossConfig, train: TrainConfig, scheme: str) -> float:
    """The loss and its gradient, as the training step makes them; no optimiser, whose state is twice the weights."""
    model = DistillationModel(causal_lm, divergence_of(loss), "packed" if train.packing else "padded")
    vocabulary = causal_lm.config.get_text_config().vocab_size
    batch = collate(random_rows(scheme, vocabulary), loss, model.layout, spent=0.5)
    head = TeacherHead(torch.randn(vocabulary, _HIDDEN), None, LogitMap())
    value = model(batch.texts, batch.targets.with_heads({"": head}))
    value.backward()
    return float(value.detach())


def random_rows(scheme: str, vocabulary: int) -> list[TargetRow]:
    """Texts with targets as a store of the scheme has them, of random numbers."""
    rng = np.random.default_rng(0)
    return [_random_row(rng, scheme, vocabulary, length) for length in _LENGTHS]


def _random_row(rng: np.random.Generator, scheme: str, vocabulary: int, length: int) -> TargetRow:
    targets, kept = length - 1, min(4, vocabulary)
    full, exact = scheme == "full", scheme in ("full", "hidden")
    weights_TK = rng.dirichlet(np.ones(kept + 1), targets).astype(np.float32)  # the last is the tail
    logits_TV = rng.normal(size=(targets, vocabulary))
    return TargetRow(
        prompt_uid="",
        tokens=rng.integers(0, vocabulary, length).astype(np.uint32),
        start=1,
        num_kept=np.full(targets, 0 if exact else kept, np.uint16),
        ids=np.concatenate([rng.permutation(vocabulary)[: 0 if exact else kept] for _ in range(targets)]).astype(
            np.uint32
        ),
        weights=np.zeros(0, np.float32) if exact else weights_TK[:, :kept].reshape(-1),
        tail=weights_TK[:, kept] if scheme == "topk" else np.zeros(0, np.float32),
        logprobs=(logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))).astype(np.float16) if full else None,
        entropy=np.ones(targets, np.float32),
        token_logprob=np.full(targets, -1.0, np.float32),
        hidden=rng.normal(size=(targets, _HIDDEN)).astype(np.float32) if scheme == "hidden" else None,
    )


def _positions(meta: Any) -> Positions | None:
    """Of a built model, its defaults included."""
    found = positions_of(meta.config.to_dict())
    if found is None:
        return None
    words = meta.get_input_embeddings()
    # Some have two rows more than positions (OPT).
    tables = [m for m in meta.modules() if isinstance(m, nn.Embedding) and m is not words]
    learned = any(found.held <= m.num_embeddings <= found.held + 2 for m in tables)
    return Positions(found.held, found.key, learned)


def _settings(where: str, model: ModelConfig) -> str:
    return f"{where}.model.config" if model.config is not None else f"{where}.model"


def _told(error: Exception) -> str:
    """An error as one line."""
    text = " ".join(str(error).split()).partition(" Model type should be one of")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
