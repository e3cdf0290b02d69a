"""What layers and cells share: who computes a call, and whose gates are recorded."""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from glassgate.layers import direct, operators, reference
from glassgate.layers.direct import fits, may_pass_torch_by
from glassgate.layers.operators import Maybe, Weights
from glassgate.trace import Chunk, LayerTrace

if TYPE_CHECKING:
    from glassgate.layers.editing import Scope

__all__ = ["WEIGHT_NAMES", "Call", "Scanning", "has_gradient", "say_once"]

_NOTHING = torch.empty(0)
WEIGHT_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""What torch calls a layer's weights, before the layer's own name."""
_CAST = (torch.float32, torch.bfloat16, torch.float16)  # what autocast takes for one another

_said: set[str] = set()


def say_once(message: str) -> None:
    """Warn of the line that called torch or glassgate, unless this has been said before."""
    if message in _said or torch.compiler.is_compiling():
        return
    _said.add(message)
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", "glassgate"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


class Scanning(nn.Module):
    """A module that runs the recurrences over sequences; `glassgate.record` sees its gates."""

    _recorders: tuple[dict[str, LayerTrace], ...] = ()
    _edits: "tuple[Scope, ...]" = ()
    _state_names: tuple[str, ...]
    _trace_cell: str = "gru"  # or "lstm": whose gates there are

    @property
    def _watched(self) -> bool:
        """Whether gates are recorded or edited, which torch's own path cannot do."""
        return bool(self._recorders or self._edits)

    def _begin(
        self,
        kernel: bool,
        cell: int,
        x: Tensor,
        states: list[Maybe],
        lead: tuple[int, ...],
        lengths: Maybe = None,
        resets: Maybe = None,
        bf16: bool = False,
    ) -> "Call":
        """Begin a call over x [T, N, I], whose layers then go through `Call.layer`.

        Parameters
        ----------
        kernel
            Whether there is a kernel for this device and dtype; else plain torch operations compute. They
            do too in forward-mode differentiation: with dual numbers about, they carry the tangents.
        cell, lengths, resets, bf16
            As for `operators.scan`.
        states : Tensor [*lead, H] each, or None
            The state before the first step: h, and c for an LSTM.
        lead
            [L D, N] for L layers in D directions; without L D, or without N too, for a cell.
        """
        arguments = (self, cell, x, states, lead, lengths, resets, bf16)
        kernel = kernel and forward_ad._current_level < 0
        passes = kernel and not self._edits and not torch.compiler.is_compiling()
        if passes and may_pass_torch_by(x, states, lengths, resets):
            return _Direct(*arguments) if torch.is_grad_enabled() else _Straight(*arguments)
        self._check_given(x, states, lengths, resets, kernel)
        if self._edits:
            from glassgate.layers.editing import Edited

            return Edited(kernel, *arguments)
        return Call(*arguments) if kernel else _Plain(*arguments)

    def _check_given(
        self, x: Tensor, states: list[Maybe], lengths: Maybe, resets: Maybe, kernel: bool
    ) -> None:
        """Refuse what can be wrong in a call that does not pass torch by."""
        for name, tensor in (*zip(self._state_names, states, strict=True), ("resets", resets)):
            if tensor is None:
                continue
            if tensor.device != x.device:
                raise self._error(f"{name} must be on {x.device} like the input, got {tensor.device}")
            if tensor is not resets and tensor.dtype != x.dtype:
                raise self._error(f"{name} must be of {x.dtype} like the input, got {tensor.dtype}")
        if lengths is not None and (self._edits or not kernel):
            reference.check_lengths(lengths, len(x))

    def _weight(self, name: str) -> Any:
        weight = self._parameters.get(name)  # where it is unless it is parametrised
        return getattr(self, name) if weight is None else weight

    def _autocast(self, x: Tensor) -> torch.dtype | None:
        """Return the dtype of an active autocast, else None."""
        device = x.device.type
        active = device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64
        return torch.get_autocast_dtype(device) if active else None

    def _check_dtype(self, x: Tensor, weight: Tensor, autocast: torch.dtype | None) -> None:
        if x.dtype == weight.dtype or (autocast and x.dtype in _CAST and weight.dtype in _CAST):
            return
        raise self._error(f"the input must be of {weight.dtype} like the weights, got {x.dtype}")

    def _error(self, message: str) -> GlassgateError:
        return GlassgateError(f"{type(self).__name__}: {message}")

    def _trace_names(self) -> Sequence[str]:
        raise NotImplementedError

    def _trace(self, name: str, hidden: Tensor, gates: Maybe, state: Maybe, lengths: Maybe) -> None:
        active = None
        if lengths is not None:
            active = torch.arange(len(hidden), device=lengths.device).unsqueeze(1) < lengths
        for recorder in self._recorders:
            if name not in recorder:
                continue
            recorder[name].add(Chunk(hidden, gates, state, active))

    def __getstate__(self) -> dict[str, Any]:
        # A copy made while recording is a model, not a recording; likewise for edits.
        state = dict(super().__getstate__())  # type: ignore[no-untyped-call]
        state.pop("_recorders", None)
        state.pop("_edits", None)
        return state


