"""What layers keep of a text that is no keys and values by token: linear attention, Mamba, short convolutions.

Such a layer keeps a convolution's last inputs and a sum over all tokens, of one size however long the text is. A text's
states are a row of each tensor: nothing in them knows of columns, so that texts which join and leave only move rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import LinearAttentionLayer

from workers.transfers import to_device

_ABOUT_STATES = (
    "is_conv_states_initialized",
    "is_recurrent_states_initialized",
    "has_previous_state",
    "conv_kernel_size",
)


class StateLayer(LinearAttentionLayer):
    """The states of one layer [rows, ...], of as many rows as there are texts. Models write them in place."""

    def join(self, other: StateLayer, other_rows: list[int]) -> None:
        """Take rows of another layer as further rows; one may be taken several times."""
        rows_n: torch.Tensor | None = None
        for states, others in ((self.conv_states, other.conv_states), (self.recurrent_states, other.recurrent_states)):
            for i, state in others.items():
                if state is not None:
                    rows_n = to_device(other_rows, state.device) if rows_n is None else rows_n
                    taken = state[rows_n]
                    states[i] = taken if states[i] is None else torch.cat([states[i], taken])
        for name in _ABOUT_STATES:
            setattr(self, name, dict(getattr(other, name)))

    def leave(self, row: int) -> None:
        """Drop a row: the last one moves into it."""
        for states in (self.conv_states, self.recurrent_states):
            for i, state in states.items():
                if state is not None:
                    state[row] = state[-1]
                    states[i] = state[:-1]

    def padding(self) -> Iterator[torch.Tensor]:
        """Of a prefill of texts of one token each, what convolutions keep of the padding before it."""
        return (state[..., :-1] for state in self.conv_states.values() if state is not None)


def keeps_states(layer: Any) -> bool:
    """Whether a layer of a model's own cache is one of states alone."""
    return type(layer) is LinearAttentionLayer


def keeps_nothing(layer: Any) -> bool:
    """Whether a layer of a model's own cache stands for one without a cache. By its name, as vLLM's environment has a
    transformers before there were any."""
    return type(layer).__name__ == "DummyLayer"
