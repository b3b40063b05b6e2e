"""Slots hold what was put into them, however texts come and go."""

from __future__ import annotations

import numpy as np
import torch

from workers.teacher.generation.slots import SlotCache

LAYERS, HEADS, SIZE = 2, 2, 3


def key_of(name: int, token: int, layer: int) -> torch.Tensor:
    """What the keys of a token of a text are [heads, size]; values are their negatives."""
    return torch.full((HEADS, SIZE), 1.0 + 1000 * name + 10 * token + layer)


def write(cache: SlotCache, tokens: list[list[tuple[int, int]]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A forward pass over tokens (text, number) of each row; returns what each layer's attention sees."""
    seen = []
    for layer in range(LAYERS):
        rows = [torch.stack([key_of(*t, layer) for t in row], 1) for row in tokens]  # [heads, q, size]
        keys = torch.stack(rows)
        seen.append(cache.update(keys, -keys, layer))
    return seen


def test_texts_come_and_go_and_keep_their_keys() -> None:
    """Hundreds of joins, steps and departures against plain lists."""
    rng = np.random.default_rng(0)
    cache, texts, lengths, name = SlotCache(5, 1), [], {}, 0
    for _ in range(300):
        free = cache.rows - len(texts)
        if free and (not texts or rng.random() < 0.2):
            prompts = rng.integers(1, 30, rng.integers(1, free + 1)).tolist()
            names, name = list(range(name, name + len(prompts))), name + len(prompts)
            longest = max(prompts)
            other = SlotCache(len(prompts), longest + 1)
            other.first = [longest - p for p in prompts]
            write(
                other,
                [[(-1, 0)] * (longest - p) + [(n, t) for t in range(p)] for n, p in zip(names, prompts, strict=True)],
            )
            other.advance(longest)
            cache.join(other, list(range(len(prompts))))
            texts += names
            lengths.update(zip(names, prompts, strict=True))
        else:
            mask = cache.mask(1)
            seen = write(cache, [[(n, lengths[n])] for n in texts])
            cache.advance(1)
            for n in texts:
                lengths[n] += 1
            for layer, (keys, values) in enumerate(seen):
                assert keys.shape[2] == mask.shape[1]
                for row, n in enumerate(texts):
                    expected = torch.stack([key_of(n, t, layer) for t in range(lengths[n])], 1)
                    assert torch.equal(keys[row][:, mask[row].bool()], expected)
                    assert torch.equal(values[row][:, mask[row].bool()], -expected)
            for row in reversed(range(len(texts))):
                if rng.random() < 0.1:
                    cache.leave(row)
                    texts[row] = texts[-1]
                    texts.pop()
    assert name > 50
    assert cache.columns < 400  # columns that nobody needs are given up


def test_one_prompt_fills_several_slots() -> None:
    cache, prompt = SlotCache(3, 1), SlotCache(1, 5)
    prompt.first = [0]
    write(prompt, [[(7, t) for t in range(4)]])
    prompt.advance(4)
    cache.join(prompt, [0, 0, 0])
    seen = write(cache, [[(n, 4)] for n in range(3)])
    assert torch.equal(seen[0][0][0][:, :4], seen[0][0][2][:, :4])
    assert not torch.equal(seen[0][0][0][:, 4], seen[0][0][2][:, 4])
