"""What must hold for every cell whatever its weights, for numbers at the ends of the range, for bad input."""

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glassgate.equations import (
    from_torch_layout,
    gru_step,
    lstm_step,
    output,
    run_gru,
    run_lstm,
    sigmoid,
    softmax,
)
from glassgate.errors import GlassgateError

EPS = np.finfo(np.float64).eps


# sigmoid and softmax. Warnings are errors in all tests: an overflow fails here.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sigmoid_is_accurate_in_both_tails(dtype):
    a = np.linspace(-700, 700, 1401).astype(dtype)
    with localcontext(prec=50):
        exact = np.array([1 / (1 + (-Decimal(float(v))).exp()) for v in a])
    rounded = exact.astype(np.float64).astype(dtype)
    # exp 1 ulp, sum and quotient half an ulp each, and an ulp of a part may weigh twice in the whole: 4 ulp.
    assert np.all(np.abs(sigmoid(a) - rounded) <= 4 * np.spacing(rounded))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_sigmoid_and_softmax_at_the_ends_of_the_range(dtype):
    top = np.finfo(dtype).max
    ends = np.array([-np.inf, -top, -12_000, -0.0, 0, 12_000, top, np.inf], dtype)
    assert sigmoid(ends).tolist() == [0, 0, 0, 0.5, 0.5, 1, 1, 1]
    assert sigmoid(ends).dtype == dtype
    assert np.isnan(sigmoid(np.array([np.nan], dtype))).all()
    assert softmax(np.array([top, -top, top, -np.inf], dtype)).tolist() == [0.5, 0, 0.5, 0]
    assert softmax(np.array([-top], dtype)).tolist() == [1]
    assert softmax(ends[1:-1]).dtype == dtype


def test_sigmoid_of_one_number_and_of_integers():
    assert sigmoid(0.0) == 0.5
    assert sigmoid([0, 1000]).tolist() == [0.5, 1]


FINITE = st.floats(-30, 30, width=64)


@given(arrays(np.float64, (3, 5), elements=FINITE), FINITE)
@settings(deadline=None)
def test_softmax_is_a_distribution_and_ignores_a_shift(a, shift):
    y = softmax(a)
    assert np.all(y > 0)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=5 * EPS)  # five terms
    # The shift costs one rounding of a number below 60 in a and in its maximum; exp makes it relative.
    np.testing.assert_allclose(softmax(a + shift), y, rtol=2 * 60 * EPS + 20 * EPS)
    np.testing.assert_allclose(softmax(a[:, ::-1])[:, ::-1], y, rtol=5 * EPS)


@given(FINITE)
def test_sigmoid_of_the_negative_is_the_rest(a):
    assert abs(sigmoid(a) + sigmoid(-a) - 1) <= 2 * EPS  # one rounding of each value below 1, one of the sum


# What holds for every cell, whatever its weights.


@st.composite
def cells(draw: st.DrawFn, gates: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    m, n = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))

    def letters(*shape: int) -> dict[str, np.ndarray]:
        return {k: scale * rng.normal(size=shape) for k in gates}

    return (
        {"W": letters(n, n), "U": letters(n, m), "b": letters(n)},
        rng.normal(size=m),
        rng.uniform(-1, 1, n),
    )


@given(cells("fiog"), st.floats(-100, 100))
@settings(deadline=None)
def test_every_lstm_keeps_its_bounds(drawn, cell_state):
    cell, x, h = drawn
    C = np.full_like(h, cell_state)
    step = lstm_step(x, h, C, **cell)
    for gate in (step.f, step.i, step.o):
        assert np.all((gate >= 0) & (gate <= 1))
    assert np.all(np.abs(step.g) <= 1)
    assert np.all(np.abs(step.h) <= step.o)
    assert np.all(np.abs(step.C) <= np.abs(C) + 1)  # rounding is monotone: no slack


@given(cells("rug"), st.sampled_from(["before", "after"]))
@settings(deadline=None)
def test_every_gru_lands_between_its_past_and_its_candidate(drawn, reset):
    cell, x, h = drawn
    step = gru_step(x, h, **cell, reset=reset)
    assert np.all((step.r >= 0) & (step.r <= 1) & (step.u >= 0) & (step.u <= 1))
    assert np.all(np.abs(step.g) <= 1)
    slack = 2 * EPS  # four roundings of half an eps: 1 - u, two products, their sum; all values within 1
    assert np.all(step.h >= np.minimum(h, step.g) - slack)
    assert np.all(step.h <= np.maximum(h, step.g) + slack)


