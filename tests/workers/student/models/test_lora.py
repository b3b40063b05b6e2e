"""Adapters trained over two workers at each ZeRO stage, against peft and torch's AdamW in a plain loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.comparing.tolerances import LOSSES, of_gradients, of_logits
from support.initial.weights import make_initial
from support.small_students import MIX, assert_trained_alike, fill_store, life, live

from cluster.storage import LocalStorage
from orchestrator.preflight.memory import linear_layers
from workers.manifest import read_plan
from workers.student.config import LoraConfig, LossConfig, ModelConfig, TrainConfig
from workers.student.models.lora import add_adapters, merge_adapters
from workers.student.models.student_model import ready_to_train
from workers.student.training.schedule import learning_rate
from workers.targets.contract import Contract
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetStream
from workers.targets.store import TargetStore

V, STEPS, BATCH, SEED = 300, 4, 120, 5
TEXTS = np.random.default_rng(0).integers(3, V, (3, 12)).tolist()
LORA = LoraConfig(rank=4, alpha=12)
SOME = LoraConfig(rank=2, alpha=3, dropout=0.3, targets=["q_proj", "down_proj"])
TRAIN: dict[str, Any] = {
    "batch_tokens": BATCH,
    "micro_tokens": 48,
    "lr": 1e-2,
    "weight_decay": 0.1,
    "clip": 0.2,
    "workers": 2,
    "checkpoint_steps": 2,
}


@dataclass
class Trained:
    """The run's folder, and what the plain loop found."""

    root: Path
    losses: list[float]
    weights: dict[str, torch.Tensor]


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(TEXTS), use_cache=False).logits


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def plain_training(storage: LocalStorage, initial: Path) -> tuple[int, list[float], dict[str, torch.Tensor]]:
    """The budget, mean KL to the targets by step, and peft's own merge after the last; one text at a time."""
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel, get_peft_model

    stream = TargetStream(TargetStore(storage, "train"), read_plan(storage, "train"), MIX, SEED)
    batches = [stream.next_batch(BATCH) for _ in range(STEPS)]
    budget = sum(r.targets for rows in batches for r in rows)
    train = TrainConfig(tokens=budget, **TRAIN)
    first = load(initial)
    add_adapters(first, LORA, SEED)
    kind = PeftConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    model: PeftModel = get_peft_model(load(initial), kind)
    named = {n.removeprefix("base_model.model."): p for n, p in model.named_parameters() if p.requires_grad}
    drawn = {n: p for n, p in first.named_parameters() if p.requires_grad}
    assert named.keys() == drawn.keys()
    for name, parameter in named.items():
        parameter.data.copy_(drawn[name].data)
    optimizer = torch.optim.AdamW(named.values(), betas=train.betas, weight_decay=train.weight_decay)
    losses, spent = [], 0
    for rows in batches:
        targets, total = sum(r.targets for r in rows), torch.zeros(())
        for row in rows:
            ids = torch.from_numpy(row.tokens.astype(np.int64))
            logp_TV = model(input_ids=ids[None, :-1]).logits[0, row.start - 1 :].log_softmax(-1)
            rows_N = torch.from_numpy(np.repeat(np.arange(row.targets), row.num_kept))
            picked_N = logp_TV[rows_N, torch.from_numpy(row.ids.astype(np.int64))]
            total = total - (torch.from_numpy(row.weights) * picked_N).sum()
        optimizer.zero_grad()
        (total / targets).backward()
        torch.nn.utils.clip_grad_norm_(named.values(), train.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spent / budget, train.lr, train.schedule, train.warmup, train.decay)
        optimizer.step()
        losses.append(total.item() / targets - sum(float(r.entropy.astype(np.float64).sum()) for r in rows) / targets)
        spent += targets
    return budget, losses, {k: v.detach() for k, v in model.merge_and_unload().state_dict().items()}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Any],
    make_header: Callable[..., StoreHeader],
    make_targets: Callable[..., UnitTargets],
    commit: Callable[[TargetStore, int, UnitTargets], bool],
) -> Trained:
    """One pair of processes trains adapters with ZeRO 1, 2 and 3, and goes on from checkpoints; then one alone does."""
    root = tmp_path_factory.mktemp("run")
    storage = LocalStorage(root)
    fill_store(storage, make_header(vocabulary=V), make_targets, commit)
    tiny_model("qwen3", initializer_range=0.1).save_pretrained(root / "initial")
    budget, losses, weights = plain_training(storage, root / "initial")
    header = TargetStore(storage, "train").header

    def job(name: str, zero: int | str, lora: LoraConfig, **extra: Any) -> dict[str, Any]:
        return {
            "name": name,
            "run_uri": str(root),
            "initial": "initial",
            "mix": MIX,
            "loss": LossConfig().model_dump(),
            "train": {**TRAIN, "tokens": budget, "zero": zero},
            "seed": SEED,
            "declared": vars(Contract.of(header)),
            "epoch": 1,
            "board": "",
            "lora": lora.model_dump(),
            **extra,
        }

    lives = [life(job(f"zero-{zero}", zero, LORA, snapshots={"at_control_tokens": budget})) for zero in (1, 3)]
    lives += [life(job(f"some-{zero}", zero, SOME, snapshots={"at_control_tokens": BATCH})) for zero in (1, 3)]
    lives += [life(job(f"resumed-{zero}", zero, SOME), after=(f"some-{zero}", 2)) for zero in (1, 3)]
    lives += [life(job("alone", "auto", LORA), 1), life(job("some-auto", "auto", SOME), 1)]
    lives += [life(job("resumed-auto", "auto", SOME), 1, after=("some-auto", 2))]
    lives += [life(job("shrunk", "auto", LORA), 1, after=("zero-1", 2))]
    live(root, lives)
    return Trained(root, losses, weights)


