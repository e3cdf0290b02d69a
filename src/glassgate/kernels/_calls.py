"""The two calls of the compiled module that all cells share: every argument by its name."""

from typing import NamedTuple, TypeAlias

from numpy.typing import ArrayLike

from glassgate.edit_tables import Table
from glassgate.kernels import _native
from glassgate.kernels._checks import GRU_BEFORE, LSTM, Array, Check

Weights: TypeAlias = tuple[ArrayLike, ArrayLike, ArrayLike | None, ArrayLike | None]


class Results(NamedTuple):
    """What a forward pass writes; None where the cell has no such thing or it was not wanted."""

    hidden: Array
    h_n: Array
    c_n: Array | None
    state: Array | None
    gates: Array | None


class Gradients(NamedTuple):
    """Gradients with respect to the arguments of the same names; None where there is no such argument."""

    x: Array  #: [T, N, I]
    w_ih: Array  #: [G H, I]
    w_hh: Array  #: [G H, H]
    b_ih: Array  #: [G H]
    b_hh: Array  #: [G H]
    h0: Array  #: [N, H]
    c0: Array | None  #: [N, H], LSTM only


def run_forward(
    a: Check,
    cell: int,
    H: int,
    weights: Weights | _native.Packed,
    h0: ArrayLike | None,
    c0: ArrayLike | None,
    lengths: ArrayLike | None,
    resets: ArrayLike | None,
    reverse: bool,
    save: bool,
    edits: Table | None = None,
) -> Results:
    """One forward pass, with weights to be packed for this call or packed before."""
    T, N, I = a.x.shape
    G = 4 if cell == LSTM else 3
    packed = weights if isinstance(weights, _native.Packed) else None
    w_ih, w_hh, b_ih, b_hh = (None,) * 4 if isinstance(weights, _native.Packed) else weights
    out = Results(
        hidden=a.empty(T, N, H),
        h_n=a.empty(N, H),
        c_n=a.empty(N, H) if cell == LSTM else None,
        state=a.empty(T, N, H) if save and cell != GRU_BEFORE else None,
        gates=a.empty(T, N, G, H) if save else None,
    )
    # In the order of the compiled function: names would cost a small call a tenth of its time.
    _native.forward(
        *(cell, a.twice, T, N, I, H, a.x),
        a.optional("w_ih", w_ih, G * H, I),
        a.optional("w_hh", w_hh, G * H, H),
        a.optional("b_ih", b_ih, G * H),
        a.optional("b_hh", b_hh, G * H),
        packed,
        a.optional("h0", h0, N, H),
        a.optional("c0", c0, N, H),
        a.lengths(lengths, T, N),
        a.resets(resets, T, N),
        *(reverse, a.bf16, out.hidden, out.state, out.gates, out.h_n, out.c_n),
        *(() if edits is None else a.edits(edits, T, N, H)),
    )
    return out


def run_backward(
    a: Check,
    cell: int,
    H: int,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    h0: ArrayLike | None,
    c0: ArrayLike | None,
    lengths: ArrayLike | None,
    resets: ArrayLike | None,
    reverse: bool,
    saved: tuple[Array, Array | None, Array],
    d_hidden: ArrayLike | None,
    d_state: ArrayLike | None,
    d_gates: ArrayLike | None,
    d_h_n: ArrayLike | None,
    d_c_n: ArrayLike | None,
) -> Gradients:
    """One backward pass; `saved` is hidden, state and gates of the forward pass."""
    T, N, I = a.x.shape
    G = 4 if cell == LSTM else 3
    hidden, state, gates = saved
    out = Gradients(
        x=a.empty(T, N, I),
        w_ih=a.empty(G * H, I),
        w_hh=a.empty(G * H, H),
        b_ih=a.empty(G * H),
        b_hh=a.empty(G * H),
        h0=a.empty(N, H),
        c0=a.empty(N, H) if cell == LSTM else None,
    )
    _native.backward(
        cell=cell,
        twice=a.twice,
        T=T,
        N=N,
        I=I,
        H=H,
        x=a.x,
        w_ih=a.array("w_ih", w_ih, G * H, I),
        w_hh=a.array("w_hh", w_hh, G * H, H),
        h0=a.optional("h0", h0, N, H),
        c0=a.optional("c0", c0, N, H),
        lengths=a.lengths(lengths, T, N),
        resets=a.resets(resets, T, N),
        reverse=reverse,
        bf16=a.bf16,
        hidden=a.array("saved.hidden", hidden, T, N, H),
        state=a.optional("saved.state", state, T, N, H),
        gates=a.array("saved.gates", gates, T, N, G, H),
        d_hidden=a.optional("d_hidden", d_hidden, T, N, H),
        d_state=a.optional("d_state", d_state, T, N, H),
        d_gates=a.optional("d_gates", d_gates, T, N, G, H),
        d_h_n=a.optional("d_h_n", d_h_n, N, H),
        d_c_n=a.optional("d_c_n", d_c_n, N, H),
        **{f"d_{name}": array for name, array in out._asdict().items()},
    )
    return out
