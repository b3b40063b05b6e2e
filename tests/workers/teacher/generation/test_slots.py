"""Slots hold what was put into them, however texts come and go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.cache_utils import DummyLayer, DynamicLayer, LinearAttentionLayer

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
        found_keys, found_values = cache.update(keys, -keys, layer)
        seen.append((found_keys.clone(), found_values.clone()))  # `advance` may move them
    return seen


ANSWER = 40


@pytest.mark.parametrize("most", [None, 100, 200, 350])
def test_texts_come_and_go_and_keep_their_keys(most: int | None) -> None:
    """Hundreds of joins, steps and departures against plain lists. Where memory is bounded, texts that would find none
    at their longest do not join, and no memory beyond it is made."""
    rng = np.random.default_rng(0)
    cache, texts, lengths, name = SlotCache(5, 1, most=most), [], {}, 0
    ends: dict[int, int] = {}
    for _ in range(300):
        assert most is None or cache.rows * cache.columns <= most
        free = 5 - len(texts)
        prompts = rng.integers(1, 30, rng.integers(1, free + 1)).tolist() if free else []
        to_come = max([ANSWER, *(ends[n] - lengths[n] for n in texts)])
        for _ in range(len(prompts)):
            room = (len(texts) + len(prompts)) * cache.columns_for(max(prompts), to_come)
            if most is not None and room > most:
                prompts.pop()
        if prompts and (not texts or rng.random() < 0.2):
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
            ends.update((n, p + ANSWER) for n, p in zip(names, prompts, strict=True))
        elif texts:
            mask = cache.mask(torch.tensor(cache.first), 1)
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
                if rng.random() < 0.1 or lengths[texts[row]] == ends[texts[row]]:
                    cache.leave(row)
                    texts[row] = texts[-1]
                    texts.pop()
    assert name > (50 if most is None else 20)
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


def state_of(name: int, tokens: int) -> torch.Tensor:
    """What a text's sum over its first tokens is [size]."""
    return torch.arange(SIZE) + 1000.0 * name + 10 * tokens


def test_states_are_rows_that_texts_take_along() -> None:
    """A layer of states between two of keys and values, one text of each prompt in several slots."""
    rng = np.random.default_rng(1)
    like = [DynamicLayer(), LinearAttentionLayer(), DummyLayer(), DynamicLayer()]
    cache, texts, lengths, prompts = SlotCache(6, 1, like), [], {}, 0
    for _ in range(300):
        if len(texts) < 4:
            names, P = [2 * prompts, 2 * prompts + 1], int(rng.integers(1, 9))
            prompts += 1
            other = SlotCache(1, P + 1, like)
            other.first = [0]
            for layer in (0, 3):
                other.update(torch.ones(1, HEADS, P, SIZE), torch.ones(1, HEADS, P, SIZE), layer)
            other.update_conv_state(torch.full((1, 2, P), float(names[0])), 1, conv_kernel_size=3)
            other.update_recurrent_state(state_of(names[0], P)[None], 1)
            other.advance(P)
            cache.join(other, [0, 0])
            texts += names
            lengths.update(dict.fromkeys(names, P))
            cache.update_recurrent_state(torch.stack([state_of(n, lengths[n]) for n in texts]), 1)
        for layer in (0, 3):
            cache.update(torch.ones(len(texts), HEADS, 1, SIZE), torch.ones(len(texts), HEADS, 1, SIZE), layer)
        cache.advance(1)
        expected = torch.stack([state_of(n, lengths[n]) for n in texts])
        assert torch.equal(cache.get_recurrent_state(1), expected)
        conv = cache.get_conv_state(1)
        assert conv.shape == (len(texts), 2, 3) and conv[:, 0, -1].tolist() == [float(n - n % 2) for n in texts]
        for n in texts:
            lengths[n] += 1
        cache.update_recurrent_state(torch.stack([state_of(n, lengths[n]) for n in texts]), 1)
        for row in reversed(range(len(texts))):
            if rng.random() < 0.1:
                cache.leave(row)
                texts[row] = texts[-1]
                texts.pop()
    assert prompts > 30