def history(root: Path, name: str) -> list[dict[str, float]]:
    return json.loads((root / "students" / name / "done.json").read_text())["history"]


@pytest.mark.parametrize("name", ["zero-1", "zero-3", "alone", "shrunk"])
def test_losses_and_merged_weights_are_those_of_peft_in_a_plain_loop(name: str, trained: Trained) -> None:
    losses = [s["loss"] for s in history(trained.root, name)]
    assert len(losses) == STEPS and abs(losses[0] - losses[-1]) > 0.01
    np.testing.assert_allclose(losses, trained.losses, rtol=0, atol=LOSSES)
    first, final = (load(trained.root / folder).state_dict() for folder in ("initial", f"students/{name}/final"))
    assert_trained_alike(final, trained.weights, first)


@pytest.mark.parametrize("name, targets", [("zero-1", None), ("zero-3", None), ("some-1", {"q_proj", "down_proj"})])
def test_linear_layers_change_and_nothing_else_does(name: str, targets: set[str] | None, trained: Trained) -> None:
    first = load(trained.root / "initial").state_dict()
    final = load(trained.root / "students" / name / "final").state_dict()
    changed = {key for key in first if not torch.equal(first[key], final[key])}
    linear = {key for key in first if key.endswith("_proj.weight")}
    assert changed == {key for key in linear if targets is None or key.split(".")[-2] in targets}


@pytest.mark.parametrize("zero", [1, 3, "auto"])
def test_a_resumed_training_is_one_never_stopped_dropout_and_all(zero: int | str, trained: Trained) -> None:
    assert history(trained.root, f"resumed-{zero}") == history(trained.root, f"some-{zero}")
    for file in ("final/model.safetensors", "adapter/adapter_model.safetensors"):
        whole, resumed = (trained.root / "students" / f"{name}-{zero}" / file for name in ("some", "resumed"))
        assert whole.read_bytes() == resumed.read_bytes()


