"""Texts of 32k tokens, and students of the size that they are for: a store keeps them, and a step goes through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_gradients, of_logits
from torch import Tensor

from cluster.storage import LocalStorage
from workers.logit_map import LogitMap
from workers.student.batches.batching import micro_batches
from workers.student.batches.packing import Texts
from workers.student.layers.recomputing import recompute
from workers.student.losses.config import LossConfig
from workers.student.losses.fused import HeadTargets
from workers.student.models.packed_attention import NAME
from workers.student.models.student_model import DistillationModel, LossHead
from workers.student.trial.building import on_meta
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import rows_of
from workers.targets.store import TargetStore

V, LONG = 48, 32_768


def config(**sizes: int) -> Any:
    from transformers import AutoConfig

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 2 * LONG}
    return AutoConfig.for_model("qwen3", **{"vocab_size": V, **small, **heads, **sizes})


def small_model() -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(), dtype=torch.float32).train()


def on_meta_device(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("lengths", [(LONG,), (20_000, 5_000, 7_768)], ids=str)
def test_a_step_of_an_8b_model_has_no_shape_that_hangs_on_numbers(lengths: tuple[int, ...]) -> None:
    """As wide as Qwen3-8B, with 151,936 ids and every other layer recomputed, on tensors that have no numbers: whatever
    would be read off a GPU on the way raises here."""
    model, P = DistillationModel(small_model()), sum(lengths)
    wide = {"vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "head_dim": 128}
    large = on_meta(config(**wide, num_hidden_layers=4, num_attention_heads=32, num_key_value_heads=8))
    large = large.to(torch.bfloat16).train()
    large.set_attn_implementation(NAME)
    recompute(large, 0.5)
    # What its head can do was tried on the small one: a probe compares numbers.
    model.causal_lm, model.loss_head = large, LossHead(large.get_output_embeddings(), None, LogitMap(), 1.0)
    T = P - len(lengths)
    ids = on_meta_device(T, 20, dtype=torch.int64)
    targets = HeadTargets(ids[:, 0], on_meta_device(T), on_meta_device(T), ids, on_meta_device(T, 20))
    ids_1P, place_1P = (on_meta_device(1, P, dtype=torch.int64) for _ in range(2))
    loss = model(Texts(ids_1P, None, lengths, on_meta_device(T, dtype=torch.int64), place_1P), targets)
    loss.backward()
    assert loss.shape == () and loss.dtype == torch.float32
    for name, parameter in large.named_parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape, name


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["systematic", "topk"])
def test_a_text_of_32k_targets_is_stored_and_learned_from(
    scheme: str,
    tmp_path: Any,
    make_header: Callable[..., StoreHeader],
    make_targets: Callable[..., UnitTargets],
    commit: Callable[[TargetStore, int, UnitTargets], bool],
) -> None:
    """Beside short ones, with micro-batches that are smaller: loss and gradients are those of whole distributions."""
    header = make_header(scheme=scheme, vocabulary=V, **({"top_k": 4} if scheme == "topk" else {}))
    unit = make_targets(header, np.random.default_rng(0), ["a", "b", "c"], [7, LONG + 1, 30], [2, 1, 1])
    store = TargetStore(LocalStorage(tmp_path), "train")
    store.create(header)
    assert commit(store, 0, unit)
    rows = rows_of(store.read_unit(store.log.entries()[0]), header)
    assert [row.targets for row in rows] == [5, LONG, 29]
    loss_config, own, whole = LossConfig(ce=0.5), DistillationModel(small_model()), small_model().double()
    batches = micro_batches(rows, loss_config, 8_192)
    assert [len(batch.texts.lengths or ()) for batch in batches] == [1, 2]
    total = sum((own(batch.texts, batch.targets) for batch in batches), torch.zeros(()))
    total.backward()
    expected = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        ids_P, first = batch.texts.input_BS[0], 0
        logits = []
        for n in batch.texts.lengths or ():
            logits.append(whole(input_ids=ids_P[None, first : first + n], use_cache=False).logits[0])
            first += n
        logp_TV = torch.cat(logits)[batch.texts.positions_T].log_softmax(-1)
        expected = expected + by_definition(logp_TV, batch.targets)
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=of_logits(1, layers=1, width=LONG))
    for (name, mine), theirs in zip(own.causal_lm.named_parameters(), whole.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None, name
        tolerance = of_gradients(theirs.grad.abs().max(), layers=1, width=LONG)
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0, atol=tolerance, msg=name)


def by_definition(logp_TV: Tensor, targets: HeadTargets) -> Tensor:
    """Cross-entropies of labels and of kept ids, and of what is beyond them as one outcome."""
    assert targets.ids_TK is not None and targets.weights_TK is not None and targets.soft_T is not None
    loss_T = -targets.hard_T * logp_TV.gather(1, targets.labels_T[:, None])[:, 0]
    soft_T = -(targets.weights_TK * logp_TV.gather(1, targets.ids_TK)).sum(-1)
    if targets.tail_T is not None:
        kept_TV = torch.zeros_like(logp_TV, dtype=torch.bool).scatter(1, targets.ids_TK, True)
        soft_T = soft_T - targets.tail_T * logp_TV.masked_fill(kept_TV, -torch.inf).logsumexp(-1)
    return (loss_T + targets.soft_T * soft_T).sum()
