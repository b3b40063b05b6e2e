"""Make what the example needs: prompts of two generations, and the second one's teacher.

    python examples/generations/make.py [--steps 200]

Prompts of the first generation ask about the diseases (claims, errors) whose facts stay, those of the second about the
ones whose facts have changed. The first teacher is the quickstart's. The second is the same trained on for some minutes
with texts of the language as it is now: on everything, so that it still knows what has not changed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import revised
import torch
from torch.nn.functional import log_softmax

sys.path.insert(0, str(revised.QUICKSTART))
import train_teacher

HERE = Path(__file__).parent
TRAINING, HELDOUT = 200, 40  # prompts of a domain in each generation


def prompts(domain: str, subjects: Sequence[str], seed: int) -> list[dict[str, str]]:
    """Questions about some subjects, each pair of attributes and phrasing at most once; the last are held out."""
    language, rng = revised.language, random.Random(f"{seed}/{domain}/{subjects[0]}")
    first, second = language.FACTS[domain]["attributes"]
    asked = list(product(subjects, language.names(domain, second), language.names(domain, "phrasing")))
    rng.shuffle(asked)
    rows = []
    for number, (subject, other, phrasing) in enumerate(asked[: TRAINING + HELDOUT]):
        ids = language.sample(domain, rng, {first: subject, second: other, "phrasing": phrasing})
        rows.append(
            {"id": f"{domain}-{subject}-{number:03d}", "prompt": language.decode(ids[: language.prompt_length(ids)])}
        )
        rows[-1] |= {"split": "heldout"} if number >= TRAINING else {}
    return rows


def train_on(steps: int, seed: int, peak: float) -> train_teacher.Qwen3MoeForCausalLM:
    """The quickstart's teacher after `steps` steps on the language as it is now, at a rate that falls to nothing."""
    torch.manual_seed(seed)
    model = train_teacher.Qwen3MoeForCausalLM.from_pretrained(revised.QUICKSTART / "teacher", dtype=torch.float32)
    optimiser, rng = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98)), random.Random(seed)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 20) * (1 - step / steps)
        ids, mask, target = train_teacher.batch(rng, train_teacher.TEXTS_PER_STEP)
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1][mask[:, 1:]]
        loss = -(target * log_softmax(logits, dim=-1)).sum(-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            excess = loss.item() + torch.xlogy(target, target).sum(-1).mean().item()
            print(f"step {step}: {excess:.4f} nats a token from the truth", flush=True)
    return model


def main() -> None:
    """Write prompts/ and next_teacher/ beside this file, or below `--out`."""
    parser = argparse.ArgumentParser(description="Make the prompts and the second teacher of the example.")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--peak", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for generation in (1, 2):
        folder = args.out / "prompts" / str(generation)
        folder.mkdir(parents=True, exist_ok=True)
        for domain in revised.language.DOMAINS:
            rows = prompts(domain, revised.subjects(domain)[generation - 1], args.seed)
            (folder / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train_teacher.language = revised.language  # what its batches are drawn from
    train_teacher.save(train_on(args.steps, args.seed, args.peak), args.out / "next_teacher")


if __name__ == "__main__":
    main()