@pytest.mark.parametrize("name", ["zero-1", "zero-3", "some-1"])
def test_peft_loads_the_adapter_beside_the_model_and_finds_the_same(name: str, trained: Trained) -> None:
    from peft import PeftModel

    student = trained.root / "students" / name
    settings = json.loads((student / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "initial"
    adapted = PeftModel.from_pretrained(load(trained.root / "initial"), student / "adapter")
    final = logits_of(load(student / "final"))
    torch.testing.assert_close(logits_of(adapted), final, rtol=0, atol=of_logits(final.abs().max()))
    assert (final - logits_of(load(trained.root / "initial"))).abs().max() > 1e-2


@pytest.mark.parametrize("zero", [1, 3])
def test_a_snapshot_is_a_model_with_the_adapter_of_its_step_in_it(zero: int, trained: Trained) -> None:
    """After the last step it is the final one. The adapter beside the model stays the final one's, and what was drawn
    for dropout, the same: `some` is compared with `resumed`, which has no snapshot."""
    last, early = (trained.root / "students" / f"{name}-{zero}" for name in ("zero", "some"))
    for file in (last / "final").iterdir():
        assert (last / "at_control_tokens" / file.name).read_bytes() == file.read_bytes(), file.name
    first, then, final = (
        load(f).state_dict() for f in (trained.root / "initial", early / "at_control_tokens", early / "final")
    )
    changed = {key for key in first if not torch.equal(first[key], final[key])}
    assert changed and all(not torch.equal(then[key], other[key]) for key in changed for other in (first, final))
    assert all(torch.equal(then[key], first[key]) for key in first.keys() - changed)


def test_only_adapters_have_optimiser_state(trained: Trained) -> None:
    model = load(trained.root / "initial")
    add_adapters(model, LORA, SEED)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    (last,) = (trained.root / "students" / "zero-1" / "checkpoints").glob("step-00000004-*")
    parts = [load_file(file) for file in last.glob("*.safetensors")]
    assert sum(t.numel() for part in parts for key, t in part.items() if key.startswith("exp_avg.")) == adapters


@pytest.mark.parametrize("name", ["zero-1", "zero-3", "alone"])
def test_checkpoints_hold_no_frozen_weights(name: str, trained: Trained) -> None:
    files = list((trained.root / "students" / name / "checkpoints").rglob("*.safetensors"))
    assert files and all("lora_" in key for file in files for key in load_file(file))


@pytest.mark.parametrize("settings", [{}, {"drop_layers": 1}], ids=["whole", "dropped"])
@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]], ids=["all", "some"])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_the_plan_counts_the_adapters_that_training_makes(
    family: str, targets: list[str], settings: dict[str, Any], save_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_model(family, num_hidden_layers=3)
    source = {"merge_experts": str(folder), "merge": "neurons"} if family == "qwen3_moe" else {"base": str(folder)}
    config, lora = ModelConfig(**source, **settings), LoraConfig(rank=3, targets=targets)
    make_initial(config, tmp_path, vocabulary=V, texts=TEXTS)
    model = load(tmp_path)
    add_adapters(model, lora, 0)
    layers = linear_layers(config, folder, json.loads((folder / "config.json").read_text()))
    made = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert made == 3 * sum(size for name, size in layers.items() if not targets or name in targets) > 0


# The adapters themselves ------------------------------------------------------------------------------------------


def test_adapters_change_nothing_yet_and_are_those_of_the_seed(tiny_model: Callable[..., Any]) -> None:
    before, drawn = logits_of(tiny_model("qwen3")), []
    for seed in (1, 1, 2):
        model = tiny_model("qwen3")
        torch.manual_seed(len(drawn))  # what was drawn before does not matter
        add_adapters(model, LORA, seed)
        assert torch.equal(logits_of(model), before)
        drawn.append({n: p for n, p in model.named_parameters() if p.requires_grad})
    assert all("lora_" in name for name in drawn[0])
    assert all(torch.equal(p, drawn[1][n]) for n, p in drawn[0].items())
    assert any(not torch.equal(p, drawn[2][n]) for n, p in drawn[0].items())


def test_biases_of_adapted_layers_are_kept(tiny_model: Callable[..., Any]) -> None:
    plain = tiny_model("qwen3", attention_bias=True)
    with torch.no_grad():
        plain.get_decoder().layers[0].self_attn.q_proj.bias.normal_()
    first = {k: v.clone() for k, v in plain.state_dict().items()}
    add_adapters(plain, LORA, 0)
    merged = merge_adapters(dict(plain.named_parameters(remove_duplicate=False)), LORA)
    assert merged.keys() == first.keys() and all(torch.equal(merged[k], first[k]) for k in first)


def test_gradient_checkpointing_changes_no_gradient_of_an_adapter(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    found = []
    for checkpointing in (False, True):
        model = load(tmp_path)
        ready_to_train(model, gradient_checkpointing=checkpointing)
        add_adapters(model, LORA, 0)
        model(input_ids=torch.tensor(TEXTS), labels=torch.tensor(TEXTS)).loss.backward()
        found.append([p.grad for n, p in model.named_parameters() if "lora_B" in n])
    assert all(grad is not None and grad.abs().max() > 0 for grad in found[0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=of_gradients(a.abs().max()))


@pytest.mark.parametrize("targets", [["query"], ["q_proj", "lm_head"], ["embed_tokens"]])
def test_targets_that_are_no_linear_layers_of_the_decoder_are_refused(
    targets: list[str], tiny_model: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=r"model\.lora\.targets") as caught:
        add_adapters(tiny_model("qwen3"), LoraConfig(targets=targets), 0)
    assert targets[-1] in str(caught.value) and "down_proj" in str(caught.value)
