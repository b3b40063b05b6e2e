"""What a specialist may be set to, its learning rate, and the dictionary that DeepSpeed gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import workers
from workers.student.config import LossConfig, ModelConfig, SpecialistConfig, TrainConfig
from workers.student.training.deepspeed_config import deepspeed_config
from workers.student.training.schedule import learning_rate

CHECKOUT = Path(workers.__file__).parents[1]
SCHEDULES = ["constant", "linear", "cosine", "wsd"]
PEAK = 3e-4

# Learning rate ----------------------------------------------------------------------------------------------


def rates(schedule: Any, warmup: float = 0.1, decay: float = 0.25) -> np.ndarray:
    """At 1001 points of the budget."""
    return np.array([learning_rate(x / 1000, PEAK, schedule, warmup, decay) for x in range(1001)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_rises_linearly_and_never_after(schedule: str) -> None:
    lr = rates(schedule)
    assert lr.max() == pytest.approx(PEAK) and lr.min() >= 0
    assert lr[100] == pytest.approx(PEAK)
    assert (np.diff(lr[:101]) >= 0).all() and (np.diff(lr[100:]) <= 1e-18).all()
    assert lr[25] == pytest.approx(PEAK / 4) and lr[50] == pytest.approx(PEAK / 2)
    assert lr[0] > 0  # a first step at rate 0 would be lost


@pytest.mark.parametrize("schedule, end", [("constant", PEAK), ("linear", 0.0), ("cosine", 0.0), ("wsd", 0.0)])
def test_the_rate_at_the_end_and_beyond(schedule: Any, end: float) -> None:
    for spent in (1.0, 1.01, 2.0):  # the last batch may overshoot the budget
        assert learning_rate(spent, PEAK, schedule, 0.1, 0.25) == pytest.approx(end, abs=1e-18)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warm_up_training_begins_at_the_peak(schedule: str) -> None:
    assert rates(schedule, warmup=0.0)[0] == pytest.approx(PEAK)


def test_shapes_of_the_decays() -> None:
    linear, cosine, wsd = rates("linear"), rates("cosine"), rates("wsd")
    assert linear[550] == pytest.approx(PEAK / 2) and cosine[550] == pytest.approx(PEAK / 2)
    assert linear[325] == pytest.approx(0.75 * PEAK)
    assert cosine[325] == pytest.approx(PEAK * (1 + 0.5**0.5) / 2)
    assert (wsd[100:750] == PEAK).all()  # stable until the last quarter
    assert wsd[875] == pytest.approx(PEAK / 2) and wsd[950] == pytest.approx(PEAK / 5)
    assert (rates("constant")[100:] == PEAK).all()


# Checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, steps, seconds",
    [
        ({}, 200, None),
        ({"gpus_per_worker": 1}, None, 1800),
        ({"gpus_per_worker": 1, "checkpoint_steps": 50}, 50, None),
        ({"gpus_per_worker": 0.5, "checkpoint_s": 60}, 200, 60),
        ({"gpus_per_worker": 0}, 200, None),
    ],
    ids=str,
)
def test_gpus_write_checkpoints_by_the_clock_unless_told_otherwise(
    given: dict[str, Any], steps: int | None, seconds: float | None
) -> None:
    train = TrainConfig.model_validate(given)
    assert (train.checkpoint_steps, train.checkpoint_s) == (steps, seconds)
    assert TrainConfig.model_validate(train.model_dump()) == train


# Memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, share", [(True, 1.0), (False, 0.0), ("50%", 0.5), (0.25, 0.25), (1, 1.0), (1.5, None), ("yes", None)]
)
def test_layers_that_are_recomputed_are_a_share(given: Any, share: float | None) -> None:
    if share is not None:
        assert TrainConfig(gradient_checkpointing=given).gradient_checkpointing == share
        return
    with pytest.raises(ValidationError, match="gradient_checkpointing"):
        TrainConfig(gradient_checkpointing=given)


def test_layers_that_zero_3_takes_apart_are_not_compiled() -> None:
    assert TrainConfig(compile=True, zero=2).compile
    with pytest.raises(ValidationError, match=r"`compile: true` with `zero: 3`.*take `zero: 2`"):
        TrainConfig(compile=True, zero=3)


# DeepSpeed --------------------------------------------------------------------------------------------------


def test_deepspeed_gets_what_the_settings_say() -> None:
    for zero in (1, 2, 3):
        train = TrainConfig(zero=zero, lr=1e-3, clip=0.7, weight_decay=0.02, betas=(0.8, 0.9))
        config = deepspeed_config(train, "float32", 1)
        assert config["zero_optimization"]["stage"] == zero
        assert config["gradient_clipping"] == 0.7
        parameters = config["optimizer"]["params"]
        assert parameters["lr"] == 1e-3 and parameters["weight_decay"] == 0.02 and parameters["betas"] == [0.8, 0.9]
        assert config["gradient_accumulation_steps"] == config["train_micro_batch_size_per_gpu"] == 1
        assert "bf16" not in config and "fp16" not in config
    assert deepspeed_config(TrainConfig(), "bfloat16", 1)["bf16"] == {"enabled": True, "check_grad_overflow": False}


@pytest.mark.parametrize(
    "workers, dtype, stage", [(1, "float32", 0), (1, "bfloat16", 2), (2, "float32", 1), (8, "bfloat16", 2)]
)
def test_only_one_worker_in_float32_shares_nothing_unless_it_is_told_to(workers: int, dtype: str, stage: int) -> None:
    config = deepspeed_config(TrainConfig(), dtype, workers)
    assert config["zero_optimization"]["stage"] == stage
    # Clipping and AdamW are the optimiser's own work there; DeepSpeed would clip at 1 if it were told nothing.
    assert ("optimizer" in config) == bool(stage) and config["gradient_clipping"] == (1.0 if stage else 0.0)
    assert deepspeed_config(TrainConfig(zero=3), dtype, workers)["zero_optimization"]["stage"] == 3


def test_the_deepspeed_config_is_pure() -> None:
    """Same in, same out, whatever DeepSpeed did with the last one; and JSON."""
    train = TrainConfig(zero=2)
    first = deepspeed_config(train, "bfloat16", 1)
    text = json.dumps(first)
    first["zero_optimization"]["stage"] = 0
    first["optimizer"]["params"].clear()
    first["bf16"]["enabled"] = False
    assert json.dumps(deepspeed_config(train, "bfloat16", 1)) == text


def test_settings_load_no_heavy_library() -> None:
    program = (
        "import sys; from workers.student.config import TrainConfig; from workers.student.training.schedule import *;"
        "from workers.student.training.deepspeed_config import deepspeed_config;"
        "deepspeed_config(TrainConfig(), 'float32', 1);"
        "import workers.teacher.config, workers.targets.config, workers.targets.encoding.schema;"
        "import workers.evaluation.config;"
        "print(sorted({'torch', 'deepspeed', 'transformers', 'ray'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# Settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"gpus_per_worker": 1.5}, "1.5; Ray"), ({"gpus_per_worker": 0.5, "workers": [1, 2]}, "0.5 with 2 `workers`")],
)
def test_gpus_that_cannot_be_had_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TrainConfig(**settings)
    assert TrainConfig(gpus_per_worker=0.5).gpus_per_worker == 0.5 and TrainConfig(gpus_per_worker=2, workers=4)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({}, "give either `base`"),
        ({"base": "x", "config": {"model_type": "llama"}}, "give either `base`"),
        ({"config": {"hidden_size": 8}}, "model_type"),
        ({"config": {"model_type": "llama"}, "drop_layers": 2}, "`drop_layers` goes with `base`"),
        ({"config": {"model_type": "llama"}, "drop_layers": [0]}, "`drop_layers` goes with `base`"),
        ({"base": "x", "drop_layers": "two"}, "drop_layers"),
        ({"base": "x", "layers": 2}, "layers"),
        ({"base": "x", "merge_experts": "y"}, "give either `base`"),
        ({"merge_experts": "y", "config": {"model_type": "llama"}}, "give either `base`"),
        ({"base": "x", "merge": "average"}, "go with `merge_experts`"),
        ({"base": "x", "merged_width": 8}, "go with `merge_experts`"),
        ({"merge_experts": "x", "merge": "mean"}, "merge"),
        ({"merge_experts": "x", "merge": "average", "merged_width": 8}, "as wide as one expert"),
        ({"merge_experts": "x", "merged_width": 8}, "`merge: neurons`"),
        ({"merge_experts": "x", "merge": "neurons", "merged_width": 0}, "merged_width"),
        ({"config": {"model_type": "llama"}, "lora": {}}, "`lora` goes with `base`"),
        ({"base": "x", "lora": {"rank": 0}}, "rank"),
        ({"base": "x", "lora": {"dropout": 1}}, "dropout"),
        ({"base": "x", "lora": {"r": 8}}, "r"),
    ],
)
def test_wrong_model_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate(settings)
    assert named in str(caught.value)


def test_a_model_is_short_for_its_base() -> None:
    assert ModelConfig.model_validate("org/model") == ModelConfig(base="org/model")
    assert SpecialistConfig.model_validate({"model": "org/model"}).model.base == "org/model"


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"tokens": 0}, "tokens"),
        ({"tokens": "many"}, "tokens"),
        ({"batch_tokens": -1}, "batch_tokens"),
        ({"lr": 0}, "lr"),
        ({"schedule": "step"}, "schedule"),
        ({"warmup": 1}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
        ({"decay": 0}, "decay"),
        ({"decay": "120%"}, "decay"),
        ({"clip": -1}, "clip"),
        ({"workers": 0}, "workers"),
        ({"zero": 0}, "zero"),
        ({"zero": 4}, "zero"),
        ({"dtype": "float16"}, "dtype"),
        ({"checkpoint_steps": 0}, "checkpoint_steps"),
        ({"max_failures": -1}, "max_failures"),
        ({"learning_rate": 1e-4}, "learning_rate"),
        ({"betas": [0.9]}, "betas"),
    ],
)
def test_wrong_training_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(settings)
    assert [error["loc"][0] for error in caught.value.errors()] == [named]


def test_what_would_begin_again_at_step_0_wants_checkpoints() -> None:
    none = {"checkpoint_steps": None, "checkpoint_s": None}
    TrainConfig(**none)
    for settings in ({"workers": [1, 2]}, {"max_failures": 1}):
        with pytest.raises(ValidationError, match="would begin again at step 0"):
            TrainConfig.model_validate({**none, **settings})


def test_failures_are_got_over_where_workers_may_come_and_go() -> None:
    assert [TrainConfig.model_validate({"workers": w}).restarts for w in (2, [1, 2])] == [0, 3]
    assert TrainConfig(workers=(1, 2), max_failures=0).restarts == 0 and TrainConfig(max_failures=5).restarts == 5


def test_the_best_of_losses_that_weigh_differently_is_refused() -> None:
    settings = {"model": "acme/small", "train": {"keep": "best"}, "loss": {"ce": 1, "ce_end": 0}}
    with pytest.raises(ValidationError, match="compares losses"):
        SpecialistConfig.model_validate(settings)


def test_counts_and_shares_may_be_written_short() -> None:
    train = TrainConfig.model_validate({"tokens": "20M", "batch_tokens": "16k", "warmup": "5%", "decay": "12.5%"})
    assert (train.tokens, train.batch_tokens, train.warmup, train.decay) == (20_000_000, 16_000, 0.05, 0.125)
    assert TrainConfig.model_validate({"tokens": "1.5B"}).tokens == 1_500_000_000
    assert TrainConfig.model_validate({"tokens": "3_000"}).tokens == 3000


def test_settings_survive_their_dictionary() -> None:
    """As they cross to a worker."""
    train = TrainConfig(tokens=7, warmup=0.3, zero=3, label_selector={"a": "b"})
    assert TrainConfig.model_validate(json.loads(json.dumps(train.model_dump()))) == train


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be learned"):
        LossConfig(kl=0, ce=0)
    with pytest.raises(ValidationError):
        LossConfig(kl=-1, ce=2)


# On a lattice -----------------------------------------------------------------------------------------------


Q4 = {"format": "q4_0"}


@pytest.mark.parametrize(
    "train, told",
    [
        ({"quantise": Q4 | {"start": 1.0}}, "start"),
        ({"quantise": Q4 | {"start": "100%"}}, "start"),
        ({"tokens": 1000, "batch_tokens": 100, "quantise": Q4 | {"start": 0.95}}, "start earlier"),
        ({"keep": "best", "quantise": Q4 | {"start": "50%"}}, "`keep: last`"),
        ({"quantise": {"format": "q4_k"}}, "q4_0"),
        ({"quantise": Q4 | {"embeddings": "q4_0"}}, "q8_0"),
        ({"quantise": {"start": 0.1}}, "format"),
    ],
)
def test_a_training_that_would_never_be_on_the_lattice_or_on_none(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate(train)


def test_a_share_of_the_budget_may_go_before_the_lattice() -> None:
    found = TrainConfig.model_validate({"tokens": 1000, "batch_tokens": 100, "quantise": Q4 | {"start": "90%"}})
    assert found.quantise is not None and found.quantise.start == 0.9
    assert TrainConfig.model_validate(found.model_dump()) == found
    assert TrainConfig.model_validate({"keep": "best", "quantise": Q4}).quantise is not None


def test_a_student_is_on_the_lattice_in_one_way() -> None:
    """Adapters leave the weights that would be rounded as they are; a sibling goes on from the merged ones."""
    model = {"base": "a", "lora": {}}
    with pytest.raises(ValidationError, match="`quantised: qad`"):
        SpecialistConfig.model_validate({"model": model, "train": {"quantise": Q4}})
    assert SpecialistConfig.model_validate({"model": model, "quantised": "qad"}).quantised is not None
    with pytest.raises(ValidationError, match="on the lattice already"):
        SpecialistConfig.model_validate({"model": "a", "train": {"quantise": Q4}, "quantised": "qad"})
