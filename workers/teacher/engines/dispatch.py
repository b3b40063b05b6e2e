"""Expert parallelism in which each rank runs texts of its own and keeps whole dense weights.

transformers has two layouts for sharded experts: a tensor-parallel one, whose ranks share one batch, and one under
FSDP, which shards dense weights too and gathers them in each forward pass, that is at every generated token. A
teacher at work wants neither: dense weights are read all the time and change never. So the ranks are laid out as the
tensor-parallel ones are, with a plan that leaves every dense weight whole, and with an exchange of our own: a token
goes to each rank that holds one of its experts, once, however many of them that is, and comes back as one sum.

Legend: T tokens of this rank, K experts of a token, N tokens received, S (token, expert) pairs at work here, R ranks,
H hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.distributed.expert_parallel import EPImplementation, EPImplementationInterface
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import TensorParallelLayer

_NAME = "stillhouse_own_texts"
_WHOLE = "stillhouse_whole"


class _OwnTexts(EPImplementation):
    """The experts of a layer, for tokens of which every rank has its own. For inference: nothing is differentiated."""

    def __init__(self, experts: Any, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self._experts, self._group = experts, ep_mesh.get_group()
        self._rank, self._ranks = ep_mesh.get_local_rank(), ep_mesh.size()

    def __call__(self, hidden_TH: torch.Tensor, expert_TK: torch.Tensor, weight_TK: torch.Tensor) -> torch.Tensor:
        """The weighted sum of each token's experts [T, H]."""
        owner_TK = expert_TK // self.num_local_experts
        to_rank = [(owner_TK == r).any(1).nonzero()[:, 0] for r in range(self._ranks)]
        to_rank[self._rank] = to_rank[self._rank][:0]  # its own tokens need not travel
        sent = torch.cat(to_rank)
        send_sizes = [len(t) for t in to_rank]
        receive_sizes = self._exchange_sizes(send_sizes, hidden_TH.device)
        received_NH = self._exchange(hidden_TH[sent], send_sizes, receive_sizes)
        # Which experts, and their weights: whole numbers of float32 are exact up to 2^24.
        routes = torch.cat([expert_TK.float(), weight_TK.float()], 1)
        routes_N = self._exchange(routes[sent], send_sizes, receive_sizes)
        K = expert_TK.shape[1]
        own_TH, back_NH = self._run(
            (hidden_TH, expert_TK, weight_TK), (received_NH, routes_N[:, :K].long(), routes_N[:, K:])
        )
        back = self._exchange(back_NH, receive_sizes, send_sizes)
        for tokens, sums in zip(to_rank, back.split(send_sizes), strict=True):
            own_TH.index_add_(0, tokens, sums)
        return own_TH

    def _run(self, *batches: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
        """Of each batch of tokens, the sums over those of their experts that are here, in one pass of the experts."""
        pairs = [self._pairs_here(expert_TK) for _, expert_TK, _ in batches]
        rows, experts, weights = [], [], []
        for (hidden_TH, expert_TK, weight_TK), (slot, token, _) in zip(batches, pairs, strict=True):
            rows.append(hidden_TH[token])
            experts.append(expert_TK[token, slot] - self._rank * self.num_local_experts)
            weights.append(weight_TK[token, slot].to(hidden_TH.dtype))
        rows_SH = torch.cat(rows)
        if len(rows_SH):
            rows_SH = self._experts_forward(rows_SH, torch.cat(experts)[:, None], torch.cat(weights)[:, None])
        done = rows_SH.split([len(r) for r in rows])
        return [
            _sum_by_token(rows, token, per_slot, hidden_TH)
            for rows, (_, token, per_slot), (hidden_TH, _, _) in zip(done, pairs, batches, strict=True)
        ]

    def _pairs_here(self, expert_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Slot and token of each pair whose expert is here, slot by slot, and how many each slot has."""
        here_KT = (expert_TK // self.num_local_experts == self._rank).T
        slot, token = here_KT.nonzero(as_tuple=True)
        return slot, token, here_KT.sum(1).tolist()

    def _experts_forward(self, rows_SH: torch.Tensor, expert_S1: torch.Tensor, weight_S1: torch.Tensor) -> torch.Tensor:
        self._experts._is_expert_parallel = False  # every pair is of an expert that is here: nothing to mask
        return self.experts_forward(rows_SH, expert_S1, weight_S1)

    def _exchange_sizes(self, send_sizes: list[int], device: torch.device) -> list[int]:
        sizes_R = torch.tensor(send_sizes, device=device)
        received_R = torch.empty_like(sizes_R)
        dist.all_to_all_single(received_R, sizes_R, group=self._group)
        return received_R.tolist()

    def _exchange(self, rows: torch.Tensor, send_sizes: list[int], receive_sizes: list[int]) -> torch.Tensor:
        received = rows.new_empty(sum(receive_sizes), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), receive_sizes, send_sizes, group=self._group)
        return received


def _sum_by_token(
    rows_SH: torch.Tensor, token_S: torch.Tensor, per_slot: list[int], like_TH: torch.Tensor
) -> torch.Tensor:
    """Sums of rows by token [T, H]. A slot has a token once at most, so the order of each sum is that of the slots,
    on whatever device."""
    sum_TH = torch.zeros_like(like_TH)
    for rows, tokens in zip(rows_SH.split(per_slot), token_S.split(per_slot), strict=True):
        sum_TH.index_add_(0, tokens, rows)
    return sum_TH


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
