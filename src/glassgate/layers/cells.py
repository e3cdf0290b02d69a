"""One step at a time: torch's LSTMCell and GRUCell on the kernels."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from glassgate.errors import GlassgateError
from glassgate.layers import operators, reference
from glassgate.layers.scanning import WEIGHT_NAMES, Scanning, say_once

__all__ = ["GRUCell", "LSTMCell"]


class _Path(NamedTuple):
    """Who computes a step, torch's own cell, the kernel or torch's operations, and under which autocast."""

    theirs: bool
    kernel: bool
    autocast: torch.dtype | None


class _Cell(Scanning, nn.RNNCellBase):
    """What both cells share; a cell has one trace, without a name of its own."""

    _state_names: tuple[str, ...] = ("h",)

    def _trace_names(self) -> Sequence[str]:
        return ("",)

    def _kind(self) -> int:
        raise NotImplementedError

    def _lacks(self, x: Tensor, autocast: torch.dtype | None) -> str:
        """Return what the kernels lack for this input, in words; "" if nothing."""
        device = x.device.type
        if device not in ("cpu", "meta"):
            return f"device {device}"
        if autocast is not None:
            return f"autocast to {autocast}"
        return "" if x.dtype in operators.KERNEL_DTYPES else str(x.dtype)

    def _choose(self, x: Tensor) -> _Path:
        if not isinstance(x, Tensor):
            raise self._error(f"the input must be a tensor, got {type(x).__name__}")
        autocast = self._autocast(x)
        self._check_dtype(x, self._weight("weight_ih"), autocast)
        lacks = self._lacks(x, autocast)
        theirs = bool(lacks) and not self._watched and self._kind() != reference.GRU_BEFORE
        who = "torch's own path computes" if theirs else "plain torch operations compute, slowly"
        if lacks:
            say_once(f"{type(self).__name__}: no kernel for {lacks}, {who}")
        return _Path(theirs, not lacks, autocast)

    def _step(self, path: _Path, x: Tensor, *states: Tensor | None) -> list[Tensor]:
        if x.dim() not in (1, 2) or x.shape[-1] != self.input_size:
            expected = f"[N, {self.input_size}] or [{self.input_size}]"
            raise self._error(f"the input must be {expected}, got {list(x.shape)}")
        shape = (*x.shape[:-1], self.hidden_size)
        for name, state in zip(self._state_names, states, strict=True):
            if state is None:
                continue
            if not isinstance(state, Tensor):
                raise self._error(f"{name} must be a tensor, got {type(state).__name__}")
            if state.shape != shape:
                raise self._error(f"{name} must be {list(shape)}, got {list(state.shape)}")
        dtype, autocast = x.dtype, path.autocast
        tensors = (x.reshape(1, -1, self.input_size), *map(self._weight, WEIGHT_NAMES), *states)
        if autocast is not None:
            tensors = tuple(t if t is None else t.float() for t in tensors)
        steps, weights, before = tensors[0], tensors[1:5], list(tensors[5:])
        bf16 = autocast == torch.bfloat16
        call = self._begin(path.kernel, self._kind(), steps, before, shape[:-1], bf16=bf16)
        call.layer("", steps, weights, False)
        return call.finals() if autocast is None else [state.to(dtype) for state in call.finals()]


class LSTMCell(_Cell, nn.LSTMCell):
    """``torch.nn.LSTMCell`` on glassgate's kernels; a sequence step by step is `LSTM` to the bit.

    Constructor, parameters, results and shapes are those of ``torch.nn.LSTMCell``. `glassgate.record` joins
    the steps: its gates are [T, N, H] after T calls.

    Parameters
    ----------
    *args, **kwargs
        As for ``torch.nn.LSTMCell``: ``input_size``, ``hidden_size``, ``bias``, ``device``, ``dtype``.

    Raises
    ------
    GlassgateError
        From the call: a shape does not fit.

    Examples
    --------
    >>> import torch
    >>> cell = LSTMCell(10, 20)
    >>> h, c = cell(torch.randn(3, 10))
    >>> h, c = cell(torch.randn(3, 10), (h, c))
    >>> tuple(h.shape)
    (3, 20)
    """

    _state_names = ("h", "c")
    _trace_cell = "lstm"

    def _kind(self) -> int:
        return reference.LSTM

    def forward(
        self,
        input: Tensor,  # noqa: A002  # torch's own name
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Take one step: input [N, I] or [I], hx the pair (h, c) of [N, H] or [H]; returns the new pair."""
        if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise self._error(f"hx must be the pair (h, c), got {type(hx).__name__}")
        path = self._choose(input)
        if path.theirs:
            return super().forward(input, hx)
        h, c = self._step(path, input, *((None, None) if hx is None else hx))
        return h, c


class GRUCell(_Cell, nn.GRUCell):
    """``torch.nn.GRUCell`` on glassgate's kernels; a sequence step by step is `GRU` to the bit.

    Parameters
    ----------
    *args, **kwargs
        As for ``torch.nn.GRUCell``: ``input_size``, ``hidden_size``, ``bias``, ``device``, ``dtype``.
    reset
        ``"after"``, torch's form, or ``"before"``, the notes'; see `GRU`.

    Raises
    ------
    GlassgateError
        ``reset`` is neither; from the call: a shape does not fit.

    Examples
    --------
    >>> import torch
    >>> cell = GRUCell(10, 20, reset="before")
    >>> h = cell(torch.randn(3, 10))
    >>> tuple(cell(torch.randn(3, 10), h).shape)
    (3, 20)
    """

    reset: Literal["before", "after"] = "after"

    def __init__(self, *args: Any, reset: Literal["before", "after"] = "after", **kwargs: Any) -> None:
        if reset not in ("before", "after"):
            raise GlassgateError(f"reset: must be before or after, got {reset!r}")
        super().__init__(*args, **kwargs)
        self.reset = reset

    def extra_repr(self) -> str:
        """Return what torch shows, and ``reset`` where it is not torch's."""
        return super().extra_repr() + ("" if self.reset == "after" else ", reset=before")

    def _kind(self) -> int:
        return reference.GRU_AFTER if self.reset == "after" else reference.GRU_BEFORE

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002  # torch's own name
        """Take one step: input [N, I] or [I], hx [N, H] or [H]; returns the new state."""
        path = self._choose(input)
        if path.theirs:
            return super().forward(input, hx)
        return self._step(path, input, hx)[0]