class Call:
    """One call of a module, layer after layer, by torch's operators: autograd and all its like see them."""

    def __init__(
        self,
        module: Scanning,
        cell: int,
        x: Tensor,
        states: list[Maybe],
        lead: tuple[int, ...],
        lengths: Maybe,
        resets: Maybe,
        bf16: bool,
    ) -> None:
        self.module, self.cell, self.states, self.lead = module, cell, states, lead
        self.lengths, self.resets, self.bf16 = lengths, resets, bf16
        self.number = 0
        self.done: list[reference.Scan] = []

    def layer(self, name: str, x: Tensor, weights: Weights, reverse: bool, **projection: Any) -> Tensor:
        """Run the next layer or direction over x [T, N, I] and return its hidden states [T, N, H]."""
        self._check(name, x, weights)
        h0, c0 = [state if state is None else self._row(state) for state in (*self.states, None)[:2]]
        inputs = (x, *weights, h0, c0)
        gradient = has_gradient(inputs)
        options = (self.lengths, self.resets, reverse, self.bf16, gradient or bool(self.module._recorders))
        y = self._scan(self.cell, *inputs, *options, **projection)
        self.done.append(y)
        self.number += 1
        if self.module._recorders:
            self.module._trace(name, y.hidden, y.gates, y.state, self.lengths)
        return y.hidden

    _scan: Callable[..., reference.Scan] = staticmethod(operators.scan)

    def _check(self, name: str, x: Tensor, weights: Weights) -> None:
        """Refuse weights that were given another shape, dtype or device than the layer's."""
        module: Any = self.module
        rows = reference.gate_count(self.cell) * module.hidden_size
        wide = getattr(module, "proj_size", 0) or module.hidden_size
        shapes: tuple[tuple[int, ...], ...] = (rows, x.shape[2]), (rows, wide), (rows,), (rows,)
        for kind, weight, shape in zip(WEIGHT_NAMES, weights, shapes, strict=True):
            if weight is None:
                continue
            full = f"{kind}_{name}" if name else kind
            if weight.shape != shape:
                raise module._error(f"{full} must have shape {list(shape)}, got {list(weight.shape)}")
            if weight.dtype != x.dtype:
                raise module._error(f"{full} must be of {x.dtype} like the input, got {weight.dtype}")
            if weight.device != x.device:
                came = f"{weight.device} and {x.device}"
                raise module._error(f"{full} and the input must be on one device, got {came}")

    def _row(self, state: Tensor) -> Tensor:
        """Cut the part [N, H] of the next layer or direction out of a state."""
        if len(self.lead) == 2:
            return state[self.number]
        return state if self.lead else state.unsqueeze(0)

    def finals(self) -> list[Tensor]:
        """Return the states [*lead, H] after the last step."""
        kinds = [[y.h_n for y in self.done], [y.c_n for y in self.done]][: len(self.states)]
        if len(self.lead) == 2:
            return [torch.stack(kind) for kind in kinds]
        return [kind[0] if self.lead else kind[0].squeeze(0) for kind in kinds]


