"""The kernels as torch operators: schema, shapes, and the call itself.

``torch.ops.glassgate.scan`` runs one layer in one direction over a sequence and ``scan_backward`` its
gradients; `glassgate.layers.reference.scan` says what they compute, with the same arguments. Gates and cell
states are results like any other: what the lens shows is what the backward pass reads, and a loss may
depend on them. `gradients` and `batching` beside this file make the operators differentiable and vmap's.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from glassgate.layers.reference import GRU_BEFORE, LSTM, Scan, gate_count

__all__ = ["KERNEL_DTYPES", "LIBRARY", "SCAN", "SCAN_BACKWARD", "Maybe", "scan"]

KERNEL_DTYPES = (torch.float32, torch.float64)
"""What the kernels compute in, on the CPU."""

LIBRARY: Any = torch.library.Library("glassgate", "DEF")  # type: ignore[no-untyped-call]
_INPUTS = (
    "Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? c0, "
    "Tensor? lengths, Tensor? resets, bool reverse, bool bf16"
)
LIBRARY.define(f"scan(int cell, {_INPUTS}, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
# The gradients come in the order x, w_ih, w_hh, b_ih, b_hh, h0, c0; one that is not wanted is empty.
LIBRARY.define(
    f"scan_backward(int cell, {_INPUTS}, Tensor hidden, Tensor gates, Tensor state, Tensor? d_hidden, "
    "Tensor? d_h_n, Tensor? d_c_n, Tensor? d_gates, Tensor? d_state, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
SCAN = torch.ops.glassgate.scan.default
SCAN_BACKWARD = torch.ops.glassgate.scan_backward.default

Maybe: TypeAlias = Tensor | None

_WHOLE = {"lengths": torch.int64, "resets": torch.bool}  # all others have the input's dtype


def scan(
    cell: int,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Maybe,
    b_hh: Maybe,
    h0: Maybe,
    c0: Maybe,
    lengths: Maybe,
    resets: Maybe,
    reverse: bool,
    bf16: bool,
    save: bool,
) -> Scan:
    """Run one layer in one direction by the kernels; arguments and results as `reference.scan`.

    With ``save=False`` nothing is kept for the backward pass, which then computes the gates again.

    Raises
    ------
    GlassgateError
        A shape or a dtype does not fit, or a length is not from 0 to T.

    Examples
    --------
    >>> w = torch.zeros(8, 2)
    >>> arguments = (LSTM, torch.ones(3, 1, 2), w, w, None, None, None, None, None, None, False, False, True)
    >>> y = scan(*arguments)
    >>> tuple(y.gates.shape)  # i, f, g, o
    (3, 1, 4, 2)
    """
    return Scan(*SCAN(cell, x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets, reverse, bf16, save))


def _check(cell: int, **tensors: Maybe) -> tuple[int, int, int, int]:
    """Return T, N, I, H if all shapes and dtypes fit: what the kernels are told lies there must lie there."""
    x, w_hh = tensors["x"], tensors["w_hh"]
    assert x is not None
    assert w_hh is not None
    if x.dim() != 3 or w_hh.dim() != 2:
        raise GlassgateError(f"scan: x must have shape [T, N, I], got {list(x.shape)}")
    (T, N, I), H = x.shape, w_hh.shape[1]
    G = gate_count(cell)
    states = (T, N, H) if cell != GRU_BEFORE else (0,)
    shapes: dict[str, tuple[int, ...]] = {
        "x": (T, N, I),
        "w_ih": (G * H, I),
        "w_hh": (G * H, H),
        "b_ih": (G * H,),
        "b_hh": (G * H,),
        "h0": (N, H),
        "c0": (N, H),
        "lengths": (N,),
        "resets": (T, N),
        "hidden": (T, N, H),
        "gates": (T, N, G, H),
        "state": states,
        "d_hidden": (T, N, H),
        "d_h_n": (N, H),
        "d_c_n": (N, H) if cell == LSTM else (0,),
        "d_gates": (T, N, G, H),
        "d_state": states,
    }
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.shape != shapes[name]:
            expected, came = list(shapes[name]), list(tensor.shape)
            raise GlassgateError(f"scan: {name} must have shape {expected}, got {came}")
        if tensor.dtype != (dtype := _WHOLE.get(name, x.dtype)):
            raise GlassgateError(f"scan: {name} must be of {dtype}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise GlassgateError(f"scan: {name} must be on {x.device} like the input, got {tensor.device}")
    return T, N, I, H


def _empty_scan(cell: int, x: Tensor, sizes: tuple[int, int, int, int], save: bool) -> Scan:
    T, N, _, H = sizes
    nothing = (0,)
    return Scan(
        x.new_empty((T, N, H)),
        x.new_empty((N, H)),
        x.new_empty((N, H) if cell == LSTM else nothing),
        x.new_empty((T, N, gate_count(cell), H) if save else nothing),
        x.new_empty((T, N, H) if save and cell != GRU_BEFORE else nothing),
    )


def _dense(tensors: tuple[Maybe, ...]) -> tuple[Maybe, ...]:
    return tuple(t if t is None or t.is_contiguous() else t.contiguous() for t in tensors)


def _at(tensor: Maybe) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _scan_cpu(
    cell: int,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Maybe,
    b_hh: Maybe,
    h0: Maybe,
    c0: Maybe,
    lengths: Maybe,
    resets: Maybe,
    reverse: bool,
    bf16: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    sizes = _check(
        cell, x=x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh, h0=h0, c0=c0, lengths=lengths, resets=resets
    )
    out = _empty_scan(cell, x, sizes, save)
    # The name keeps the copies alive until the kernel is done with their addresses.
    dense = _dense((x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets))
    at = [_at(tensor) for tensor in dense]
    _call(
        _native.forward,
        cell,
        _twice(x),
        *sizes,
        *at[:5],
        None,
        *at[5:],
        reverse,
        bf16,
        _at(out.hidden),
        _at(out.state) if save else None,
        _at(out.gates) if save else None,
        _at(out.h_n),
        _at(out.c_n),
    )
    return tuple(out)


def _scan_backward_cpu(
    cell: int,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Maybe,
    b_hh: Maybe,
    h0: Maybe,
    c0: Maybe,
    lengths: Maybe,
    resets: Maybe,
    reverse: bool,
    bf16: bool,
    hidden: Tensor,
    gates: Tensor,
    state: Tensor,
    d_hidden: Maybe,
    d_h_n: Maybe,
    d_c_n: Maybe,
    d_gates: Maybe,
    d_state: Maybe,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    sizes = _check(
        cell,
        x=x,
        w_ih=w_ih,
        w_hh=w_hh,
        h0=h0,
        c0=c0,
        lengths=lengths,
        resets=resets,
        hidden=hidden,
        gates=gates,
        state=state,
        d_hidden=d_hidden,
        d_h_n=d_h_n,
        d_c_n=d_c_n,
        d_gates=d_gates,
        d_state=d_state,
    )
    out = _empty_gradients(x, sizes, w_hh.shape[0], wanted)
    given = (x, w_ih, w_hh, h0, c0, lengths, resets, hidden, state, gates)
    dense = _dense((*given, d_hidden, d_state, d_gates, d_h_n, d_c_n))
    at = [_at(tensor) for tensor in dense]
    to = [_at(tensor) if want else None for tensor, want in zip(out, wanted, strict=True)]
    _call(_native.backward, cell, _twice(x), *sizes, *at[:7], reverse, bf16, *at[7:], *to)
    return out


def _call(kernel: Callable[..., None], *arguments: Any) -> None:
    try:
        kernel(*arguments)
    except ValueError as error:
        raise GlassgateError(f"scan: {error}") from None


def _twice(x: Tensor) -> bool:
    if x.dtype not in KERNEL_DTYPES:
        raise GlassgateError(f"scan: the kernels compute in float32 or float64, got {x.dtype}")
    return x.dtype == torch.float64


def _empty_gradients(
    x: Tensor, sizes: tuple[int, int, int, int], rows: int, wanted: list[bool]
) -> tuple[Tensor, ...]:
    T, N, I, H = sizes
    shapes = (T, N, I), (rows, I), (rows, H), (rows,), (rows,), (N, H), (N, H)
    return tuple(x.new_empty(shape if want else 0) for shape, want in zip(shapes, wanted, strict=True))


def _scan_fake(*arguments: Any) -> tuple[Tensor, ...]:
    cell, x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets, _, _, save = arguments
    sizes = _check(
        cell, x=x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh, h0=h0, c0=c0, lengths=lengths, resets=resets
    )
    return tuple(_empty_scan(cell, x, sizes, save))


def _scan_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    x, w_hh, wanted = arguments[1], arguments[3], arguments[-1]
    return _empty_gradients(x, (*x.shape, w_hh.shape[1]), w_hh.shape[0], wanted)


LIBRARY.impl("scan", _scan_cpu, "CPU")
LIBRARY.impl("scan_backward", _scan_backward_cpu, "CPU")
torch.library.register_fake(SCAN, _scan_fake, lib=LIBRARY)
torch.library.register_fake(SCAN_BACKWARD, _scan_backward_fake, lib=LIBRARY)
