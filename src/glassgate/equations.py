"""The definition: every equation of the notes as one small NumPy function, in the notes' letters.

All else in glassgate is tested against this page. At time t the network gets an input vector x (m numbers)
and its own hidden state h and cell state C from time t-1 (n numbers each). ``W``, ``U`` and ``b`` are
dictionaries with one entry for each gate letter::

    W[k]  [n, n]  weights on h_{t-1}      k in f, i, o, g   (LSTM: forget, input, output, candidate)
    U[k]  [n, m]  weights on x_t          k in r, u, g      (GRU: reset, update, candidate)
    b[k]  [n]     bias; ``b=None``: no bias anywhere

``u`` is the share of the NEW value: ``h = u * g + (1 - u) * h_{t-1}``. In torch and ONNX ``z = 1 - u`` is the
share of the OLD one: the same function, with the weights and the bias of that gate negated. This is said
here, once; wherever glassgate says *update*, it means u.

Every function takes float16, float32, float64 or longdouble and answers in the same dtype; arrays of
different dtypes are an error, not a silent upcast. Leading axes are a batch, and each row of a batch is
multiplied by itself: a batch gives the same bits as its rows one by one.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glassgate.errors import GlassgateError

__all__ = [
    "GRUStep",
    "LSTMStep",
    "from_torch_layout",
    "gru_step",
    "lstm_step",
    "output",
    "run_gru",
    "run_lstm",
    "sigmoid",
    "softmax",
]

Array: TypeAlias = NDArray[np.floating[Any]]
Gates: TypeAlias = Mapping[str, Array]
Reset: TypeAlias = Literal["before", "after"]


class LSTMStep(NamedTuple):
    """All that an LSTM computes at one time step, each ``[..., n]`` (from a run: ``[T, ..., n]``)."""

    f: Array  #: forget gate, how much of the past to keep
    i: Array  #: input gate, how much of the new to let in
    o: Array  #: output gate, how much of the cell to show now
    g: Array  #: candidate, what the new would be
    C: Array  #: cell state, the memory
    h: Array  #: hidden state, the output of this step


class GRUStep(NamedTuple):
    """All that a GRU computes at one time step, each ``[..., n]`` (from a run: ``[T, ..., n]``)."""

    r: Array  #: reset gate, how much of the past the candidate sees
    u: Array  #: update gate, the share of the new value
    g: Array  #: candidate, what the new would be
    h: Array  #: hidden state, the output of this step


def sigmoid(a: ArrayLike) -> Array:
    """1 / (1 + exp(-a)), element by element.

    The exponent is never positive, so nothing overflows, and both tails keep their full precision:
    sigmoid(-40) is 4.2e-18, not 0.

    Parameters
    ----------
    a : array of any shape

    Returns
    -------
    array of the same shape and dtype, each value in (0, 1) up to rounding

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, -40.0, 0.0, 1000.0]))
    array([0.00000000e+00, 4.24835426e-18, 5.00000000e-01, 1.00000000e+00])
    """
    a = np.asarray(a)
    e = np.exp(-np.abs(a))
    return np.asarray(np.where(a >= 0, e.dtype.type(1), e) / (1 + e))


def softmax(a: ArrayLike) -> Array:
    """exp(a) / sum(exp(a)) along the last axis: a distribution.

    Parameters
    ----------
    a : array [..., k], k >= 1

    Returns
    -------
    array [..., k] of the same dtype; the last axis sums to 1

    Examples
    --------
    >>> softmax(np.array([0.0, np.log(3.0)]))
    array([0.25, 0.75])
    """
    a = np.asarray(a)
    if a.ndim == 0 or a.shape[-1] == 0:
        raise GlassgateError(f"softmax: a last axis of at least 1 expected, got shape {a.shape}")
    with np.errstate(over="ignore"):  # a difference beyond the largest float is -inf, and exp(-inf) is right
        e = np.exp(a - a.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def lstm_step(x: Array, h: Array, C: Array, W: Gates, U: Gates, b: Gates | None = None) -> LSTMStep:
    """One time step of the LSTM.

    ::

        f = sigmoid(W_f h + U_f x + b_f)
        i = sigmoid(W_i h + U_i x + b_i)
        o = sigmoid(W_o h + U_o x + b_o)
        g = tanh   (W_g h + U_g x + b_g)
        C = f * C + i * g
        h = o * tanh(C)

    Parameters
    ----------
    x : array [..., m]
        Input at time t.
    h, C : array [..., n]
        Hidden and cell state at time t-1.
    W, U, b : mapping from f, i, o, g to an array
        Weights on h [n, n], weights on x [n, m], bias [n]; ``b=None`` is no bias.

    Returns
    -------
    LSTMStep
        f, i, o, g and the new C and h, each [..., n].

    Raises
    ------
    GlassgateError
        A gate is missing or unknown, a shape does not match, or the dtypes differ.

    Notes
    -----
    Source: the notes, section 1.

    Examples
    --------
    With all weights zero each gate is half open and the candidate is 0, so half of the memory stays:

    >>> zero = {k: np.zeros((3, 3)) for k in "fiog"}
    >>> step = lstm_step(np.zeros(3), np.zeros(3), np.array([4.0, 5.0, 6.0]), W=zero, U=zero)
    >>> step.f, step.C
    (array([0.5, 0.5, 0.5]), array([2. , 2.5, 3. ]))
    """
    _check("lstm_step", "fiog", W, U, b, x=x, h=h, C=C)
    b = b or _no_bias("fiog", h)
    f = sigmoid(_dot(W["f"], h) + _dot(U["f"], x) + b["f"])
    i = sigmoid(_dot(W["i"], h) + _dot(U["i"], x) + b["i"])
    o = sigmoid(_dot(W["o"], h) + _dot(U["o"], x) + b["o"])
    g = np.tanh(_dot(W["g"], h) + _dot(U["g"], x) + b["g"])
    C = f * C + i * g
    h = o * np.tanh(C)
    return LSTMStep(f, i, o, g, C, h)


def gru_step(
    x: Array,
    h: Array,
    W: Gates,
    U: Gates,
    b: Gates | None = None,
    reset: Reset = "before",
    b_after: Array | None = None,
) -> GRUStep:
    """One time step of the GRU.

    ::

        r = sigmoid(W_r h + U_r x + b_r)
        u = sigmoid(W_u h + U_u x + b_u)
        g = tanh(W_g (r * h) + U_g x + b_g)              reset="before": the notes' form, ONNX's default
        g = tanh(r * (W_g h + b_after) + U_g x + b_g)    reset="after": torch.nn.GRU, cuDNN
        h = u * g + (1 - u) * h

    The two forms are different functions: in general no weights of one give the other.

    Parameters
    ----------
    x : array [..., m]
        Input at time t.
    h : array [..., n]
        Hidden state at time t-1.
    W, U, b : mapping from r, u, g to an array
        Weights on h [n, n], weights on x [n, m], bias [n]; ``b=None`` is no bias.
    reset : {"before", "after"}
        Where the reset gate acts: before the matrix product or after it.
    b_after : array [n], optional
        The bias inside the product with r; it exists with ``reset="after"`` only.

    Returns
    -------
    GRUStep
        r, u, g and the new h, each [..., n].

    Raises
    ------
    GlassgateError
        A gate is missing or unknown, a shape does not match, the dtypes differ, ``reset`` is unknown, or
        ``b_after`` is given with ``reset="before"``.

    Notes
    -----
    Source: the notes, section 3.

    Examples
    --------
    With all weights zero and u = 0.8 (its bias is log 4), a fifth of the old value stays:

    >>> zero = {k: np.zeros((2, 2)) for k in "rug"}
    >>> b = {"r": np.zeros(2), "u": np.full(2, np.log(4.0)), "g": np.zeros(2)}
    >>> step = gru_step(np.zeros(2), np.array([1.0, -0.5]), W=zero, U=zero, b=b)
    >>> step.u.round(12), step.h.round(12)
    (array([0.8, 0.8]), array([ 0.2, -0.1]))
    """
    _check_reset("gru_step", reset)
    if reset == "before" and b_after is not None:
        raise GlassgateError('gru_step: b_after is the bias of reset="after", got it with reset="before"')
    _check("gru_step", "rug", W, U, b, x=x, h=h)
    b = b or _no_bias("rug", h)
    r = sigmoid(_dot(W["r"], h) + _dot(U["r"], x) + b["r"])
    u = sigmoid(_dot(W["u"], h) + _dot(U["u"], x) + b["u"])
    if reset == "before":
        g = np.tanh(_dot(W["g"], r * h) + _dot(U["g"], x) + b["g"])
    else:
        inner = _dot(W["g"], h)
        if b_after is not None:
            inner += _need("gru_step", "b_after", b_after, h.shape[-1:], h.dtype)
        g = np.tanh(r * inner + _dot(U["g"], x) + b["g"])
    h = u * g + (1 - u) * h
    return GRUStep(r, u, g, h)


def output(h: Array, V: Array, c: Array | None = None) -> Array:
    """softmax(V h + c): the prediction, a distribution over the next word.

    Parameters
    ----------
    h : array [..., n]
        Hidden state.
    V : array [k, n]
        Output weights, one row for each word of the vocabulary.
    c : array [k], optional
        Output bias.

    Returns
    -------
    array [..., k]; the last axis sums to 1

    Raises
    ------
    GlassgateError
        A shape does not match, or the dtypes differ.

    Examples
    --------
    >>> V = np.log(np.array([[1.0, 1.0], [1.0, 3.0]]))
    >>> output(np.array([[1.0, 0.0], [0.0, 1.0]]), V)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    n = _need("output", "h", h).shape[-1]
    k = _need("output", "V", V, ("k", n), h.dtype).shape[0]
    a = _dot(V, h)
    return softmax(a if c is None else a + _need("output", "c", c, (k,), h.dtype))