class _Plain(Call):
    """A call by plain torch operations, slow, on any device and dtype."""

    _scan = staticmethod(reference.scan)


class _Direct(Call):
    """A call that may have gradients, past torch's dispatcher to the kernels: the same bits, sooner."""

    def layer(self, name: str, x: Tensor, weights: Weights, reverse: bool, **projection: Any) -> Tensor:
        module = self.module
        if not _fit(weights, self.cell, x.shape[2], module.hidden_size, x.dtype):  # type: ignore[arg-type]
            return super().layer(name, x, weights, reverse)
        h0, c0 = [state if state is None else self._row(state) for state in (*self.states, None)[:2]]
        inputs = (x, *weights, h0, c0)
        shown = bool(module._recorders)
        marks, save = (self.lengths, self.resets), shown or has_gradient(inputs)
        out = direct.scan(self.cell, (*inputs, *marks), reverse, self.bf16, save, shown)
        y = reference.Scan(*[_NOTHING if t is None else t for t in (*out, None, None)[:5]])
        self.number += 1
        self.done.append(y)
        if shown:
            module._trace(name, y.hidden, y.gates, y.state, self.lengths)
        return y.hidden


class _Straight(Call):
    """A call without gradients, past torch's dispatcher to the kernels: the same bits, some 40 us sooner."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        module, _, x, _, lead = arguments[:5]
        self.before = [state if state is None else state.contiguous() for state in self.states]
        self.marks = [t if t is None else t.contiguous() for t in (self.lengths, self.resets)]
        self.after = [x.new_empty(*lead, module.hidden_size) for _ in self.states]

    def layer(self, name: str, x: Tensor, weights: Weights, reverse: bool, **projection: Any) -> Tensor:
        (T, N, I), H, dtype = x.shape, self.after[0].shape[-1], x.dtype
        if not _fit(weights, self.cell, I, H, dtype):
            to = [self._row(state) for state in self.after]
            hidden = super().layer(name, x, weights, reverse)
            for row, value in zip(to, (self.done[-1].h_n, self.done[-1].c_n), strict=False):
                row.copy_(value)
            return hidden
        x, save = x.contiguous(), bool(self.module._recorders)
        hidden, gates, state = direct.buffers(self.cell, x, H, save)
        skip = self.number * N * H * dtype.itemsize
        self.number += 1
        h0, c0, h_n, c_n = (
            None if t is None else t.data_ptr() + skip
            for tensors in (self.before, self.after)
            for t in (*tensors, None)[:2]
        )
        at = operators.address
        operators.call(
            *(_native.forward, self.cell, dtype == torch.float64, T, N, I, H),
            *(x.data_ptr(), *map(at, weights), None, h0, c0, *map(at, self.marks), reverse, self.bf16),
            *(hidden.data_ptr(), at(state), at(gates), h_n, c_n),
        )
        if save:
            self.module._trace(name, hidden, gates, state, self.lengths)
        return hidden

    def finals(self) -> list[Tensor]:
        return self.after


def has_gradient(tensors: Iterable[Maybe]) -> bool:
    """Tell whether autograd will want what the forward pass saves."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _fit(weights: Sequence[Maybe], cell: int, I: int, H: int, dtype: torch.dtype) -> bool:
    """Whether a kernel may read the weights where they lie."""
    rows = reference.gate_count(cell) * H
    for weight, shape in zip(weights, ((rows, I), (rows, H), (rows,), (rows,)), strict=True):
        if weight is not None and not (fits(weight, shape, dtype) and weight.is_contiguous()):
            return False
    return True
