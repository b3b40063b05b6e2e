"""Train the quickstart's teacher: a small Qwen3 mixture of experts that knows all three domains.

    python examples/quickstart/train_teacher.py [--out examples/quickstart/teacher] [--seed 0]

The teacher learns from fresh texts of the language, from everything the specialists will not be shown as
well: all pairs of attributes, all phrasings, the withheld words. Its targets are the exact next-token
distributions instead of the sampled tokens. That is a shortcut to a good teacher within minutes, and it is
open to nobody who has only text; the product takes the teacher as given.

Weights are saved in float16 to keep the checkout small, and measured after that round trip.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import language
import numpy as np
import torch
from tokenizer_files import save_tokenizer
from torch.nn.functional import log_softmax
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

HERE = Path(__file__).parent
EXPERTS, EXPERTS_PER_TOKEN = 8, 2
TEXTS_PER_STEP = 48  # a third from each domain; about 2,300 tokens
BALANCE = 0.01  # weight of the load-balancing loss


def teacher_config() -> Qwen3MoeConfig:
    """About 2.4 M parameters, every layer sparse."""
    return Qwen3MoeConfig(
        vocab_size=len(language.VOCABULARY), hidden_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=128,
        intermediate_size=384, moe_intermediate_size=224, num_experts=EXPERTS,
        num_experts_per_tok=EXPERTS_PER_TOKEN, norm_topk_prob=True, decoder_sparse_step=1,
        router_aux_loss_coef=BALANCE, tie_word_embeddings=True, use_cache=True,
        bos_token_id=language.IDS["<bos>"], eos_token_id=language.EOS, pad_token_id=language.IDS["<pad>"],
    )  # fmt: skip


def batch(rng: random.Random, texts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fresh texts, padded: ids [texts, length], mask [texts, length], and the truth of every token after
    the first, [targets, vocabulary] in the order of the mask's true places."""
    domains = [language.DOMAINS[i % len(language.DOMAINS)] for i in range(texts)]
    samples = [language.sample(domain, rng) for domain in domains]
    length = max(map(len, samples))
    ids = torch.zeros(texts, length, dtype=torch.long)
    mask = torch.zeros(texts, length, dtype=torch.bool)
    for row, tokens in enumerate(samples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = True
    rows = [language.truth(domain, tokens, 1) for domain, tokens in zip(domains, samples, strict=True)]
    return ids, mask, torch.from_numpy(np.concatenate(rows).astype(np.float32))


def train(steps: int, seed: int, peak: float) -> Qwen3MoeForCausalLM:
    """Train for `steps` optimiser steps: warm-up over 5 %, then a cosine down to nothing."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = Qwen3MoeForCausalLM(teacher_config())
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    begun = time.monotonic()
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / (0.05 * steps)), step / steps
        optimiser.param_groups[0]["lr"] = peak * warm * 0.5 * (1 + math.cos(math.pi * done))
        ids, mask, target = batch(rng, TEXTS_PER_STEP)
        out = model(input_ids=ids, attention_mask=mask.long(), output_router_logits=True, use_cache=False)
        logits = out.logits[:, :-1][mask[:, 1:]]
        loss = -(target * log_softmax(logits, dim=-1)).sum(-1).mean()
        balance = load_balancing_loss_func(out.router_logits, EXPERTS, EXPERTS_PER_TOKEN, mask.long())
        optimiser.zero_grad(set_to_none=True)
        (loss + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            excess = loss.item() + torch.xlogy(target, target).sum(-1).mean().item()
            print(f"step {step} excess {excess:.4f} balance {balance.item():.3f} "
                  f"seconds {time.monotonic() - begun:.0f}", flush=True)  # fmt: skip
    return model


@torch.no_grad()
def measure(model: Qwen3MoeForCausalLM, domain: str, texts: int, seed: int) -> dict[str, float | list[float]]:
    """Nats per answer token over fresh texts: entropy, KL(truth || teacher), KL(truth || unigram); and the
    share of tokens each expert takes, averaged over layers."""
    rng = random.Random(f"{seed}/{domain}")
    counts = np.full(len(language.VOCABULARY), 1e-3)
    sums, taken, tokens = np.zeros(2), torch.zeros(EXPERTS), 0
    truths = []
    for text in (language.sample(domain, rng) for _ in range(texts)):
        start = language.prompt_length(text)
        true = language.truth(domain, text, start)
        out = model(input_ids=torch.tensor([text]), output_router_logits=True, use_cache=False)
        model_log = log_softmax(out.logits[0, start - 1 : -1].double(), dim=-1).numpy()
        entropy = -np.sum(true * np.log(np.where(true > 0, true, 1.0)))
        sums += [entropy, -np.sum(true * model_log) - entropy]
        for router in out.router_logits:
            taken += torch.bincount(router.topk(EXPERTS_PER_TOKEN).indices.flatten(), minlength=EXPERTS)
        np.add.at(counts, text[start:], 1)
        truths.append(true.sum(0))
        tokens += len(true)
    unigram = -np.sum(np.sum(truths, axis=0) * np.log(counts / counts.sum())) - sums[0]
    return {
        "entropy": sums[0] / tokens, "kl": sums[1] / tokens, "unigram": unigram / tokens,
        "experts": (taken / taken.sum()).tolist(),
    }  # fmt: skip


def save(model: Qwen3MoeForCausalLM, folder: Path) -> None:
    """Save weights in float16, and the tokenizer. The configuration asks for float32, which CPUs are best at
    and which the half-precision weights are widened to when they are loaded."""
    model.half().save_pretrained(folder)
    save_tokenizer(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    (folder / "model.safetensors").chmod(0o644)  # the library leaves it to its owner alone


def main() -> None:
    """Train, save, load again in float32, and print what the saved teacher knows."""
    parser = argparse.ArgumentParser(description="Train the quickstart's teacher.")
    parser.add_argument("--out", type=Path, default=HERE / "teacher")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--peak", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    save(train(args.steps, args.seed, args.peak), args.out)
    saved = Qwen3MoeForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    print(f"{sum(p.numel() for p in saved.parameters()):,} parameters")
    for domain in language.DOMAINS:
        found = measure(saved, domain, texts=300, seed=args.seed + 1)
        shares = " ".join(f"{share:.3f}" for share in found["experts"])
        print(f"{domain}: entropy {found['entropy']:.4f}, KL(truth||teacher) {found['kl']:.4f}, "
              f"KL(truth||unigram) {found['unigram']:.3f} nats a token; experts {shares}")  # fmt: skip


if __name__ == "__main__":
    main()
