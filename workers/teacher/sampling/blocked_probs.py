"""Distributions as block probs: what is sampled without ever normalising or summing along the whole vocabulary.

Of a chunk of logits only exp(z - max) is kept, cut into blocks of ids, with the running sum of the block probs. A
point of the running mass is found by a search over blocks and then over the ids of one block. Sums across blocks and
inside the found block are float64, so that a mass of 1e-9 at the end of 262,144 ids keeps its share.

Legend: B distributions, V vocabulary, J blocks, W ids in a block, N points, A ids taken out.
"""

from __future__ import annotations

import math

import torch

_BLOCK = 128

_SMALLEST = -87.0
"""Log of the least mass beside the largest one: below it float32 has no normal numbers."""


class BlockedProbs:
    """B distributions up to a factor. An id of minus infinity has no mass and is never found."""

    def __init__(self, logits_BV: torch.Tensor, temperature: float = 1.0, reuse: BlockedProbs | None = None) -> None:
        """From logits of any float type, which stay as they are; `temperature` divides them.

        The memory of `reuse`, which is not needed any more, is overwritten: fresh memory costs as much as the softmax.
        """
        B, self.vocabulary = logits_BV.shape
        self._z_BV = logits_BV.float() if temperature == 1 else logits_BV.float() / temperature
        lowest_B, self._highest_B = self._z_BV.amin(-1), self._z_BV.amax(-1)
        blocks = -(-self.vocabulary // _BLOCK)
        old: torch.Tensor | None = reuse._memory if reuse is not None else None
        fits = old is not None and old.numel() >= B * blocks * _BLOCK and old.device == self._z_BV.device
        self._memory: torch.Tensor = old if old is not None and fits else self._z_BV.new_empty(B * blocks * _BLOCK)
        e_BV = self._memory[: B * blocks * _BLOCK].view(B, blocks * _BLOCK)
        e_BV[:, self.vocabulary :] = 0
        own_BV = torch.sub(self._z_BV, self._highest_B[:, None], out=e_BV[:, : self.vocabulary])
        if not self._may_ask or bool((lowest_B - self._highest_B < _SMALLEST).any()):
            # What has no mass must have exactly none; and on a CPU an exp that underflows takes ten times as long.
            torch.threshold_(own_BV.clamp_(min=_SMALLEST).exp_(), math.exp(_SMALLEST) * 1.001, 0.0)
        else:
            own_BV.exp_()
        self._e_BJW = e_BV.view(B, blocks, _BLOCK)
        self._sum_up()
        self.whole_B: torch.Tensor = self.total_B
        """Mass of each distribution before anything was taken out."""

    def _sum_up(self) -> None:
        self._cumulative_BJ = self._e_BJW.sum(-1).double().cumsum(-1)
        self.total_B: torch.Tensor = self._cumulative_BJ[:, -1]
        """Mass of each distribution, float64."""

    @property
    def _may_ask(self) -> bool:
        """Whether values may decide what is done: for a GPU's the host would wait."""
        return self._z_BV.device.type == "cpu"

    @property
    def mass_BV(self) -> torch.Tensor:
        """Mass of each id, float32 (a view)."""
        return self._e_BJW.flatten(1)[:, : self.vocabulary]

    def log_probabilities(self) -> torch.Tensor:
        """Log-probabilities [B, V], float32."""
        return (self._z_BV - self._highest_B[:, None]) - self.whole_B.log().float()[:, None]

    def log_probability(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Log-probability of one id of each distribution [B], float64."""
        z_B = self._z_BV.gather(1, ids_B[:, None])[:, 0].double()
        return z_B - self._highest_B.double() - self.whole_B.log()

    def entropy(self) -> torch.Tensor:
        """Shannon entropy in nats [B], float64. Before anything is taken out."""
        dot_B = self._dot(self._z_BV) if self._may_ask else None
        if dot_B is None or not bool(dot_B.isfinite().all()):  # an id of no mass gives 0 * -inf
            dot_B = self._dot(self._z_BV.clamp_min(-1e4))
        return (self.total_B.log() + self._highest_B.double() - dot_B / self.total_B).clamp_min(0)

    def _dot(self, z_BV: torch.Tensor) -> torch.Tensor:
        """Sum of mass times z [B], float64: summed by blocks, for one running float32 sum would be off by 1e-3."""
        whole = self.vocabulary // _BLOCK
        cut = whole * _BLOCK
        blocks_BJ = torch.linalg.vecdot(self._e_BJW[:, :whole], z_BV[:, :cut].unflatten(1, (whole, _BLOCK)))
        rest_B = (self.mass_BV[:, cut:] * z_BV[:, cut:]).sum(-1)
        return blocks_BJ.double().sum(-1) + rest_B.double()

    def marginal(self) -> torch.Tensor:
        """Sum of the B distributions [V], float32: how often each id is to be expected."""
        return self.mass_BV.T @ (1 / self.total_B).float()

    def take_out(self, ids_A: torch.Tensor) -> torch.Tensor:
        """The exact probabilities of some ids [B, A], float64; from now on they have no mass here."""
        taken_BA = self.mass_BV[:, ids_A].double() / self.whole_B[:, None]
        self.mass_BV.index_fill_(1, ids_A, 0)
        self._sum_up()
        return taken_BA

    def remove(self, ids_BK: torch.Tensor) -> None:
        """Take ids of its own out of each distribution."""
        self.mass_BV.scatter_(1, ids_BK, 0)
        self._sum_up()

    def remove_marked(self, marked_BV: torch.Tensor) -> None:
        """Take out the ids that are marked."""
        self.mass_BV.masked_fill_(marked_BV, 0)
        self._sum_up()

    def find(self, points_BN: torch.Tensor) -> torch.Tensor:
        """The id that owns each point of the running mass, 0 ... total_B [B, N].

        An id owns from the mass before it up to, but not with, the mass after it; so one without mass owns nothing.
        """
        points_BN = torch.minimum(points_BN, _just_below(self.total_B)[:, None])
        block_BN = torch.searchsorted(self._cumulative_BJ, points_BN, right=True)
        block_BN.clamp_(max=self._cumulative_BJ.shape[1] - 1)  # of a distribution that is all taken out
        end_BN = self._cumulative_BJ.gather(1, block_BN)
        before_BN = self._cumulative_BJ.gather(1, (block_BN - 1).clamp_min(0))
        start_BN = torch.where(block_BN > 0, before_BN, torch.zeros_like(before_BN))
        row_B1 = torch.arange(len(points_BN), device=points_BN.device)[:, None]
        inner_BNW = self._e_BJW[row_B1, block_BN].double().cumsum(-1)
        inner_BN = inner_BNW[..., -1]
        # The block's sum was rounded to float32 once; its ids share that error in proportion.
        point_BN = torch.minimum((points_BN - start_BN) / (end_BN - start_BN) * inner_BN, _just_below(inner_BN))
        inside_BN = torch.searchsorted(inner_BNW, point_BN[..., None], right=True)[..., 0]
        return (block_BN * _BLOCK + inside_BN).clamp_(max=self.vocabulary - 1)


def _just_below(x: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(x, torch.zeros_like(x))
