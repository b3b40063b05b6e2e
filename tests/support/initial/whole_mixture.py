"""What is done to a mixture of experts layer by layer, done to one that is whole in memory: references for tests, and
for a benchmark.

Legend: N tokens, D hidden size, K experts of a token.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from workers.student.models.dense_files import Mlp
from workers.student.models.dense_sibling import active_width, dense_config, expert_width
from workers.student.models.merged_experts import Seen, average, experts_of, neurons


@torch.no_grad()
def continue_whole(model: Any, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
    """Each prompt with up to `tokens` more, sampled at temperature 1 until a token that ends a text."""
    if not prompts:
        return []
    stops = model.generation_config.eos_token_id
    stops = torch.tensor([stops] if isinstance(stops, int) else stops or [], dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    longest = max(map(len, prompts))
    ids_BS = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask_BS = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    texts, live_B, cache = [list(p) for p in prompts], torch.ones(len(prompts), dtype=torch.bool), None
    for _ in range(tokens):
        places_BS = (mask_BS.cumsum(-1) - 1).clamp_min(0)[:, -ids_BS.shape[1] :]
        out = model(
            input_ids=ids_BS,
            attention_mask=mask_BS,
            position_ids=places_BS,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        ids_BS = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=generator)
        for row in live_B.nonzero().flatten().tolist():
            texts[row].append(int(ids_BS[row]))
        live_B &= ~torch.isin(ids_BS[:, 0], stops)
        if not live_B.any():
            break
        mask_BS = torch.cat([mask_BS, torch.ones(len(prompts), 1, dtype=torch.long)], 1)
    return texts


@torch.no_grad()
def merge_whole(moe: Any, how: str, width: int | None, texts: list[list[int]]) -> tuple[Any, dict[str, float]]:
    """The dense sibling in float32 that is nearest to a mixture, and the KL of each that was made."""
    seen = watch_whole(moe, [text for i, text in enumerate(texts) if i % 4] or texts)
    layers = [(experts_of(layer), sample) for layer, sample in zip(moe.get_decoder().layers, seen, strict=True)]
    made: dict[str, Any] = {}
    if how != "neurons":
        made["average"] = dense_of(moe, expert_width(moe.config.to_dict()), [average(*layer) for layer in layers])
    if how != "average":
        wide = width or active_width(moe.config.to_dict())
        made["neurons"] = dense_of(moe, wide, [neurons(*layer, wide) for layer in layers])
    kl = {name: mean_kl(moe, dense, texts[::4]) for name, dense in made.items()}
    return made[min(kl, key=kl.__getitem__)], kl


def dense_of(moe: Any, width: int, mlps: list[Mlp]) -> Any:
    """The mixture's dense sibling with these MLPs and all else as it is, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**dense_config(moe.config.to_dict(), width))
    dense = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {name: weight for name, weight in moe.state_dict().items() if name in dense.state_dict()}
    for i, mlp in enumerate(mlps):
        of_layer = f"{dense.base_model_prefix}.layers.{i}.mlp"
        state |= {f"{of_layer}.gate_proj.weight": mlp.gate_WD, f"{of_layer}.up_proj.weight": mlp.up_WD}
        state[f"{of_layer}.down_proj.weight"] = mlp.down_DW
    dense.load_state_dict(state)
    dense.generation_config = copy.deepcopy(moe.generation_config)
    return dense


@torch.no_grad()
def watch_whole(moe: Any, texts: list[list[int]]) -> list[Seen]:
    """What passes through the experts of every layer on some texts."""
    calls: list[list[Seen]] = []
    hooks = []
    for layer in moe.get_decoder().layers:
        mine: list[Seen] = []
        calls.append(mine)

        def note(_: Any, args: tuple[Tensor, Tensor, Tensor], y_ND: Tensor, mine: list[Seen] = mine) -> None:
            x_ND, expert_NK, weight_NK = args
            mine.append(Seen(x_ND, y_ND.reshape(x_ND.shape), expert_NK, weight_NK))

        hooks.append(experts_of(layer).register_forward_hook(note))
    try:
        for text in texts:
            moe.get_decoder()(input_ids=torch.tensor([text]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    parts = ("x_ND", "y_ND", "expert_NK", "weight_NK")
    return [Seen(*(torch.cat([getattr(s, part) for s in mine]) for part in parts)) for mine in calls]


@torch.no_grad()
def mean_kl(whole: Any, other: Any, texts: list[list[int]]) -> float:
    """Mean KL(whole || other) in nats a token."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([text])
        p, q = (model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1) for model in (whole, other))
        total += float((p.exp() * (p - q)).sum())
        tokens += len(text)
    return total / tokens
