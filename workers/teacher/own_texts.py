"""Expert parallelism in which each rank runs texts of its own and keeps whole dense weights.

transformers has two layouts for sharded experts: a tensor-parallel one, whose ranks share one batch, and one under
FSDP, which shards dense weights too and gathers them in each forward pass, that is at every generated token. A
teacher at work wants neither: dense weights are read all the time and change never. So the ranks are laid out as the
tensor-parallel ones are, with a plan that leaves every dense weight whole, and with an all-to-all to which each
rank sends all of its tokens, not its slice of a shared batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.distributed.expert_parallel import AllToAllEP, EPImplementationInterface
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import TensorParallelLayer

_NAME = "stillhouse_own_texts"
_WHOLE = "stillhouse_whole"


class _Alone:
    """The mesh of a rank that shares its tokens with nobody."""

    def size(self) -> int:
        return 1


class _OwnTexts(AllToAllEP):
    """An all-to-all of tokens, all of which are the rank's own."""

    def __init__(self, experts: Any, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self.tp_mesh = _Alone()


class _Whole(TensorParallelLayer):
    """Leaves a module and its weights as they are."""

    def install_forward(self, module: Any, mesh: Any) -> Any:
        return module


def own_texts_layout(folder: Path, ranks: int, *, trust_remote_code: bool = False) -> DistributedConfig:
    """How transformers is to lay a model out over so many ranks."""
    EPImplementationInterface.register(_NAME, _OwnTexts)
    ALL_PARALLEL_STYLES.register(_WHOLE, _Whole())
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    # A plan adds to the model's own, so every rule of that one is named; and transformers wants one rule at least.
    dense = [name for name, module in skeleton.named_modules() if module is skeleton.get_output_embeddings()]
    plan = dict.fromkeys([*skeleton.tp_plan, *dense], _WHOLE)
    return DistributedConfig(tp_size=ranks, tp_plan=plan, ep_size=ranks, ep_implementation=_NAME)
