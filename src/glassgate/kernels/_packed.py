"""A model's weights, packed once: for streaming, and for many short sequences with the same weights."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from glassgate.edit_tables import Table
from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from glassgate.kernels._calls import run_forward
from glassgate.kernels._checks import LSTM, Array, Check, Precision, Reset, gru_cell
from glassgate.kernels._sequence import GRUForward, LSTMForward

__all__ = ["PackedGRU", "PackedLSTM"]


class PackedLSTM:
    """An LSTM whose weights are packed once.

    Parameters
    ----------
    w_ih, w_hh : arrays [4 H, I] and [4 H, H], float32 or float64
        As in `lstm_forward`; later changes to them have no effect here.
    b_ih, b_hh : arrays [4 H], optional
        Biases; none: zeros.
    precision : "fp32" or "bf16"
        As in `lstm_forward`.

    Raises
    ------
    GlassgateError
        A shape or a dtype does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> model = PackedLSTM(np.zeros((4, 1)), np.zeros((4, 1)))
    >>> h, c = np.zeros((1, 1)), np.ones((1, 1))
    >>> model.step(np.ones((1, 1)), h, c)
    >>> print(c.item())
    0.5
    """

    def __init__(
        self,
        w_ih: ArrayLike,
        w_hh: ArrayLike,
        b_ih: ArrayLike | None = None,
        b_hh: ArrayLike | None = None,
        *,
        precision: Precision = "fp32",
    ) -> None:
        a = Check("PackedLSTM", w_hh, precision, "w_hh", "[4 H, H]")
        self._H, self._I, self._weights = _pack(a, LSTM, 4, w_ih, w_hh, b_ih, b_hh)
        self._precision: Precision = precision
        self._dtype = a.dtype

    def input_sums(self, x: Array, *, threads: int = 0) -> Array:
        """W_ih x + b of each row of x [N, I], as `step` takes it instead of x: for inputs that come again.

        Returns
        -------
        array [N, at least 4 H]
            In the order of the kernels, which is that of the processor: not to be kept in a file.

        Raises
        ------
        GlassgateError
            As `step`.
        """
        return _input_sums("PackedLSTM.input_sums", self._weights, self._dtype, x, threads)

    def step(
        self,
        x: Array,
        h: Array,
        c: Array,
        gates: Array | None = None,
        *,
        summed: bool = False,
        threads: int = 0,
    ) -> None:
        """One step, in place: h and c hold the state before the call and the state after it.

        The fast path of streaming: C-contiguous arrays of the model's dtype are used as they are.

        Parameters
        ----------
        x : array [N, I]
            Inputs of this step.
        h, c : arrays [N, H]
            States, overwritten.
        gates : array [N, 4, H], optional
            Receives input, forget, candidate and output gate.
        summed
            Whether x is what `input_sums` made of the inputs; the results are the same bits.
        threads
            That this call may use; 0: as many as `glassgate.kernels.num_threads` says.

        Raises
        ------
        GlassgateError
            An array has another dtype or size, or is not C-contiguous or not writable.
        """
        if not (x.dtype == h.dtype == c.dtype == self._dtype):
            raise GlassgateError(f"PackedLSTM.step: x, h, c: {self._dtype} expected")
        try:
            self._weights.step(len(h), x, h, c, gates, summed, threads)
        except (ValueError, BufferError) as error:
            raise _step_error("PackedLSTM.step", error) from None

    def forward(
        self,
        x: ArrayLike,
        h0: ArrayLike | None = None,
        c0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reverse: bool = False,
        save: bool = False,
        edits: Table | None = None,
    ) -> LSTMForward:
        """`lstm_forward` with these weights, without packing them again, to the same bits; and with edits."""
        a = Check("PackedLSTM.forward", x, self._precision)
        I = a.x.shape[2]
        if I != self._I or a.dtype != self._dtype:
            raise a.error("x", f"{self._dtype} with {self._I} inputs expected, got {a.dtype} with {I}")
        out = run_forward(a, LSTM, self._H, self._weights, h0, c0, lengths, resets, reverse, save, edits)
        assert out.c_n is not None
        return LSTMForward(out.hidden, out.h_n, out.c_n, out.state, out.gates)


class PackedGRU:
    """A GRU whose weights are packed once.

    Parameters
    ----------
    w_ih, w_hh : arrays [3 H, I] and [3 H, H], float32 or float64
        As in `gru_forward`; later changes to them have no effect here.
    b_ih, b_hh : arrays [3 H], optional
        Biases; none: zeros.
    reset : "after" or "before"
        As in `gru_forward`.
    precision : "fp32" or "bf16"
        As in `lstm_forward`.

    Raises
    ------
    GlassgateError
        A shape or a dtype does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> model = PackedGRU(np.zeros((3, 1)), np.zeros((3, 1)))
    >>> h = np.ones((1, 1))
    >>> model.step(np.ones((1, 1)), h)
    >>> print(h.item())
    0.5
    """

    def __init__(
        self,
        w_ih: ArrayLike,
        w_hh: ArrayLike,
        b_ih: ArrayLike | None = None,
        b_hh: ArrayLike | None = None,
        *,
        reset: Reset = "after",
        precision: Precision = "fp32",
    ) -> None:
        a = Check("PackedGRU", w_hh, precision, "w_hh", "[3 H, H]")
        self._cell = gru_cell(a.where, reset)
        self._H, self._I, self._weights = _pack(a, self._cell, 3, w_ih, w_hh, b_ih, b_hh)
        self._precision: Precision = precision
        self._dtype = a.dtype

    def input_sums(self, x: Array, *, threads: int = 0) -> Array:
        """W_ih x + b of each row of x [N, I], as `PackedLSTM.input_sums`: [N, at least 3 H]."""
        return _input_sums("PackedGRU.input_sums", self._weights, self._dtype, x, threads)

    def step(
        self, x: Array, h: Array, gates: Array | None = None, *, summed: bool = False, threads: int = 0
    ) -> None:
        """One step, in place: h [N, H] holds the state before the call and the state after it.

        Parameters
        ----------
        x : array [N, I]
            Inputs of this step.
        h : array [N, H]
            State, overwritten.
        gates : array [N, 3, H], optional
            Receives reset, z and candidate.
        summed
            Whether x is what `input_sums` made of the inputs; the results are the same bits.
        threads
            That this call may use; 0: as many as `glassgate.kernels.num_threads` says.

        Raises
        ------
        GlassgateError
            An array has another dtype or size, or is not C-contiguous or not writable.
        """
        if not (x.dtype == h.dtype == self._dtype):
            raise GlassgateError(f"PackedGRU.step: x, h: {self._dtype} expected")
        try:
            self._weights.step(len(h), x, h, None, gates, summed, threads)
        except (ValueError, BufferError) as error:
            raise _step_error("PackedGRU.step", error) from None

    def forward(
        self,
        x: ArrayLike,
        h0: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reverse: bool = False,
        save: bool = False,
        edits: Table | None = None,
    ) -> GRUForward:
        """`gru_forward` with these weights, without packing them again, to the same bits; and with edits."""
        a = Check("PackedGRU.forward", x, self._precision)
        I = a.x.shape[2]
        if I != self._I or a.dtype != self._dtype:
            raise a.error("x", f"{self._dtype} with {self._I} inputs expected, got {a.dtype} with {I}")
        out = run_forward(
            a, self._cell, self._H, self._weights, h0, None, lengths, resets, reverse, save, edits
        )
        return GRUForward(out.hidden, out.h_n, out.state, out.gates)


def _pack(
    a: Check,
    cell: int,
    G: int,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None,
    b_hh: ArrayLike | None,
) -> tuple[int, int, _native.Packed]:
    """H, I and the packed weights."""
    H = a.hidden_size(w_hh, G)
    shape = np.shape(w_ih)
    if len(shape) != 2:
        raise a.error("w_ih", f"shape ({G * H}, I) expected, got {shape}")
    I = int(shape[1])
    packed = _native.Packed(
        cell=cell,
        twice=a.twice,
        I=I,
        H=H,
        w_ih=a.array("w_ih", w_ih, G * H, I),
        w_hh=a.x,
        b_ih=a.optional("b_ih", b_ih, G * H),
        b_hh=a.optional("b_hh", b_hh, G * H),
        bf16=a.bf16,
    )
    return H, I, packed


def _input_sums(where: str, weights: _native.Packed, dtype: np.dtype[Any], x: Array, threads: int) -> Array:
    if x.dtype != dtype:
        raise GlassgateError(f"{where}: x: {dtype} expected")
    sums = np.empty((len(x), weights.input_sums_size), dtype)
    try:
        weights.input_sums(len(x), x, sums, threads)
    except (ValueError, BufferError) as error:
        raise _step_error(where, error) from None
    return sums


def _step_error(where: str, error: BaseException) -> GlassgateError:
    return GlassgateError(f"{where}: {error}")
