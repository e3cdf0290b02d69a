"""Whole sequences on NumPy arrays, forward and backward."""

from typing import NamedTuple

from numpy.typing import ArrayLike

from glassgate.kernels._calls import Gradients, run_backward, run_forward
from glassgate.kernels._checks import LSTM, Array, Check, Precision, Reset, gru_cell

__all__ = [
    "GRUForward",
    "Gradients",
    "LSTMForward",
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
]


class LSTMForward(NamedTuple):
    """What an LSTM computes over a sequence. At steps that are not active all are zero."""

    hidden: Array  #: [T, N, H] hidden states, the output
    h_n: Array  #: [N, H] hidden state after each sequence's last step
    c_n: Array  #: [N, H] cell state after each sequence's last step
    cell: Array | None  #: [T, N, H] cell states; None with ``save=False``
    gates: (
        Array | None
    )  #: [T, N, 4, H] input, forget, candidate, output, after their activations; None likewise


class GRUForward(NamedTuple):
    """What a GRU computes over a sequence. At steps that are not active all are zero."""

    hidden: Array  #: [T, N, H] hidden states, the output
    h_n: Array  #: [N, H] hidden state after each sequence's last step
    product: Array | None  #: [T, N, H] U_n h + b_hn, reset "after" only; None with ``save=False``
    gates: (
        Array | None
    )  #: [T, N, 3, H] reset, z = 1 - update, candidate, after their activations; None likewise


def lstm_forward(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    precision: Precision = "fp32",
    save: bool = True,
) -> LSTMForward:
    """Run an LSTM over sequences.

    ::

        i, f, o = sigmoid(w_ih x + b_ih + w_hh h + b_hh)     each with its own rows of the weights
        g       = tanh   (w_ih x + b_ih + w_hh h + b_hh)
        c = f * c + i * g
        h = o * tanh(c)

    Parameters
    ----------
    x : array [T, N, I]
        Inputs, float32 or float64; all other arrays have its dtype.
    w_ih, w_hh : arrays [4 H, I] and [4 H, H]
        Weights on the input and on the hidden state, in the order input, forget, candidate, output.
    b_ih, b_hh : arrays [4 H], optional
        Biases; none: zeros.
    h0, c0 : arrays [N, H], optional
        Initial states; none: zeros.
    lengths : integers [N], optional
        How many steps each sequence has, 0 to T in any order. Steps from there on do nothing and give zeros.
    resets : bool [T, N], optional
        Where true, the state is cleared before that step.
    reverse : bool
        Take the steps from the last to the first.
    precision : "fp32" or "bf16"
        "bf16" rounds weights, inputs and hidden states to bfloat16 on their way into the products; sums and
        the cell state stay float32. float32 arrays only.
    save : bool
        Whether to return the cell states and the gates, which `lstm_backward` needs.

    Returns
    -------
    LSTMForward

    Raises
    ------
    GlassgateError
        A shape, a dtype or a length does not fit.

    Notes
    -----
    Source: the notes, section 1; the order of the gates is torch's.

    Examples
    --------
    A forget gate held open (bias 100) and an input gate held shut (bias -100) keep the cell state:

    >>> import numpy as np
    >>> b = np.array([-100.0, 100.0, 0.0, 0.0])
    >>> x, w_ih, w_hh = np.ones((5, 1, 1)), np.zeros((4, 1)), np.zeros((4, 1))
    >>> run = lstm_forward(x, w_ih, w_hh, b, h0=np.zeros((1, 1)), c0=np.full((1, 1), 0.25))
    >>> run.cell[:, 0, 0]
    array([0.25, 0.25, 0.25, 0.25, 0.25])
    """
    a = Check("lstm_forward", x, precision)
    weights = (w_ih, w_hh, b_ih, b_hh)
    out = run_forward(a, LSTM, a.hidden_size(w_hh, 4), weights, h0, c0, lengths, resets, reverse, save)
    assert out.c_n is not None
    return LSTMForward(out.hidden, out.h_n, out.c_n, out.state, out.gates)


