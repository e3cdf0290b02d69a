"""The way past torch's dispatcher: a call that nobody else is to see goes to the kernels at once.

The dispatcher, with the wrappers that its Python operators need, takes ten times as long as a small layer.
What is computed is the same, by the same kernels; as soon as a mode, a tracer, a transform, a tensor of
another kind or a derivative of a derivative is about, `glassgate.layers.operators` takes over.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import _SingleLevelFunction

from glassgate.layers.gradients import input_gradients
from glassgate.layers.memory import SMALL, empty
from glassgate.layers.operators import Maybe, Sizes, run, run_backward
from glassgate.layers.reference import GRU_BEFORE, LSTM, gate_count

__all__ = ["buffers", "fits", "is_plain", "may_pass_torch_by", "scan", "unobserved"]

_PLAIN = {torch.Tensor, nn.Parameter}
_keys = torch._C._dispatch_keys


def _ordinary_keys() -> set[int]:
    """Return the dispatch keys of dense tensors on the CPU, made for autograd and in inference mode."""
    ordinary = torch.empty(0)
    with torch.inference_mode():
        return {_keys(t).raw_repr() for t in (ordinary, torch.empty(0))}


_KEYS = _ordinary_keys()


def is_plain(tensor: Tensor) -> bool:
    """Tell whether the tensor's values are what lies at its address, here on the CPU."""
    return type(tensor) in _PLAIN and _keys(tensor).raw_repr() in _KEYS


