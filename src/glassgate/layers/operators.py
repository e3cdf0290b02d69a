"""The kernels as torch operators: schema, shapes, and the call itself.

``torch.ops.glassgate.scan`` runs one layer in one direction over a sequence and ``scan_backward`` its
gradients; `glassgate.layers.reference.scan` says what they compute, with the same arguments. Gates and cell
states are results like any other: what the lens shows is what the backward pass reads, and a loss may
depend on them. `gradients` and `batching` beside this file make the operators differentiable and vmap's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from glassgate.edit_tables import Table
from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from glassgate.layers.reference import GRU_BEFORE, LSTM, Scan, gate_count

__all__ = [
    "KERNEL_DTYPES",
    "LIBRARY",
    "SCAN",
    "SCAN_BACKWARD",
    "Maybe",
    "Sizes",
    "Weights",
    "address",
    "call",
    "edited_scan",
    "run",
    "run_backward",
    "scan",
]

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
Weights: TypeAlias = tuple[Tensor, Tensor, Maybe, Maybe]
"""w_ih, w_hh, b_ih, b_hh."""

_SCAN = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0", "lengths", "resets")
_SAVED = ("hidden", "gates", "state")
_GIVEN = ("d_hidden", "d_h_n", "d_c_n", "d_gates", "d_state")
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


class Sizes(NamedTuple):
    """How many steps, sequences, inputs and hidden units a call has."""

    T: int
    N: int
    I: int
    H: int


def _check(cell: int, tensors: dict[str, Maybe]) -> Sizes:
    """Return the sizes if all shapes and dtypes fit: what the kernels are told lies there must lie there."""
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
    return Sizes(T, N, I, H)


def _empty_scan(cell: int, x: Tensor, sizes: Sizes, save: bool) -> Scan:
    T, N, _, H = sizes
    return Scan(
        x.new_empty(T, N, H),
        x.new_empty(N, H),
        x.new_empty(N, H) if cell == LSTM else x.new_empty(0),
        x.new_empty(T, N, gate_count(cell), H) if save else x.new_empty(0),
        x.new_empty(T, N, H) if save and cell != GRU_BEFORE else x.new_empty(0),
    )


def _empty_gradients(x: Tensor, sizes: Sizes, rows: int, wanted: list[bool]) -> tuple[Tensor, ...]:
    T, N, I, H = sizes
    shapes = (T, N, I), (rows, I), (rows, H), (rows,), (rows,), (N, H), (N, H)
    return tuple(x.new_empty(shape if want else 0) for shape, want in zip(shapes, wanted, strict=True))


def address(tensor: Maybe) -> int | None:
    """Return where a tensor lies, as the kernels take it."""
    return None if tensor is None else tensor.data_ptr()


def call(kernel: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel; what it refuses is the user's input."""
    try:
        kernel(*arguments)
    except ValueError as error:
        raise GlassgateError(f"scan: {error}") from None


def _dense(tensors: Sequence[Maybe]) -> list[Maybe]:
    return [t if t is None or t.is_contiguous() else t.contiguous() for t in tensors]


def _twice(x: Maybe) -> bool:
    assert x is not None
    if x.dtype not in KERNEL_DTYPES:
        raise GlassgateError(f"scan: the kernels compute in float32 or float64, got {x.dtype}")
    return x.dtype == torch.float64


# The operators' arguments come as the schemas list them; what runs on the CPU and what stands for it while
# shapes are traced read them alike.


def run(
    cell: int,
    sizes: Sizes,
    inputs: Sequence[Maybe],
    reverse: bool,
    bf16: bool,
    to: Sequence[Maybe],
    table: Table | None = None,
) -> None:
    """Call the forward kernel on tensors that fit; nothing is checked here but lengths.

    Parameters
    ----------
    inputs
        x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets.
    to
        hidden, state, gates, h_n, c_n: written; None where they are not wanted or the cell has none.
    """
    dense = _dense(inputs)  # the name keeps the copies alive until the kernel is done
    at, there = [*map(address, dense)], map(address, to)
    edits = () if table is None else (table.rows, table.edits, len(table.edits))
    call(
        _native.forward, cell, _twice(dense[0]), *sizes, *at[:5], None, *at[5:], reverse, bf16, *there, *edits
    )