def run_lstm(x: Array, h: Array, C: Array, W: Gates, U: Gates, b: Gates | None = None) -> LSTMStep:
    """Run `lstm_step` over a sequence x [T, ..., m], from the initial state h, C [..., n].

    Returns
    -------
    LSTMStep
        Every gate, C and h of every step, each [T, ..., n]: C_1 ... C_T, h_1 ... h_T.

    Raises
    ------
    GlassgateError
        As `lstm_step`; also if there is no time step.

    Examples
    --------
    The cell with zero weights forgets half of its memory at each step:

    >>> zero = {k: np.zeros((1, 1)) for k in "fiog"}
    >>> run_lstm(np.zeros((3, 1)), np.zeros(1), np.array([8.0]), W=zero, U=zero).C
    array([[4.],
           [2.],
           [1.]])
    """
    steps = []
    for x_t in _time("run_lstm", x):
        steps.append(lstm_step(x_t, h, C, W, U, b))
        h, C = steps[-1].h, steps[-1].C
    return LSTMStep(*map(np.stack, zip(*steps, strict=True)))


def run_gru(
    x: Array,
    h: Array,
    W: Gates,
    U: Gates,
    b: Gates | None = None,
    reset: Reset = "before",
    b_after: Array | None = None,
) -> GRUStep:
    """Run `gru_step` over a sequence x [T, ..., m], from the initial state h [..., n].

    Returns
    -------
    GRUStep
        Every gate and h of every step, each [T, ..., n]: h_1 ... h_T.

    Raises
    ------
    GlassgateError
        As `gru_step`; also if there is no time step.

    Examples
    --------
    >>> zero = {k: np.zeros((1, 1)) for k in "rug"}
    >>> run_gru(np.zeros((3, 1)), np.array([8.0]), W=zero, U=zero).h
    array([[4.],
           [2.],
           [1.]])
    """
    steps = []
    for x_t in _time("run_gru", x):
        steps.append(gru_step(x_t, h, W, U, b, reset, b_after))
        h = steps[-1].h
    return GRUStep(*map(np.stack, zip(*steps, strict=True)))