def gru_forward(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    reset: Reset = "after",
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    precision: Precision = "fp32",
    save: bool = True,
) -> GRUForward:
    """Run a GRU over sequences.

    ::

        r, z = sigmoid(w_ih x + b_ih + w_hh h + b_hh)        each with its own rows of the weights
        n = tanh(w_ih x + b_ih + r * (w_hh h + b_hh))        reset="after", as in torch
        n = tanh(w_ih x + b_ih + w_hh (r * h) + b_hh)        reset="before", as in the notes
        h = (1 - z) * n + z * h

    Parameters
    ----------
    x : array [T, N, I]
        Inputs, float32 or float64; all other arrays have its dtype.
    w_ih, w_hh : arrays [3 H, I] and [3 H, H]
        Weights on the input and on the hidden state, in the order reset, z, candidate.
    b_ih, b_hh : arrays [3 H], optional
        Biases; none: zeros.
    h0 : array [N, H], optional
        Initial state; none: zeros.
    reset : "after" or "before"
        Whether the reset gate acts after the product with w_hh or before it.
    lengths, resets, reverse, precision, save
        As in `lstm_forward`.

    Returns
    -------
    GRUForward

    Raises
    ------
    GlassgateError
        A shape, a dtype or a length does not fit.

    Notes
    -----
    Source: the notes, section 3; order and z are torch's.

    Examples
    --------
    The notes' example, update 0.8, that is z = 0.2: h = 0.8 * candidate + 0.2 * h.

    >>> import numpy as np
    >>> b = np.array([0.0, np.log(0.2 / 0.8), np.arctanh(0.5)])
    >>> x, w = np.ones((1, 1, 1)), np.zeros((3, 1))
    >>> print(gru_forward(x, w, w, b, h0=np.ones((1, 1)), reset="before").hidden.item())
    0.6
    """
    a = Check("gru_forward", x, precision)
    cell, weights = gru_cell(a.where, reset), (w_ih, w_hh, b_ih, b_hh)
    out = run_forward(a, cell, a.hidden_size(w_hh, 3), weights, h0, None, lengths, resets, reverse, save)
    return GRUForward(out.hidden, out.h_n, out.state, out.gates)


def lstm_backward(
    saved: LSTMForward,
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    *,
    d_hidden: ArrayLike | None = None,
    d_cell: ArrayLike | None = None,
    d_gates: ArrayLike | None = None,
    d_h_n: ArrayLike | None = None,
    d_c_n: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    precision: Precision = "fp32",
) -> Gradients:
    """Gradients of an LSTM, from the gradients on all that `lstm_forward` returned.

    Parameters
    ----------
    saved : LSTMForward
        What `lstm_forward` returned for the same arguments, with ``save=True``.
    x, w_ih, w_hh, h0, c0, lengths, resets, reverse, precision
        As given to `lstm_forward`.
    d_hidden, d_cell, d_gates, d_h_n, d_c_n : arrays of the shapes of their namesakes, optional
        Gradients on the results; none: zeros. What lies on steps that are not active has no effect.

    Returns
    -------
    Gradients

    Raises
    ------
    GlassgateError
        A shape or a dtype does not fit, or `saved` lacks the gates.

    Notes
    -----
    ``b_ih`` and ``b_hh`` enter as their sum, so their gradients are equal.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 1, 1)), np.zeros((4, 1))
    >>> run = lstm_forward(x, w, w, c0=np.ones((1, 1)))
    >>> print(lstm_backward(run, x, w, w, c0=np.ones((1, 1)), d_c_n=np.ones((1, 1))).c0.item())
    0.5
    """
    a = Check("lstm_backward", x, precision)
    if saved.gates is None or saved.cell is None:
        raise a.error("saved", "the result of lstm_forward with save=True expected, got one without gates")
    arrays = (saved.hidden, saved.cell, saved.gates)
    given = (w_ih, w_hh, h0, c0, lengths, resets, reverse)
    return run_backward(
        a, LSTM, a.hidden_size(w_hh, 4), *given, arrays, d_hidden, d_cell, d_gates, d_h_n, d_c_n
    )


def gru_backward(
    saved: GRUForward,
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    reset: Reset = "after",
    d_hidden: ArrayLike | None = None,
    d_gates: ArrayLike | None = None,
    d_h_n: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    precision: Precision = "fp32",
) -> Gradients:
    """Gradients of a GRU, from the gradients on all that `gru_forward` returned.

    Parameters
    ----------
    saved : GRUForward
        What `gru_forward` returned for the same arguments, with ``save=True``.
    x, w_ih, w_hh, h0, reset, lengths, resets, reverse, precision
        As given to `gru_forward`.
    d_hidden, d_gates, d_h_n : arrays of the shapes of their namesakes, optional
        Gradients on the results; none: zeros. What lies on steps that are not active has no effect.

    Returns
    -------
    Gradients
        With ``c0`` None.

    Raises
    ------
    GlassgateError
        A shape or a dtype does not fit, or `saved` lacks the gates.

    Notes
    -----
    With the reset before the product both biases enter as their sum, and their gradients are equal.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 1, 1)), np.zeros((3, 1))
    >>> run = gru_forward(x, w, w, h0=np.ones((1, 1)))
    >>> print(gru_backward(run, x, w, w, h0=np.ones((1, 1)), d_h_n=np.ones((1, 1))).h0.item())
    0.5
    """
    a = Check("gru_backward", x, precision)
    cell = gru_cell(a.where, reset)
    if saved.gates is None or (saved.product is None) != (reset == "before"):
        raise a.error("saved", f"the result of gru_forward with save=True and reset={reset!r} expected")
    arrays = (saved.hidden, saved.product, saved.gates)
    given = (w_ih, w_hh, h0, None, lengths, resets, reverse)
    return run_backward(a, cell, a.hidden_size(w_hh, 3), *given, arrays, d_hidden, None, d_gates, d_h_n, None)
