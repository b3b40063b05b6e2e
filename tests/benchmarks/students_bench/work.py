"""What every rival does in the same way: the models, the texts, and a store of the teacher's targets for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from cluster.storage import LocalStorage
from workers.logit_map import LogitMap
from workers.splits import TRAIN
from workers.targets.commits.log import Entry
from workers.targets.config import Precision, Scheme
from workers.targets.encoding.schema import StoreHeader
from workers.targets.heads import TeacherHead
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.sampling.capture import CaptureBuffer
from workers.units import Unit, UnitPlan

DRAWS = 21
KEPT: dict[str, tuple[Scheme, Precision]] = {"hidden_bf16": ("hidden", "bfloat16")}
"""Stores that are not just called by their scheme, in float32."""
_SHARPEN = 12.0
"""What makes a random teacher's distributions about as sharp as a real one's (2 nats, 9 kept ids)."""


def qwen3(layers: int, width: int, vocabulary: int) -> Any:
    """A random dense model."""
    torch.manual_seed(layers)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            head_dim=64,
            tie_word_embeddings=False,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=None,
        )
    ).float()


def make_work(folder: Path, vocabulary: int, *, texts: int, tokens: int, schemes: list[str]) -> Path:
    """Student, teacher, `texts.json` and a store for each scheme (or name in KEPT), in a folder."""
    qwen3(4, 256, vocabulary).save_pretrained(folder / "student")
    teacher = qwen3(8, 512, vocabulary)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(_SHARPEN)
    teacher.save_pretrained(folder / "teacher")
    ids = np.random.default_rng(0).integers(3, vocabulary, (texts, tokens)).tolist()
    (folder / "texts.json").write_text(json.dumps(ids))
    for name in schemes:
        fill_store(folder / name, teacher, ids, vocabulary, *KEPT.get(name, (name, "float32")))
    return folder


@torch.no_grad()
def fill_store(
    folder: Path, teacher: Any, texts: list[list[int]], vocabulary: int, scheme: Any, precision: Precision
) -> None:
    """One unit for four texts, every position of them, by the teacher's own capture."""
    store = TargetStore(LocalStorage(folder), TRAIN)
    store.create(
        StoreHeader(scheme, DRAWS, "all", precision, vocabulary, "", "", 0, top_k=64 if scheme == "topk" else 0)
    )
    spec = CaptureSpec(scheme, DRAWS, "all", precision, vocabulary, 0, top_k=store.header.top_k)
    head = TeacherHead(teacher.lm_head.weight.to(getattr(torch, precision)), None, LogitMap())
    store.storage.write(store.head_key("teacher"), head.to_bytes())
    for unit, block in enumerate(texts[i : i + 4] for i in range(0, len(texts), 4)):
        requests = [TextRequest(f"{unit}.{r}", 0, text[:1], text[1:]) for r, text in enumerate(block)]
        buffer, ids = CaptureBuffer(requests, spec), torch.tensor(block)
        hidden = teacher.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        for r in range(len(block)):
            positions = np.arange(1, ids.shape[1])
            buffer.add(np.full(len(positions), r), positions, teacher.lm_head(hidden[r]), ids[r, 1:], hidden[r])
        targets = buffer.finish(block, [1] * len(block))
        targets.texts, targets.ends = [""] * len(block), np.zeros(ids.numel(), np.uint32)
        facts = {"teacher": "teacher", "teacher_fingerprint": "", "epoch": 1, "started": 0.0, "finished": 0.0}
        assert store.log.commit(Entry.of(unit, store.write_part(unit, targets), targets, **facts))


def plan_of(folder: Path, scheme: str) -> tuple[TargetStore, UnitPlan]:
    """The store of a scheme and its plan."""
    store = TargetStore(LocalStorage(folder / scheme), TRAIN)
    units = sorted({e.unit for e in store.log.entries()})
    return store, UnitPlan(TRAIN, tuple(Unit(u, ("all",), "teacher", 4, 100, True) for u in units))
