"""The kernels as torch operators: schema, shapes, gradients, and a rule for vmap.

``torch.ops.glassgate.scan`` runs one layer in one direction over a sequence and ``scan_backward`` its
gradients; `glassgate.layers.reference.scan` says what they compute, with the same arguments. Gates and cell states
are results like any other: what the lens shows is what the backward pass reads, and a loss may depend on them.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from glassgate.layers.reference import GRU_BEFORE, LSTM, Scan, gate_count
from glassgate.layers.reference import scan as reference_scan

__all__ = ["KERNEL_DTYPES", "scan"]

KERNEL_DTYPES = (torch.float32, torch.float64)
"""What the kernels compute in, on the CPU."""

_LIBRARY = torch.library.Library("glassgate", "DEF")
_INPUTS = (
    "Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? c0, "
    "Tensor? lengths, Tensor? resets, bool reverse, bool bf16"
)
_LIBRARY.define(f"scan(int cell, {_INPUTS}, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
# The gradients come in the order x, w_ih, w_hh, b_ih, b_hh, h0, c0; one that is not wanted is empty.
_LIBRARY.define(
    f"scan_backward(int cell, {_INPUTS}, Tensor hidden, Tensor gates, Tensor state, Tensor? d_hidden, "
    "Tensor? d_h_n, Tensor? d_c_n, Tensor? d_gates, Tensor? d_state, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_scan = torch.ops.glassgate.scan.default
_scan_backward = torch.ops.glassgate.scan_backward.default

Maybe: TypeAlias = Tensor | None


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
    >>> torch.equal(y.gates, reference_scan(*arguments).gates)
    True
    """
    return Scan(*_scan(cell, x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets, reverse, bf16, save))


def _check(cell: int, **tensors: Maybe) -> tuple[int, int, int, int]:
    """Return T, N, I, H if all shapes and dtypes fit: what the kernels are told lies there must lie there."""
    x, w_hh = tensors["x"], tensors["w_hh"]
    assert x is not None and w_hh is not None
    if x.dim() != 3 or w_hh.dim() != 2:
        raise GlassgateError(f"scan: x must have shape [T, N, I], got {list(x.shape)}")
    (T, N, I), H = x.shape, w_hh.shape[1]
    G = gate_count(cell)
    shapes: dict[str, tuple[int, ...]] = {
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
        "state": (T, N, H) if cell != GRU_BEFORE else (0,),
        "d_hidden": (T, N, H),
        "d_h_n": (N, H),
        "d_c_n": (N, H) if cell == LSTM else (0,),
        "d_gates": (T, N, G, H),
        "d_state": (T, N, H) if cell != GRU_BEFORE else (0,),
    }
    for name, tensor in tensors.items():
        if tensor is None or name == "x":
            continue
        if tensor.shape != shapes[name]:
            expected, came = list(shapes[name]), list(tensor.shape)
            raise GlassgateError(f"scan: {name} must have shape {expected}, got {came}")
        dtype = {"lengths": torch.int64, "resets": torch.bool}.get(name, x.dtype)
        if tensor.dtype != dtype:
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


_LIBRARY.impl("scan", _scan_cpu, "CPU")
_LIBRARY.impl("scan_backward", _scan_backward_cpu, "CPU")
torch.library.register_fake(_scan, _scan_fake, lib=_LIBRARY)
torch.library.register_fake(_scan_backward, _scan_backward_fake, lib=_LIBRARY)


# Gradients. `inputs` of both operators begin with cell, the seven that have gradients, lengths, resets, reverse, bf16.


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, _, c_n, gates, state = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t in (c_n, gates, state) if t.dim() == 1))
    ctx.cell, ctx.reverse, ctx.bf16, ctx.saved = inputs[0], inputs[10], inputs[11], inputs[12]
    ctx.save_for_backward(*inputs[1:10], hidden, gates, state)