def from_torch_layout(
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    reset: Reset = "after",
) -> dict[str, Any]:
    """Turn one layer's stacked weights, in torch's order, into the notes' letters.

    LSTM rows lie in the order i f g o, GRU rows r z n; four blocks are an LSTM, three a GRU. z is the share
    of the OLD value, so its rows are negated to give u. The two biases add up, except for the one which
    stands inside the product with r (n, with ``reset="after"``): that is ``b_after``.

    Parameters
    ----------
    weight_ih : array [4n or 3n, m]
    weight_hh : array [4n or 3n, n]
    bias_ih, bias_hh : array [4n or 3n], optional
    reset : {"after", "before"}
        GRU only: the form that the weights belong to. torch's own is "after".

    Returns
    -------
    dict
        Arguments for `lstm_step` and `run_lstm` (W, U, b), or for `gru_step` and `run_gru` (W, U, b, reset,
        b_after), to be passed with ``**``.

    Raises
    ------
    GlassgateError
        A shape does not match, the dtypes differ, or ``reset`` is unknown.

    Examples
    --------
    >>> notes = from_torch_layout(np.arange(4.0).reshape(4, 1), np.zeros((4, 1)))
    >>> {k: float(U[0, 0]) for k, U in notes["U"].items()}
    {'i': 0.0, 'f': 1.0, 'g': 2.0, 'o': 3.0}
    >>> run_lstm(np.zeros((2, 1)), np.zeros(1), np.ones(1), **notes).C
    array([[0.5 ],
           [0.25]])
    """
    where = "from_torch_layout"
    _check_reset(where, reset)
    rows, n = _need(where, "weight_hh", weight_hh, ("4n or 3n", "n")).shape
    order = {4 * n: "ifgo", 3 * n: "rug"}.get(rows)
    if order is None:
        raise GlassgateError(f"{where}: weight_hh must have shape (4n, n) or (3n, n), got {weight_hh.shape}")
    _need(where, "weight_ih", weight_ih, (rows, "m"), weight_hh.dtype)
    for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if bias is not None:
            _need(where, name, bias, (rows,), weight_hh.dtype)

    def letters(stacked: Array) -> dict[str, Array]:
        blocks = dict(zip(order, np.split(stacked, len(order)), strict=True))
        return blocks | {"u": -blocks["u"]} if "u" in blocks else blocks

    notes: dict[str, Any] = {"W": letters(weight_hh), "U": letters(weight_ih), "b": None}
    biases = [letters(bias) for bias in (bias_ih, bias_hh) if bias is not None]
    if biases:
        notes["b"] = {k: sum(part[k] for part in biases) for k in order}
    if order == "rug":
        notes |= {"reset": reset, "b_after": None}
        if reset == "after" and bias_hh is not None:
            notes["b_after"] = letters(bias_hh)["g"]
            notes["b"]["g"] = np.zeros_like(notes["b_after"]) if bias_ih is None else letters(bias_ih)["g"]
    return notes