def fits(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Tell whether a kernel that expects this shape and dtype may read a tensor, in one piece or not."""
    return (
        tensor.dtype == dtype
        and tensor.shape == shape
        and type(tensor) in _PLAIN
        and _keys(tensor).raw_repr() in _KEYS
    )


def unobserved() -> bool:
    """Tell whether nobody but the kernel is to see a call: no mode, no transform, no tracer is about."""
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack()
        or torch._C._is_tracing()
        or torch._C._autograd._profiler_enabled()
    )


def may_pass_torch_by(x: Tensor, states: Iterable[Maybe], *marks: Maybe) -> bool:
    """Tell whether a call with these tensors, beside the weights, may go to the kernels at once."""
    return (
        unobserved()
        and all(is_plain(t) and t.dtype == x.dtype for t in (x, *states) if t is not None)
        and all(is_plain(mark) for mark in marks if mark is not None)
    )


def buffers(cell: int, x: Tensor, H: int, save: bool) -> tuple[Tensor, Maybe, Maybe]:
    """Return where hidden, gates and state of a call go; None for what the cell lacks or nobody keeps."""
    T, N, _ = x.shape
    G = gate_count(cell)
    new: Callable[..., Tensor] = (
        x.new_empty if T * N * G * H * x.dtype.itemsize < SMALL else partial(empty, x)
    )
    return (
        new(T, N, H),
        new(T, N, G, H) if save else None,
        new(T, N, H) if save and cell != GRU_BEFORE else None,
    )


class _Scan(_SingleLevelFunction):
    """`operators.scan` for tensors that fit, and its gradients."""

    @staticmethod
    def forward(ctx: Any, cell: int, *arguments: Any) -> tuple[Maybe, ...]:
        inputs, (reverse, bf16, shown) = arguments[:9], arguments[9:]
        out = _forward(cell, inputs, reverse, bf16, save=True)
        hidden, _, _, gates, state = out
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, hidden, gates, state)
        ctx.call = cell, reverse, bf16
        return out if shown else out[:3]

    @staticmethod
    def backward(ctx: Any, *d_outputs: Maybe) -> tuple[Maybe, ...]:
        cell, reverse, bf16 = ctx.call
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:8]
        d_hidden, d_h_n, d_c_n, d_gates, d_state = (*d_outputs, None, None)[:5]
        if torch.is_grad_enabled() or not _still_fit(cell, saved, d_outputs):
            d_all = (d_hidden, d_h_n, d_c_n, d_gates, d_state)
            return (None, *input_gradients(cell, saved, reverse, bf16, d_all, wanted), *[None] * 5)
        x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets, hidden, gates, state = saved
        of = (x, w_ih, w_hh, b_ih, b_hh, h0, c0)
        to = [empty(x, *t.shape) if want else None for t, want in zip(of, wanted, strict=True)]
        (T, N, I), H = x.shape, hidden.shape[2]
        inputs = (x, w_ih, w_hh, h0, c0, lengths, resets)
        further = (hidden, state, gates, d_hidden, d_state, d_gates, d_h_n, d_c_n)
        run_backward(cell, Sizes(T, N, I, H), inputs, reverse, bf16, further, to)
        return (None, *to, *[None] * 5)


def _forward(cell: int, inputs: tuple[Any, ...], reverse: bool, bf16: bool, save: bool) -> tuple[Maybe, ...]:
    """Return hidden, h_n, c_n, gates and state; None for what the cell lacks or nobody keeps."""
    x = inputs[0]
    (T, N, I), H = x.shape, inputs[2].shape[1]
    hidden, gates, state = buffers(cell, x, H, save)
    h_n = x.new_empty(N, H)
    c_n = x.new_empty(N, H) if cell == LSTM else None
    run(cell, Sizes(T, N, I, H), inputs, reverse, bf16, (hidden, state, gates, h_n, c_n))
    return hidden, h_n, c_n, gates, state


def _still_fit(cell: int, saved: tuple[Any, ...], d_outputs: tuple[Maybe, ...]) -> bool:
    """Tell whether the backward kernel may read what was saved and the gradients, whose shapes torch checked.

    What was saved is a leaf that may have been given other data, or comes from a user's hooks.
    """
    x, w_ih, w_hh, _, _, h0, c0, lengths, resets, hidden, gates, state = saved
    if not unobserved() or x.dim() != 3 or w_hh.dim() != 2 or not is_plain(x):
        return False
    (T, N, I), H, dtype, G = x.shape, w_hh.shape[1], x.dtype, gate_count(cell)
    return (
        fits(w_ih, (G * H, I), dtype)
        and fits(w_hh, (G * H, H), dtype)
        and fits(hidden, (T, N, H), dtype)
        and fits(gates, (T, N, G, H), dtype)
        and (state is None or fits(state, (T, N, H), dtype))
        and (h0 is None or fits(h0, (N, H), dtype))
        and (c0 is None or fits(c0, (N, H), dtype))
        and (lengths is None or fits(lengths, (N,), torch.int64))
        and (resets is None or fits(resets, (T, N), torch.bool))
        and all(is_plain(d) for d in d_outputs if d is not None)
    )


def scan(
    cell: int,
    inputs: tuple[Any, ...],
    reverse: bool,
    bf16: bool,
    save: bool,
    shown: bool,
) -> tuple[Maybe, ...]:
    """Run one layer in one direction on tensors that fit; gradients follow.

    Parameters
    ----------
    cell, inputs, reverse, bf16
        As `operators.scan` takes them; ``inputs`` from x to resets.
    save
        Whether gradients or gates are wanted.
    shown
        Whether gates and states are results.

    Returns
    -------
    tuple
        hidden, h_n, c_n, and when shown gates and state, else fewer; None for what the cell lacks.

    Examples
    --------
    >>> x, w = torch.ones(3, 1, 2), torch.zeros(8, 2)
    >>> inputs = (x, w, w, None, None, None, None, None, None)
    >>> hidden, h_n, c_n = scan(LSTM, inputs, False, False, save=False, shown=False)
    >>> tuple(hidden.shape), h_n
    ((3, 1, 2), tensor([[0., 0.]]))
    """
    if not save:
        return _forward(cell, inputs, reverse, bf16, save=False)[:3]
    out: tuple[Maybe, ...] = _Scan.apply(cell, *inputs, reverse, bf16, shown)  # type: ignore[attr-defined]
    return out