def run_backward(
    cell: int,
    sizes: Sizes,
    inputs: Sequence[Maybe],
    reverse: bool,
    bf16: bool,
    further: Sequence[Maybe],
    to: Sequence[Maybe],
) -> None:
    """Call the backward kernel on tensors that fit; nothing is checked here but lengths.

    Parameters
    ----------
    inputs
        x, w_ih, w_hh, h0, c0, lengths, resets.
    further
        hidden, state, gates, d_hidden, d_state, d_gates, d_h_n, d_c_n.
    to
        The gradients on x, w_ih, w_hh, b_ih, b_hh, h0, c0: written; None where they are not wanted.
    """
    dense, rest = _dense(inputs), _dense(further)
    at = (*map(address, dense), reverse, bf16, *map(address, rest))
    call(_native.backward, cell, _twice(dense[0]), *sizes, *at, *map(address, to))


def _scan_cpu(cell: int, *arguments: Any, table: Table | None = None) -> tuple[Tensor, ...]:
    x, (reverse, bf16, save) = arguments[0], arguments[9:]
    sizes = _check(cell, dict(zip(_SCAN, arguments[:9], strict=True)))
    out = _empty_scan(cell, x, sizes, save)
    to = [t if t.dim() > 1 else None for t in (out.hidden, out.state, out.gates, out.h_n, out.c_n)]
    run(cell, sizes, arguments[:9], reverse, bf16, to, table)
    return tuple(out)


def edited_scan(table: Table, cell: int, *arguments: Any) -> Scan:
    """Run `scan` with edits, on plain tensors on the CPU and without gradients."""
    return Scan(*_scan_cpu(cell, *arguments, table=table))


def _scan_fake(cell: int, *arguments: Any) -> tuple[Tensor, ...]:
    sizes = _check(cell, dict(zip(_SCAN, arguments[:9], strict=True)))
    return tuple(_empty_scan(cell, arguments[0], sizes, save=arguments[-1]))


def _backward_checked(
    cell: int, arguments: tuple[Any, ...]
) -> tuple[dict[str, Maybe], Sizes, tuple[Tensor, ...]]:
    """Return the tensors by name, the sizes, and the gradients to be written."""
    names = (*_SCAN, "reverse", "bf16", *_SAVED, *_GIVEN)
    tensors = dict(zip(names, arguments[:-1], strict=True))
    del tensors["reverse"], tensors["bf16"]
    sizes = _check(cell, tensors)
    return tensors, sizes, _empty_gradients(arguments[0], sizes, len(arguments[2]), arguments[-1])


def _scan_backward_cpu(cell: int, *arguments: Any) -> tuple[Tensor, ...]:
    t, sizes, out = _backward_checked(cell, arguments)
    reverse, bf16, wanted = arguments[9], arguments[10], arguments[-1]
    inputs = [t[name] for name in ("x", "w_ih", "w_hh", "h0", "c0", "lengths", "resets")]
    further = ("hidden", "state", "gates", "d_hidden", "d_state", "d_gates", "d_h_n", "d_c_n")
    to = [gradient if want else None for gradient, want in zip(out, wanted, strict=True)]
    run_backward(cell, sizes, inputs, reverse, bf16, [t[name] for name in further], to)
    return out


def _scan_backward_fake(cell: int, *arguments: Any) -> tuple[Tensor, ...]:
    return _backward_checked(cell, arguments)[2]


LIBRARY.impl("scan", _scan_cpu, "CPU")
LIBRARY.impl("scan_backward", _scan_backward_cpu, "CPU")
torch.library.register_fake(SCAN, _scan_fake, lib=LIBRARY)
torch.library.register_fake(SCAN_BACKWARD, _scan_backward_fake, lib=LIBRARY)
