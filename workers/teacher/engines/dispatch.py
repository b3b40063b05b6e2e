"""Expert parallelism in which each rank runs texts of its own and keeps whole dense weights.

transformers has two layouts for sharded experts: a tensor-parallel one, whose ranks share one batch, and one under
FSDP, which shards dense weights too and gathers them in each forward pass, that is at every generated token. A
teacher at work wants neither: dense weights are read all the time and change never. So the ranks are laid out as the
tensor-parallel ones are, with a plan that leaves every dense weight whole, and with exchanges of our own:

    few tokens (a step that decodes)    every rank gets the tokens of all, as many of each, and sends back its sums.
                                        The host knows all sizes: nothing in a layer waits for the device.
    many (prompts, given texts)         a token goes to each rank that holds one of its experts, once, however many of
                                        them that is. The host reads the sizes, once a layer.

Which of them, all ranks must agree on before a pass (generation/agreed.py). Sums are made in a fixed order, on any
device.

Legend: T tokens of this rank, M tokens of the rank that has most, K experts of a token, N tokens at hand here, S pairs
(token, expert) at work here, R ranks, H hidden size, Q bytes of a token and its routes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import embedding_bag, pad
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.distributed.expert_parallel import EPImplementation, EPImplementationInterface
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import TensorParallelLayer

from workers.teacher.generation.agreed import most_tokens_of_a_rank

_NAME = "stillhouse_own_texts"
_WHOLE = "stillhouse_whole"

_SHARED_TOKENS = 4096
"""Tokens of all ranks up to which each rank gets them all. Of 128 slots on each of 8 ranks, eight experts a token, two
thirds would go to a rank anyway; and 4,096 rows of 2,048 numbers in bfloat16 take .04 ms over NVLink, where a read of
sizes by the host costs as much and leaves the device idle."""


class _OwnTexts(EPImplementation):
    """The experts of a layer, for tokens of which every rank has its own. For inference: nothing is differentiated."""

    def __init__(self, experts: Any, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self._experts, self._group = experts, ep_mesh.get_group()
        self._rank, self._ranks = ep_mesh.get_local_rank(), ep_mesh.size()

    def __call__(self, hidden_TH: torch.Tensor, expert_TK: torch.Tensor, weight_TK: torch.Tensor) -> torch.Tensor:
        """The weighted sum of each token's experts [T, H]."""
        most = most_tokens_of_a_rank()
        if most is not None and most * self._ranks <= _SHARED_TOKENS:
            return self._by_all(hidden_TH, expert_TK, weight_TK, most)
        return self._by_owners(hidden_TH, expert_TK, weight_TK)

    def _by_all(
        self, hidden_TH: torch.Tensor, expert_TK: torch.Tensor, weight_TK: torch.Tensor, most: int
    ) -> torch.Tensor:
        """Every rank's experts look at the tokens of all ranks; what fills a rank's tokens up belongs to no expert."""
        T = len(hidden_TH)
        assert most >= T, f"{T} tokens, where ranks agreed on {most} at most"
        fill = (0, 0, 0, most - T)
        nobody = self.num_local_experts * self._ranks
        rows_MQ = _packed(pad(hidden_TH, fill), pad(weight_TK, fill), pad(expert_TK, fill, value=nobody))
        rows_NQ = rows_MQ.new_empty(self._ranks * most, rows_MQ.shape[1])
        dist.all_gather_into_tensor(rows_NQ, rows_MQ, group=self._group)
        hidden_NH, weight_NK, expert_NK = _unpacked(rows_NQ, hidden_TH, weight_TK)
        own_NK = expert_NK - self._rank * self.num_local_experts
        elsewhere_NK = (own_NK < 0) | (own_NK >= self.num_local_experts)
        self._experts._is_expert_parallel = True  # the experts skip pairs of the expert behind their last one
        sum_NH = self.experts_forward(
            hidden_NH, own_NK.masked_fill(elsewhere_NK, self.num_local_experts), weight_NK.masked_fill(elsewhere_NK, 0)
        )
        sum_RMH = torch.empty_like(sum_NH)
        dist.all_to_all_single(sum_RMH, sum_NH.contiguous(), group=self._group)
        return sum_RMH.view(self._ranks, most, -1)[:, :T].sum(0)

    def _by_owners(self, hidden_TH: torch.Tensor, expert_TK: torch.Tensor, weight_TK: torch.Tensor) -> torch.Tensor:
        """Tokens go to the ranks of their experts and come back as one sum from each."""
        ranks_R = torch.arange(self._ranks, device=expert_TK.device)
        pairs_RT = (expert_TK // self.num_local_experts == ranks_R[:, None, None]).sum(-1)
        to_RT = (pairs_RT > 0) & (ranks_R != self._rank)[:, None]  # its own tokens need not travel
        send, receive, pairs = self._sizes(to_RT, pairs_RT)
        # One more than there are, here and below: a kernel may want one at least, and sums a row that is nobody's.
        token = torch.nonzero_static(to_RT, size=sum(send) + 1, fill_value=0)[:-1, 1]
        back_NH = hidden_TH.new_empty(sum(send) + 1, hidden_TH.shape[1])
        rows_TQ = _packed(hidden_TH, weight_TK, expert_TK)
        received_NQ = rows_TQ.new_empty(sum(receive), rows_TQ.shape[1])
        self._exchange(received_NQ, rows_TQ[token], receive, send)
        at_hand_NQ = torch.cat([rows_TQ, received_NQ])
        sum_NH = self._experts_here(*_unpacked(at_hand_NQ, hidden_TH, weight_TK), pairs)
        own_TH, sums_NH = sum_NH.split([len(rows_TQ), len(received_NQ)])
        self._exchange(back_NH[:-1], sums_NH.contiguous(), send, receive)
        return own_TH + embedding_bag(_places(to_RT).T, back_NH, mode="sum", padding_idx=sum(send))

    def _experts_here(
        self, hidden_NH: torch.Tensor, weight_NK: torch.Tensor, expert_NK: torch.Tensor, pairs: int
    ) -> torch.Tensor:
        """Of tokens at hand, the sums over those of their experts that are here [N, H]; `pairs` of them are."""
        here_NK = expert_NK // self.num_local_experts == self._rank
        token_S, slot_S = torch.nonzero_static(here_NK, size=pairs + 1, fill_value=0).T
        self._experts._is_expert_parallel = False  # every pair is of an expert that is here: nothing to mask
        rows_SH = self.experts_forward(
            hidden_NH[token_S],
            (expert_NK[token_S, slot_S] % self.num_local_experts)[:, None],
            weight_NK[token_S, slot_S][:, None],
        )
        return embedding_bag(_places(here_NK), rows_SH, mode="sum", padding_idx=pairs)

    def _sizes(self, to_RT: torch.Tensor, pairs_RT: torch.Tensor) -> tuple[list[int], list[int], int]:
        """Tokens to each rank and from each, and how many pairs are at work here."""
        sent_R2 = torch.stack([to_RT.sum(1), pairs_RT.sum(1)], 1)
        received_R2 = torch.empty_like(sent_R2)
        dist.all_to_all_single(received_R2, sent_R2, group=self._group)
        sent, received = torch.stack([sent_R2, received_R2]).tolist()  # the only wait of a layer
        return [tokens for tokens, _ in sent], [tokens for tokens, _ in received], sum(pairs for _, pairs in received)

    def _exchange(self, received: torch.Tensor, rows: torch.Tensor, receive: list[int], send: list[int]) -> None:
        dist.all_to_all_single(received, rows, receive, send, group=self._group)


def _packed(hidden_TH: torch.Tensor, weight_TK: torch.Tensor, expert_TK: torch.Tensor) -> torch.Tensor:
    """Tokens with their routes as rows of bytes [T, Q], which travel together."""
    parts = (hidden_TH, weight_TK.float(), expert_TK.int())
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], 1)


def _unpacked(
    rows_NQ: torch.Tensor, like_TH: torch.Tensor, weight_TK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inverse of `_packed`: hidden states, weights and experts."""
    K = weight_TK.shape[1]
    hidden_NQ, weight_NQ, expert_NQ = rows_NQ.split([rows_NQ.shape[1] - 8 * K, 4 * K, 4 * K], 1)
    weight_NK = weight_NQ.view(torch.float32).to(weight_TK.dtype)
    return hidden_NQ.view(like_TH.dtype), weight_NK, expert_NQ.view(torch.int32).long()


def _places(marked: torch.Tensor) -> torch.Tensor:
    """Of each marked place its number among them, in order; of the others the number of all."""
    numbers = marked.flatten().cumsum(0)
    return torch.where(marked.flatten(), numbers - 1, numbers[-1]).view(marked.shape)


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