def _dot(M: Array, v: Array) -> Array:
    # Row by row of the batch, never the batch as one matrix: BLAS may sum the two in different orders.
    product: Array = (M @ v[..., None])[..., 0]
    return product


def _no_bias(gates: str, h: Array) -> Gates:
    return dict.fromkeys(gates, np.zeros(h.shape[-1], h.dtype))


def _time(where: str, x: Array) -> Array:
    if _need(where, "x", x).ndim < 2 or len(x) == 0:
        raise GlassgateError(f"{where}: x must have shape (T, ..., m) with T at least 1, got {x.shape}")
    return x


def _check_reset(where: str, reset: str) -> None:
    if reset not in ("before", "after"):
        raise GlassgateError(f'{where}: reset must be "before" or "after", got {reset!r}')


def _check(where: str, gates: str, W: Gates, U: Gates, b: Gates | None, **vectors: Array) -> None:
    h = _need(where, "h", vectors["h"])
    n, m = h.shape[-1], _need(where, "x", vectors["x"]).shape[-1]
    for name, array in vectors.items():
        _need(where, name, array, (*h.shape[:-1], m if name == "x" else n), h.dtype)
    for name, table, shape in (("W", W, (n, n)), ("U", U, (n, m)), ("b", b, (n,))):
        if table is None and name == "b":
            continue
        if not isinstance(table, Mapping) or set(table) != set(gates):
            came = ", ".join(map(str, table)) if isinstance(table, Mapping) else type(table).__name__
            expected = ", ".join(gates)
            raise GlassgateError(f"{where}: {name} must map the gates {expected} to arrays, got {came}")
        for gate in gates:
            _need(where, f"{name}[{gate!r}]", table[gate], shape, h.dtype)


def _need(
    where: str, name: str, array: Array, shape: tuple[int | str, ...] | None = None, dtype: Any = None
) -> Array:
    """Return `array` if it is a float array of that shape (a letter stands for any size) and dtype."""
    if not isinstance(array, np.ndarray):
        raise GlassgateError(f"{where}: {name} must be a NumPy array, got {type(array).__name__}")
    if not np.issubdtype(array.dtype, np.floating):
        raise GlassgateError(f"{where}: {name} must be an array of floats, got {array.dtype}")
    wrong = [a for a, e in zip(array.shape, shape or (), strict=False) if isinstance(e, int) and a != e]
    if array.ndim == 0 or wrong or array.ndim != len(shape or array.shape):
        expected = str(shape or ("...", "n")).replace("'", "")
        raise GlassgateError(f"{where}: {name} must have shape {expected}, got {array.shape}")
    if dtype is not None and array.dtype != dtype:
        raise GlassgateError(f"{where}: all arrays must share the dtype {dtype}, but {name} is {array.dtype}")
    return array
