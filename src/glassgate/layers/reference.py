"""The recurrences in plain torch operations: slow, on any device and dtype, differentiable in every way.

`scan` has the signature and the results of the kernels' operator (`glassgate.layers.operators`), so each can
stand for the other. It serves where no kernel does: on other devices and dtypes, in forward-mode
differentiation, and in derivatives of derivatives.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.nn.functional import linear

from glassgate.errors import GlassgateError

__all__ = [
    "GRU_AFTER",
    "GRU_BEFORE",
    "LSTM",
    "Editor",
    "Scan",
    "check_lengths",
    "gate_count",
    "scan",
    "without_autocast",
]

LSTM, GRU_AFTER, GRU_BEFORE = range(3)
"""The cells, numbered as the kernels number them."""


Editor: TypeAlias = Callable[[int, str, Tensor], Tensor]
_Change: TypeAlias = Callable[[str, Tensor], Tensor]


class Scan(NamedTuple):
    """What one layer in one direction computes."""

    hidden: Tensor  #: [T, N, H], zero where a sequence is over
    h_n: Tensor  #: [N, H], the state after each sequence's last step
    c_n: Tensor  #: [N, H]; GRU: empty
    gates: Tensor  #: [T, N, gates, H] after their activations; empty unless saved
    state: (
        Tensor  #: [T, N, H] cell states; GRU, reset after: U_n h + b_hn; empty for the other or unless saved
    )


def gate_count(cell: int) -> int:
    """Return how many gates a cell has: LSTM i, f, g, o; GRU r, z, n with z = 1 - u of the notes."""
    return 4 if cell == LSTM else 3


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast rounds nothing: what is to be rounded, `bf16` of `scan` says."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def check_lengths(lengths: Tensor, steps: int) -> None:
    """Refuse lengths that are not from 0 to ``steps``, in the words of the kernels.

    Raises
    ------
    GlassgateError
        In a call that torch compiled a RuntimeError: it sees the values only when it runs.
    """
    if torch.compiler.is_compiling():
        fit = ((lengths >= 0) & (lengths <= steps)).all()
        torch._assert_async(fit, f"scan: lengths: each must be from 0 to {steps}")
        return
    while torch._C._functorch.is_functorch_wrapped_tensor(lengths):
        lengths = torch._C._functorch.get_unwrapped(lengths)
    if lengths.is_meta or is_fake(lengths):
        return  # there are no values
    for n, length in enumerate(lengths.flatten().tolist()):
        if not 0 <= length <= steps:
            raise GlassgateError(f"scan: lengths[{n}]: must be from 0 to {steps}, got {length}")


def scan(
    cell: int,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    bf16: bool,
    save: bool,
    w_hr: Tensor | None = None,
    edit: Editor | None = None,
) -> Scan:
    """Run one layer in one direction over a sequence, step by step.

    Parameters
    ----------
    cell
        ``LSTM``, ``GRU_AFTER`` or ``GRU_BEFORE``.
    x : Tensor [T, N, I]
    w_ih, w_hh, b_ih, b_hh : Tensor [G H, I], [G H, H], [G H], [G H]
        Gate blocks in torch's order; a bias may be None.
    h0, c0 : Tensor [N, H], optional
        The state before the first step; None is zeros.
    lengths : Tensor [N], optional
        How many steps of each sequence count; None is all.
    resets : Tensor [T, N], optional
        Where it is not zero, the step starts from a state of zeros.
    reverse
        Take the steps from the last to the first.
    bf16
        Inputs of the matrix products are rounded to bfloat16.
    save
        Whether gates and state are wanted.
    w_hr : Tensor [P, H], optional
        Projection of the LSTM's hidden state; h0 and the hidden state then have P units.
    edit
        Called with each step's number and, as they are computed, each gate's and state's name and value
        [N, H]; returns what takes its place. ``"update"`` stands for z = 1 - u.

    Returns
    -------
    Scan

    Examples
    --------
    >>> zero = torch.zeros(8, 2)
    >>> y = scan(LSTM, torch.zeros(3, 1, 2), zero, zero, None, None, None, torch.full((1, 2), 8.0),
    ...          None, None, False, False, True)
    >>> y.state.flatten().tolist()  # each gate is half open: half of the memory stays
    [4.0, 4.0, 2.0, 2.0, 1.0, 1.0]
    """
    steps, batch = x.shape[:2]
    gate_total = gate_count(cell)
    size, wide = w_hh.shape[0] // gate_total, w_hh.shape[1]  # they differ with a projection only
    round_ = _to_bf16 if bf16 else _same
    h = x.new_zeros(batch, wide) if h0 is None else h0
    c = x.new_zeros(batch, size) if c0 is None else c0
    over = clear = None
    if lengths is not None:
        over = torch.arange(steps, device=x.device).unsqueeze(-1) >= lengths
        # Steps that do not count are computed like the others, and dropped. They see zeros alone: a NaN
        # would reach the gradients on the weights, as 0 NaN.
        x, clear = x.masked_fill(over.unsqueeze(-1), 0), over
    if resets is not None:
        clear = resets != 0 if clear is None else clear | (resets != 0)
    rows: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    with without_autocast(x):
        w_hh = round_(w_hh)
        from_x = linear(round_(x), round_(w_ih), b_ih)
        for t in reversed(range(steps)) if reverse else range(steps):
            h_old, c_old = h, c
            if clear is not None:
                start = clear[t].unsqueeze(-1)
                h_old, c_old = h.masked_fill(start, 0), c.masked_fill(start, 0)
            change = _unchanged if edit is None else partial(edit, t)
            if cell == LSTM:
                before = from_x[t] + linear(round_(h_old), w_hh, b_hh)
                c_new, gates = _lstm_step(before, c_old, change)
                h_new, state = gates[:, 3] * torch.tanh(c_new), c_new
                if w_hr is not None:
                    h_new = linear(h_new, w_hr)
            else:
                h_new, gates, state = _gru_step(cell, from_x[t], h_old, w_hh, b_hh, round_, change)
                c_new = c_old
            h_new = change("hidden", h_new)
            if over is not None:
                idle = over[t].unsqueeze(-1)
                h, c = torch.where(idle, h, h_new), torch.where(idle, c, c_new)
                h_new, state = h_new.masked_fill(idle, 0), state.masked_fill(idle, 0)
                gates = gates.masked_fill(idle.unsqueeze(-1), 0)
            else:
                h, c = h_new, c_new
            rows[t] = h_new, gates, state
    nothing = x.new_zeros(0)
    shapes = (batch, wide), (batch, gate_total, size), (batch, size)
    hidden, gates, state = (
        torch.stack([rows[t][k] for t in range(steps)]) if steps else x.new_zeros(0, *shapes[k])
        for k in range(3)
    )
    return Scan(
        hidden,
        h,
        c if cell == LSTM else nothing,
        gates if save else nothing,
        state if save and cell != GRU_BEFORE else nothing,
    )


def _lstm_step(before: Tensor, c: Tensor, change: _Change) -> tuple[Tensor, Tensor]:
    i, f, g, o = before.chunk(4, -1)
    i, f = change("input", torch.sigmoid(i)), change("forget", torch.sigmoid(f))
    g, o = change("candidate", torch.tanh(g)), change("output", torch.sigmoid(o))
    return change("cell", f * c + i * g), torch.stack((i, f, g, o), -2)


def _gru_step(
    cell: int,
    from_x: Tensor,
    h: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    round_: Callable[[Tensor], Tensor],
    change: _Change,
) -> tuple[Tensor, Tensor, Tensor]:
    size = h.shape[-1]
    x_gates, x_new = torch.split(from_x, [2 * size, size], -1)
    w_gates, w_new = torch.split(w_hh, [2 * size, size])
    b_gates, b_new = (None, None) if b_hh is None else torch.split(b_hh, [2 * size, size])
    r, z = torch.sigmoid(x_gates + linear(round_(h), w_gates, b_gates)).chunk(2, -1)
    r, z = change("reset", r), change("update", z)
    if cell == GRU_BEFORE:
        product = linear(round_(r * h), w_new, b_new)
        n = torch.tanh(x_new + product)
    else:
        product = linear(round_(h), w_new, b_new)
        n = torch.tanh(x_new + r * product)
    n = change("candidate", n)
    return n + z * (h - n), torch.stack((r, z, n), -2), product


def _unchanged(name: str, value: Tensor) -> Tensor:
    return value


def _same(t: Tensor) -> Tensor:
    return t


def _to_bf16(t: Tensor) -> Tensor:
    return t.to(torch.bfloat16).to(t.dtype)