@given(cells("rug"))
@settings(deadline=None)
def test_reset_before_and_after_agree_when_nothing_is_reset(drawn):
    cell, x, h = drawn
    W, U, b = cell["W"], cell["U"], cell["b"]
    with_r_1 = {
        "W": W | {"r": np.zeros_like(W["r"])},
        "U": U | {"r": np.zeros_like(U["r"])},
        "b": b | {"r": np.full_like(b["r"], 1000.0)},
    }
    without_past = {"W": W | {"g": np.zeros_like(W["g"])}, "U": U, "b": b}
    for same in (with_r_1, without_past):
        before, after = (gru_step(x, h, **same, reset=reset) for reset in ("before", "after"))
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)


# Bad input.

LSTM, GRU = (
    {
        "W": {k: np.zeros((3, 3)) for k in gates},
        "U": {k: np.zeros((3, 2)) for k in gates},
        "b": {k: np.zeros(3) for k in gates},
    }
    for gates in ("fiog", "rug")
)
X, H = np.zeros(2), np.zeros(3)
ERRORS = {
    "LSTM weights in a GRU": (
        lambda: gru_step(X, H, **LSTM),
        "gru_step: W must map the gates r, u, g to arrays, got f, i, o, g",
    ),
    "a gate missing": (
        lambda: lstm_step(X, H, H, LSTM["W"], {k: LSTM["U"][k] for k in "fio"}),
        "lstm_step: U must map the gates f, i, o, g to arrays, got f, i, o",
    ),
    "one matrix": (
        lambda: lstm_step(X, H, H, np.zeros((3, 3)), LSTM["U"]),
        "lstm_step: W must map the gates f, i, o, g to arrays, got ndarray",
    ),
    "a wide input": (
        lambda: lstm_step(np.zeros(4), H, H, **LSTM),
        "lstm_step: U['f'] must have shape (3, 4), got (3, 2)",
    ),
    "a long state": (
        lambda: lstm_step(X, H, np.zeros(4), **LSTM),
        "lstm_step: C must have shape (3,), got (4,)",
    ),
    "batches that differ": (
        lambda: gru_step(np.zeros((5, 2)), np.zeros((4, 3)), **GRU),
        "gru_step: x must have shape (4, 2), got (5, 2)",
    ),
    "dtypes that differ": (
        lambda: gru_step(X.astype(np.float32), H, **GRU),
        "gru_step: all arrays must share the dtype float64, but x is float32",
    ),
    "integers": (
        lambda: gru_step(np.array([1, 2]), H, **GRU),
        "gru_step: x must be an array of floats, got int64",
    ),
    "a list": (lambda: gru_step([1.0, 2.0], H, **GRU), "gru_step: x must be a NumPy array, got list"),
    "a number": (
        lambda: gru_step(X, np.array(1.0), **GRU),
        "gru_step: h must have shape (..., n), got ()",
    ),
    "an unknown reset": (
        lambda: gru_step(X, H, **GRU, reset="never"),
        'gru_step: reset must be "before" or "after", got \'never\'',
    ),
    "b_after before": (
        lambda: gru_step(X, H, **GRU, b_after=H),
        'gru_step: b_after is the bias of reset="after", got it with reset="before"',
    ),
    "a short b_after": (
        lambda: gru_step(X, H, **GRU, reset="after", b_after=X),
        "gru_step: b_after must have shape (3,), got (2,)",
    ),
    "no time axis": (
        lambda: run_gru(X, H, **GRU),
        "run_gru: x must have shape (T, ..., m) with T at least 1, got (2,)",
    ),
    "no time step": (
        lambda: run_lstm(np.zeros((0, 2)), H, H, **LSTM),
        "run_lstm: x must have shape (T, ..., m) with T at least 1, got (0, 2)",
    ),
    "a narrow V": (
        lambda: output(H, np.zeros((7, 2))),
        "output: V must have shape (k, 3), got (7, 2)",
    ),
    "a short c": (lambda: output(H, np.zeros((7, 3)), H), "output: c must have shape (7,), got (3,)"),
    "an empty softmax": (
        lambda: softmax(np.zeros((2, 0))),
        "softmax: a last axis of at least 1 expected, got shape (2, 0)",
    ),
    "five blocks": (
        lambda: from_torch_layout(np.zeros((15, 2)), np.zeros((15, 3))),
        "from_torch_layout: weight_hh must have shape (4n, n) or (3n, n), got (15, 3)",
    ),
    "a bias of one gate": (
        lambda: from_torch_layout(np.zeros((12, 2)), np.zeros((12, 3)), np.zeros(3)),
        "from_torch_layout: bias_ih must have shape (12,), got (3,)",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_input_is_told_in_one_line(call, message):
    with pytest.raises(GlassgateError) as caught:
        call()
    assert str(caught.value) == message
