"""Counts what would make a host wait for its device, in code that runs on a CPU.

On a GPU an operator is queued and the host goes on. It stops where it reads a number of the device, where the size of a
result depends on numbers there, and where it waits for a copy. None of that shows on a CPU, whose tensors all are at
hand. So tensors carry a mark of where they would be: those that the host makes without naming a device, and those that
were fetched, are the host's; all others are the device's. Code under count must be given its device as `DEVICE`, not as
"cpu", so that `to("cpu")` can only mean the host.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from workers.teacher.sampling import chunks
from workers.teacher.sampling.blocked_probs import BlockedProbs

DEVICE = "cpu:0"
"""What stands for the device."""

_aten = torch.ops.aten
_READ = {_aten._local_scalar_dense.default: "item", _aten.equal.default: "equal"}
_SHAPED = {
    _aten.nonzero.default: "nonzero",
    _aten.masked_select.default: "masked_select",
    _aten._unique2.default: "unique",
    _aten.unique_consecutive.default: "unique",
    _aten.bincount.default: "bincount",
    _aten.repeat_interleave.Tensor: "repeat_interleave",
}
_FETCHING = {torch.Tensor.tolist: "tolist", torch.Tensor.numpy: "numpy", torch.Tensor.__array__: "numpy"}
_MADE = {torch.tensor, torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.stack, torch.cat}


@dataclass
class Ledger:
    """What was counted, by what it was."""

    waits: Counter[str] = field(default_factory=Counter)
    """Reads by the host, and results of a size that the device decides."""
    copies: Counter[str] = field(default_factory=Counter)
    """From the host to the device that are not said to be `non_blocking`."""
    kernels: int = 0
    """Operators that work on the device; views and the host's own left out."""

    @property
    def stops(self) -> int:
        """How often the host stops, both ways."""
        return self.waits.total() + self.copies.total()


class counting:
    """A block whose operators go into a ledger: `with counting() as ledger`. Within it capture does as on a GPU, but
    that what it keeps is read tensor by tensor, where a GPU's comes in one copy."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._modes = ExitStack()

    def __enter__(self) -> Ledger:
        self._modes.enter_context(patch.object(torch, "from_numpy", _on_host(torch.from_numpy)))
        self._modes.enter_context(patch.object(BlockedProbs, "_may_ask", False))
        self._modes.enter_context(patch.object(chunks, "_gpu_numbers", lambda device: chunks.GPU_NUMBERS))
        self._modes.enter_context(_Operators(self.ledger))
        self._modes.enter_context(_Calls(self.ledger))
        return self.ledger

    def __exit__(self, *raised: Any) -> None:
        self._modes.close()


class _Calls(TorchFunctionMode):
    """What shows in Python alone: where tensors go, and reads that no operator makes."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors([*args, *kwargs.values()])
        hosts = all(map(_is_host, tensors))
        if tensors and (fetched := _fetched(func, args, kwargs)):
            if not hosts:
                self._ledger.waits[fetched] += 1
                args = (args[0].detach(), *args[1:])  # `cpu` gives the tensor itself, which stays the device's
            result = func(*args, **kwargs)
            return _mark(result, host=True)
        sent = _sent(func, args, kwargs)
        if sent and hosts and not kwargs.get("non_blocking"):
            self._ledger.copies[sent] += 1
        result = func(*args, **kwargs)
        if sent:
            return _mark(result.detach() if tensors and result is tensors[0] else result, host=False)
        if tensors or func in _MADE:
            _mark(result, host=hosts and kwargs.get("device") is None)
        return result


class _Operators(TorchDispatchMode):
    """What operators do, however deep they are called."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = _tensors(args)
        if not (tensors and all(map(_is_host, tensors))):
            if waits := _READ.get(func) or _SHAPED.get(func) or _indexed(func, args):
                self._ledger.waits[waits] += 1
            self._ledger.kernels += bool(tensors) and not func.is_view
        return func(*args, **(kwargs or {}))


def _fetched(func: Any, args: Any, kwargs: Any) -> str:
    """The name of a call that brings a tensor to the host."""
    if func is torch.Tensor.cpu or (func is torch.Tensor.to and "cpu" in (*args[1:], kwargs.get("device"))):
        return "cpu"
    return _FETCHING.get(func, "")


def _sent(func: Any, args: Any, kwargs: Any) -> str:
    """The name of a call that brings numbers of the host to the device."""
    named = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, (torch.device, str)) and a != "cpu"]
    if func is torch.Tensor.to and named:
        return "to"
    return "tensor" if func in (torch.tensor, torch.as_tensor) and named else ""


def _indexed(func: Any, args: Any) -> str:
    """Whether a tensor is read by a mask, whose ones decide how much that is."""
    if func is not _aten.index.Tensor:
        return ""
    return "mask" if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]) else ""


def _tensors(values: Any) -> list[torch.Tensor]:
    found = [v for v in values if isinstance(v, torch.Tensor)]
    return found + [t for v in values if isinstance(v, (list, tuple)) for t in v if isinstance(t, torch.Tensor)]


def _is_host(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "on_host", False)


def _mark(result: Any, *, host: bool) -> Any:
    for tensor in _tensors(result if isinstance(result, (list, tuple)) else [result]):
        tensor.on_host = host  # type: ignore[attr-defined]
    return result


def _on_host(make: Any) -> Any:
    return lambda *args: _mark(make(*args), host=True)
