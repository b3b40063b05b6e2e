"""The DeepSpeed engine of a student: how it starts, and how its weights are made whole at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.storage import Storage
from workers.student.config import LoraConfig, LossConfig, TrainConfig

if TYPE_CHECKING:
    import torch


def start_engine(
    initial: str,
    train: TrainConfig,
    loss: LossConfig,
    storage: Storage,
    lora: LoraConfig | None = None,
    seed: int = 0,
) -> tuple[Any, str]:
    """The DeepSpeed engine over backbone, head and loss, from the weights at key `initial`; and its device. A
    collective: the first rank alone reads them, and DeepSpeed sends them to the others; under ZeRO-3 each parameter is
    shared out before the next is there.

    With `lora`, adapters drawn by `seed` are all that is trained.
    """
    import deepspeed
    import torch
    import torch.distributed as dist

    from workers.model_files import torch_dtype
    from workers.quantise.layers import quantised_weights
    from workers.streaming.read_once import read_once
    from workers.student.batches.packing import Layout
    from workers.student.layers.compiling import check_can_compile, compile_layers
    from workers.student.losses.objective import divergence_of
    from workers.student.models.head import tried
    from workers.student.models.student_model import DistillationModel, ready_to_train

    device = "cuda" if train.gpus_per_worker else "cpu"
    if device == "cpu":
        torch.set_num_threads(train.threads_per_worker)
        # Its build takes minutes in a fresh environment and only speeds up inference all-reduce.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if train.compile:
        check_can_compile()
    dtype = torch_dtype(train.dtype, device)
    name = str(dtype).removeprefix("torch.")
    shared_out = train.zero_stage(dist.get_world_size(), name) == 3
    hold = _sharing_out(train, name) if shared_out else None
    causal_lm, abilities = read_once(storage, initial, dtype, device, tried, hold)
    ready_to_train(causal_lm, gradient_checkpointing=train.gradient_checkpointing)
    if lora is not None:
        from workers.student.models.lora import add_adapters

        add_adapters(causal_lm, lora, seed)
    layout: Layout = "packed" if train.packing else "padded"
    model = DistillationModel(causal_lm, divergence_of(loss), layout, abilities, min(train.gpus_per_worker, 1.0))
    if train.quantise is not None:
        try:
            model.quantised = quantised_weights(causal_lm, train.quantise)
        except ValueError as error:
            raise ValueError(f"train.quantise.{error}") from None
    if train.compile:
        compile_layers(causal_lm)
    engine = engine_over(model, train, name)
    if shared_out and model.fused:
        keep_whole(engine, list(model.loss_head.parameters()))
    return engine, device


def _sharing_out(train: TrainConfig, dtype: str) -> Callable[[torch.nn.Parameter], None]:
    """What sends a parameter of the first rank to all, in the type that is computed with, and leaves each its part."""
    import deepspeed
    import torch
    import torch.distributed as dist

    from workers.student.training.deepspeed_config import deepspeed_config

    config = deepspeed_config(train, dtype, dist.get_world_size())

    def hold(parameter: torch.nn.Parameter) -> None:
        parameter.data = parameter.data.to(getattr(torch, dtype))
        deepspeed.zero.Init(torch.nn.ParameterList([parameter]), config_dict_or_path=config)

    return hold


def engine_over(model: Any, train: TrainConfig, dtype: str) -> Any:
    """A DeepSpeed engine that trains a module's parameters, at the ZeRO stage that its number of workers asks for."""
    import deepspeed
    import torch.distributed as dist

    from workers.student.training.adamw import ClippedAdamW
    from workers.student.training.deepspeed_config import adamw_settings, deepspeed_config

    trained = [p for p in model.parameters() if p.requires_grad]
    config = deepspeed_config(train, dtype, dist.get_world_size())
    if config["zero_optimization"]["stage"]:
        return deepspeed.initialize(model=model, model_parameters=trained, config=config)[0]
    optimizer = ClippedAdamW(trained, clip=train.clip, **adamw_settings(train))
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    engine.enable_backward_allreduce = False  # one rank has nobody to add up with, and would copy all gradients twice
    return engine


def keep_whole(engine: Any, parameters: list[Any]) -> None:
    """Leave parameters gathered under ZeRO-3, so that they are gathered once an optimiser step, after its update.

    Of the head: every micro-batch needs all of it at once anyway, and it is the largest parameter of a small model.
    """
    for parameter in parameters:
        if not parameter.ds_persist:
            parameter.ds_persist = True
            engine.optimizer.persistent_parameters.append(parameter)


def whole_weights(engine: Any) -> dict[str, Any]:
    """The language model's weights, whole, on rank 0 (empty elsewhere). A collective under ZeRO-3."""
    import deepspeed
    import torch.distributed as dist

    state: dict[str, Any] = {}
    for name, parameter in engine.module.causal_lm.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if dist.get_rank() == 0:
                state[name] = parameter.detach().cpu().clone()
    for name, buffer in engine.module.causal_lm.state_dict().items():
        if name not in state and dist.get_rank() == 0:
            state[name] = buffer.detach().cpu().clone()
    return state