def _gradients(ctx: Any, *d_outputs: Maybe) -> tuple[Maybe, ...]:
    d_hidden, d_h_n, d_c_n, d_gates, d_state = d_outputs
    inputs = ctx.saved_tensors[:9]
    if ctx.saved:
        # Cut from their history: how they depend on the inputs is part of the second derivatives of `inputs`.
        hidden, gates, state = (t.detach() for t in ctx.saved_tensors[9:])
    else:
        with torch.no_grad():
            hidden, _, _, gates, state = _scan(ctx.cell, *inputs, ctx.reverse, ctx.bf16, True)
    wanted = list(ctx.needs_input_grad[1:8])
    d_inputs = _scan_backward(
        *(ctx.cell, *inputs, ctx.reverse, ctx.bf16, hidden, gates, state),
        *(d_hidden, d_h_n, d_c_n, d_gates, d_state, wanted),
    )
    given = (d if want else None for d, want in zip(d_inputs, wanted, strict=True))
    return (None, *given, *[None] * 5)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.cell, ctx.reverse, ctx.bf16, ctx.wanted = inputs[0], inputs[10], inputs[11], inputs[20]
    ctx.save_for_backward(*inputs[1:10], *inputs[15:20])


def _second_gradients(ctx: Any, *dd_inputs: Tensor) -> tuple[Maybe, ...]:
    """Differentiate `scan_backward`: the gradients of the reference, differentiated once more."""
    values, lengths, resets = ctx.saved_tensors[:7], *ctx.saved_tensors[7:9]
    d_outputs = ctx.saved_tensors[9:]
    some = [k for k in range(7) if values[k] is not None]  # the inputs that there are
    wanted = [some.index(k) for k in range(7) if ctx.wanted[k]]
    given = [k for k in range(5) if d_outputs[k] is not None]

    def outputs(*inputs: Tensor) -> tuple[Tensor, ...]:
        full: list[Maybe] = [None] * 7
        for k, value in zip(some, inputs, strict=True):
            full[k] = value
        everything = reference_scan(ctx.cell, *full, lengths, resets, ctx.reverse, ctx.bf16, True)  # type: ignore[arg-type]
        return tuple(everything[k] for k in given)

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        pull = torch.func.vjp(outputs, *inputs[: len(some)])[1]
        d_inputs = pull(inputs[len(some) :])
        return tuple(d_inputs[k] for k in wanted)

    pull = torch.func.vjp(gradients, *(values[k] for k in some), *(d_outputs[k] for k in given))[1]
    second = iter(pull(tuple(dd for dd, want in zip(dd_inputs, ctx.wanted, strict=True) if want)))
    full: list[Maybe] = [None] * 21
    for k in some:
        full[1 + k] = next(second)
    for k in given:
        full[15 + k] = next(second)
    return tuple(full)


torch.library.register_autograd(_scan, _gradients, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd(_scan_backward, _second_gradients, setup_context=_keep_backward, lib=_LIBRARY)


# vmap. Sequences of a batch do not meet, so a further batch of inputs is more sequences; a batch of weights is a loop.

_BATCH = {"x": 1, "h0": 0, "c0": 0, "lengths": 0, "resets": 1}
_AT = {"x": 1, "h0": 6, "c0": 7, "lengths": 8, "resets": 9}


def _scan_vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    if any(dim is not None for dim in in_dims[2:6]):
        return _loop(_scan, info, in_dims, inputs)
    full = list(inputs)
    for name, k in _AT.items():
        tensor, dim, at = inputs[k], in_dims[k], _BATCH[name]
        if tensor is None:
            continue
        if dim is None:
            tensor = tensor.unsqueeze(at).expand(*tensor.shape[:at], info.batch_size, *tensor.shape[at:])
        else:
            tensor = tensor.movedim(dim, at)
        full[k] = tensor.flatten(at, at + 1)
    outputs, out_dims = [], []
    for output, at in zip(_scan(*full), (1, 0, 0, 1, 1), strict=True):
        there = output.dim() > 1  # what was not asked for is one empty tensor, batched or not
        outputs.append(output.unflatten(at, (info.batch_size, -1)) if there else output)
        out_dims.append(at if there else None)
    return tuple(outputs), tuple(out_dims)


def _scan_backward_vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    return _loop(_scan_backward, info, in_dims, inputs)


def _loop(op: Any, info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> Any:
    columns = []
    for value, dim in zip(inputs, in_dims, strict=True):
        columns.append([value] * info.batch_size if dim is None else value.unbind(dim))
    outputs = [op(*row) for row in zip(*columns, strict=True)]
    stacked = tuple(torch.stack(column) for column in zip(*outputs, strict=True))
    return stacked, (0,) * len(stacked)


torch.library.register_vmap(_scan, _scan_vmap, lib=_LIBRARY)
torch.library.register_vmap(_scan_backward, _scan_backward_vmap, lib=_LIBRARY)
