"""examples/smollm2: upcycling, first routers and the held-out rule, on a tiny random Llama."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from support.comparing.tolerances import of_logits
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "smollm2"
# In the order of their imports: the scripts import each other by plain name.
MODULES = ("text", "upcycle", "router", "tune", "prepare_prompts")
LAYERS, WIDTH = 2, 32


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    """The example's modules by name; plain names such as `text` are taken back out of sys.modules."""
    before = {name: sys.modules.get(name) for name in MODULES}
    loaded: dict[str, ModuleType] = {}
    for name in MODULES:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield SimpleNamespace(**loaded)
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


@pytest.fixture(scope="module")
def dense() -> LlamaForCausalLM:
    """A random Llama with SmolLM2's peculiarities: grouped heads, tied embeddings, rope base 100000."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(1))


def token_rows(example: SimpleNamespace, low: int, high: int, count: int = 6) -> list:
    """Rows of random ids in [low, high): a stand-in for the text of one domain."""
    generator = torch.Generator().manual_seed(low)
    ids = torch.randint(low, high, (count, 16), generator=generator).tolist()
    return [example.text.Tokens(ids=row, prompt_start=2, answer_start=10) for row in ids]


def test_identical_experts_equal_dense(example: SimpleNamespace, dense: LlamaForCausalLM, tokens) -> None:
    _, relative = example.upcycle.identity_error(dense, 4, tokens)
    assert relative <= of_logits(1, LAYERS, 48)


def test_one_changed_expert_changes_the_logits(example: SimpleNamespace, dense, tokens) -> None:
    mlps = example.upcycle.mlps_of(dense)
    changed = {name: weight * 1.5 for name, weight in mlps.items()}
    routers = [torch.zeros(2, WIDTH)] * LAYERS
    moe = example.upcycle.upcycle(dense, [mlps, changed], routers)
    with torch.no_grad():
        difference = (moe(input_ids=tokens).logits - dense(input_ids=tokens).logits).abs().max()
    assert difference > 1e-2


def test_put_mlps_restores(example: SimpleNamespace, dense, tokens) -> None:
    origin = example.upcycle.mlps_of(dense)
    with torch.no_grad():
        before = dense(input_ids=tokens).logits
        example.upcycle.put_mlps(dense, {name: weight + 0.1 for name, weight in origin.items()})
        assert not torch.allclose(dense(input_ids=tokens).logits, before)
        example.upcycle.put_mlps(dense, origin)
        assert torch.equal(dense(input_ids=tokens).logits, before)


def test_biases_are_refused(example: SimpleNamespace, dense) -> None:
    config = LlamaConfig(**{**dense.config.to_dict(), "mlp_bias": True})
    with pytest.raises(ValueError, match="without biases"):
        example.upcycle.mixtral_config(config, 4, 2)


def test_folder_round_trip(example: SimpleNamespace, dense, tokens, tmp_path: Path) -> None:
    mlps = example.upcycle.mlps_of(dense)
    generator = torch.Generator().manual_seed(2)
    experts = [
        {name: w + 0.05 * torch.randn(w.shape, generator=generator) for name, w in mlps.items()} for _ in range(4)
    ]
    routers = [torch.randn(4, WIDTH, generator=generator) for _ in range(LAYERS)]
    moe = example.upcycle.upcycle(dense, experts, routers)
    moe.save_pretrained(tmp_path)
    reread = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(reread).__name__ == "MixtralForCausalLM"
    assert reread.config.tie_word_embeddings
    assert reread.config.rope_parameters["rope_theta"] == 100000.0
    assert (reread.config.num_local_experts, reread.config.num_experts_per_tok) == (4, 2)
    with torch.no_grad():
        found, expected = reread(input_ids=tokens).logits, moe(input_ids=tokens).logits
        assert torch.allclose(found, expected, rtol=0, atol=of_logits(expected.abs().max(), LAYERS, 48))


def test_first_routers_send_domains_to_their_experts(example: SimpleNamespace, dense) -> None:
    domains = [token_rows(example, low, low + 20) for low in (5, 35, 65)]
    inputs = [example.router.mlp_inputs(dense, rows, budget=10_000) for rows in domains]
    routers = example.router.first_routers(inputs, strength=2.0)
    assert [tuple(weight.shape) for weight in routers] == [(4, WIDTH)] * LAYERS
    assert all(torch.count_nonzero(weight[0]) == 0 for weight in routers)
    centre = torch.stack([domain.mean() for domain in inputs]).mean(0)
    for layer, weight in enumerate(routers):
        assert (weight.double() @ centre[layer]).abs().max() < 1e-4
        own = [weight[place].double() @ inputs[place - 1].mean()[layer] for place in (1, 2, 3)]
        assert torch.allclose(torch.stack(own), torch.full((3,), 2.0, dtype=torch.float64), atol=1e-3)

    moe = example.upcycle.upcycle(dense, [example.upcycle.mlps_of(dense)] * 4, routers)
    for place, rows in enumerate(domains, 1):
        places, weights = example.router.routing_shares(moe, rows)
        assert torch.allclose(places.sum(1), torch.ones(LAYERS)) and weights.shape == (LAYERS, 4)
        assert weights.mean(0).argmax() == place


def test_tuning_touches_only_what_it_names(example: SimpleNamespace, dense) -> None:
    mlps = example.upcycle.mlps_of(dense)
    moe = example.upcycle.upcycle(dense, [mlps] * 4, [torch.zeros(4, WIDTH)] * LAYERS)
    before = {name: weight.clone() for name, weight in moe.named_parameters()}
    domains = [token_rows(example, low, low + 20) for low in (5, 35, 65)]
    budget = example.tune.Budget(tokens=200, rate=1e-2, batch_tokens=48, longest=12)
    assert "tokens" in example.tune.tune_routers(moe, domains, budget, balance=0.1, seed=0)
    moved = {name for name, weight in moe.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {f"model.layers.{layer}.mlp.gate.weight" for layer in range(LAYERS)}


def test_heldout_rule(example: SimpleNamespace) -> None:
    rows = [{"id": f"row-{n}", "prompt": f"Say yes.\n\nclause {n}", "reference": "yes"} for n in range(40)]
    rows.append({"id": "copy", "prompt": "", "reference": "no"})
    expected = sorted((hashlib.sha256(row["id"].encode()).hexdigest(), row["id"]) for row in rows)[:7]
    ids = example.text.heldout_ids(rows, 7)
    assert ids == [name for _, name in expected]
    assert example.text.heldout_ids(rows[::-1], 7) == ids
    assert example.text.heldout_ids(rows, 5) == ids[:5]

    # A row about a held-out passage, under another instruction, must not be tuned on either.
    clause = ids[0].replace("row-", "clause ")
    rows[-1]["prompt"] = f"Say no.\n\n{clause}"
    assert "copy" not in ids
    kept, heldout = example.text.split_rows(rows, 7)
    assert [row["id"] for row in heldout] == ids
    assert not {row["id"] for row in kept} & {*ids, "copy"}
    assert len(kept) == len(rows) - 8
    with pytest.raises(ValueError, match="heldout 41"):
        example.text.heldout_ids(rows, 41)


def test_functions_split_into_header_and_body(example: SimpleNamespace) -> None:
    source = 'class A:\n    def f(self, x):\n        """Add one."""\n        # why\n        return x + 1\n'
    assert list(example.text.functions(source)) == [
        ('def f(self, x):\n    """Add one."""\n', "    # why\n    return x + 1\n")
    ]
    assert not list(example.text.functions("def g(x):\n    return x\n"))


def test_prompt_rows(example: SimpleNamespace) -> None:
    rows = [{"id": f"row-{n}", "prompt": f"question {n}", "reference": "yes"} for n in range(20)]
    kept, heldout = example.text.split_rows(rows, 4)
    written = example.prepare_prompts.prompt_rows("legal", kept, heldout, 0.25)
    assert len(written) == 20 and all(row["domain"] == "legal" for row in written)
    held = [row for row in written if row.get("split") == "heldout"]
    assert [row["id"] for row in held] == example.text.heldout_ids(rows, 4)
    assert not any("answer" in row for row in held)
    assert sum("answer" not in row for row in written) - len(held) == 4
