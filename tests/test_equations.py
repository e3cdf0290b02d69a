"""The equations against the notes' own numbers and against torch in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from glassgate.equations import (
    from_torch_layout,
    gru_step,
    lstm_step,
    output,
    run_gru,
    run_lstm,
    sigmoid,
)

EPS = np.finfo(np.float64).eps
DTYPES = [np.float16, np.float32, np.float64, np.longdouble]
HALF, OPEN, SHUT = 0.0, 1000.0, -1000.0  # biases that make a gate exactly 1/2, 1 and 0


def random_cell(gates: str, m: int, n: int, seed: int = 0, dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> dict[str, np.ndarray]:
        return {k: (rng.uniform(-1, 1, shape) / np.sqrt(n)).astype(dtype) for k in gates}

    return {"W": draw(n, n), "U": draw(n, m), "b": draw(n)}


def bias_only(**biases: Any) -> dict[str, Any]:
    """A cell of 3 nodes with zero weights, so that its biases alone set the gates."""
    zero = {k: np.zeros((3, 3)) for k in biases}
    return {"W": zero, "U": zero, "b": {k: np.broadcast_to(float(1) * v, 3) for k, v in biases.items()}}


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def lstm_bias_only(C: Any, **biases: Any) -> Any:
    return lstm_step(np.zeros(3), np.zeros(3), np.array(C), **bias_only(**biases))


# The notes' worked examples. A bias of atanh(p) or logit(p) comes back as p but for a few roundings: 4 eps.


def test_example_1_the_product_with_a_gate_is_element_by_element():
    # A gate cannot hold 1, 2, 3: the example is scaled by 1/4.
    step = lstm_bias_only([4.0, 5.0, 6.0], f=logit(np.array([0.25, 0.5, 0.75])), i=SHUT, o=OPEN, g=0.0)
    np.testing.assert_allclose(4 * step.C, [4, 10, 18], rtol=4 * EPS)


def test_example_2_the_sum_of_old_and_new_is_element_by_element():
    step = lstm_bias_only([1.0, 1.25, 1.5], f=OPEN, i=OPEN, o=OPEN, g=np.arctanh([0.25, 0.5, 0.75]))
    np.testing.assert_allclose(4 * step.C, [4 + 1, 5 + 2, 6 + 3], rtol=4 * EPS)


def test_example_3_tanh_saturates_where_the_notes_slip():
    step = lstm_bias_only([4.0, 5.0, 6.0], f=OPEN, i=SHUT, o=OPEN, g=0.0)
    assert step.h.round(5).tolist() == [0.99933, 0.99991, 0.99999]


def test_example_4_a_gate_with_4_inputs_and_3_nodes_has_21_weights_and_3_biases():
    cell = random_cell("fiog", m=4, n=3)
    assert [cell["W"][k].size + cell["U"][k].size for k in "fiog"] == [21, 21, 21, 21]
    assert [b.size for b in cell["b"].values()] == [3, 3, 3, 3]
    assert lstm_step(np.ones(4), np.zeros(3), np.zeros(3), **cell).h.shape == (3,)


@pytest.mark.parametrize(
    ("bias", "f", "kept"), [(HALF, 0.5, [2, 2.5, 3]), (OPEN, 1, [4, 5, 6]), (SHUT, 0, [0, 0, 0])]
)
def test_example_5_the_forget_gate_scales_the_past(bias, f, kept):
    step = lstm_bias_only([4.0, 5.0, 6.0], f=bias, i=SHUT, o=OPEN, g=1.0)
    assert step.f.tolist() == [f] * 3
    assert step.C.tolist() == kept


def test_example_6_the_input_gate_scales_the_candidate():
    # A candidate lies in (-1, 1): the example is scaled by 1/8.
    step = lstm_bias_only([4.0, 5.0, 6.0], f=SHUT, i=HALF, o=OPEN, g=np.arctanh([0.5, 0.625, 0.75]))
    np.testing.assert_allclose(8 * step.C, [2, 2.5, 3], rtol=4 * EPS)


def test_example_7_keeping_0_7_and_letting_in_0_6():
    step = lstm_bias_only(
        [1.0, -2.0, 0.5], f=logit(0.7), i=logit(0.6), o=OPEN, g=np.arctanh([0.5, 0.5, -0.25])
    )
    np.testing.assert_allclose(step.C, [0.7 + 0.3, -1.4 + 0.3, 0.35 - 0.15], rtol=4 * EPS)


def test_the_gru_example_passes_on_0_8_of_the_new_and_0_2_of_the_old():
    h = np.array([1.0, -1.0, 0.5])
    step = gru_step(np.zeros(3), h, **bias_only(r=HALF, u=logit(0.8), g=np.arctanh(0.25)))
    np.testing.assert_allclose(step.h, 0.8 * 0.25 + 0.2 * h, rtol=4 * EPS, atol=4 * EPS)


def test_the_exercise_counts_4400_weights_in_arrays_that_predict():
    rng = np.random.default_rng(0)
    W = {k: rng.normal(size=(20, 20)) for k in "fiog"}
    U = {k: rng.normal(size=(20, 10)) for k in "fiog"}
    V, embedding = rng.normal(size=(100, 20)), rng.normal(size=(100, 10))
    steps = run_lstm(embedding[[3, 14, 15, 92]], np.zeros(20), np.zeros(20), W, U)
    y = output(steps.h, V)
    assert y.shape == (4, 100)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=100 * EPS)  # a sum of 100 numbers
    assert sum(a.size for a in U.values()) == 800
    assert sum(a.size for a in W.values()) == 1_600
    assert V.size == 2_000
    assert 800 + 1_600 + V.size == 4_400
    assert embedding.size == 1_000


def test_the_output_weighs_the_hidden_state_and_adds_its_bias():
    # exp(V h + c) is 1 * 2, 3 * 4, 9 * 6: a total of 68. Logarithm, sum, exp: 4 eps of values below 4 each.
    V, c = np.log([[1.0], [3.0], [9.0]]), np.log([2.0, 4.0, 6.0])
    np.testing.assert_allclose(output(np.ones(1), V, c), np.array([2, 12, 54]) / 68, rtol=16 * EPS)
    np.testing.assert_allclose(output(np.ones(1), V), np.array([1, 3, 9]) / 13, rtol=16 * EPS)


def test_the_concatenated_form_is_the_same_gate():
    m, n = 4, 3
    cell = random_cell("fiog", m, n)
    x, h, C = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.3, -0.9, 0.1]), np.zeros(n)
    step = lstm_step(x, h, C, **cell)
    for k, gate in (("f", step.f), ("i", step.i), ("o", step.o)):
        side_by_side = np.hstack([cell["W"][k], cell["U"][k]])
        assert side_by_side.shape == (n, n + m)
        one_product = sigmoid(side_by_side @ np.concatenate([h, x]) + cell["b"][k])
        # The same m + n products and a bias, added in another order, each sum below 10: eps each.
        np.testing.assert_allclose(gate, one_product, rtol=0, atol=10 * (m + n + 1) * EPS)


# Against torch, in float64.


def torch_bound(arrays_: dict[str, Any], x: np.ndarray, eps: float = EPS) -> float:
    """How far two correct implementations may lie apart after the steps of x [T, ..., m].

    A sum of m + n products and two biases, the sigmoid or tanh of it and the four element-wise operations
    after it make m + n + 6 roundings, each of at most eps times the sum of the magnitudes (|h| <= 1).
    sigmoid and tanh do not enlarge an error, and gates below 1 damp what earlier steps left: over T steps
    the errors add up at most.
    """
    magnitude = max(
        np.abs(arrays_["W"][k]).sum(axis=1).max()
        + (np.abs(x) @ np.abs(arrays_["U"][k]).T).max()
        + (0 if arrays_["b"] is None else np.abs(arrays_["b"][k]).max())
        for k in arrays_["W"]
    )
    return float(len(x) * (sum(arrays_["U"]["g"].shape) + 6) * eps * magnitude)


def numpy_weights(layer: nn.Module, suffix: str = "_l0") -> list[np.ndarray]:
    names = [f"{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    return [getattr(layer, name).detach().numpy() for name in names if getattr(layer, name, None) is not None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("m", "n", "batch"), [(1, 1, 1), (10, 20, 3), (33, 7, 5)])
class TestAgainstTorch:
    @pytest.fixture(autouse=True)
    def _seed(self):
        torch.manual_seed(0)

    def test_lstm_cell(self, m, n, batch, bias):
        cell = nn.LSTMCell(m, n, bias=bias, dtype=torch.float64)
        x, h, C = (torch.randn(batch, size, dtype=torch.float64) for size in (m, n, n))
        h = h.tanh()
        notes = from_torch_layout(*numpy_weights(cell, ""))
        step = lstm_step(x.numpy(), h.numpy(), C.numpy(), **notes)
        with torch.no_grad():
            h_torch, C_torch = cell(x, (h, C))
        bound = torch_bound(notes, x.numpy()[None]) * (1 + float(C.abs().max()))
        np.testing.assert_allclose(step.h, h_torch.numpy(), rtol=0, atol=bound)
        np.testing.assert_allclose(step.C, C_torch.numpy(), rtol=0, atol=bound)

    def test_gru_cell(self, m, n, batch, bias):
        cell = nn.GRUCell(m, n, bias=bias, dtype=torch.float64)
        x, h = (torch.randn(batch, size, dtype=torch.float64) for size in (m, n))
        h = h.tanh()
        notes = from_torch_layout(*numpy_weights(cell, ""))
        assert notes["reset"] == "after"
        step = gru_step(x.numpy(), h.numpy(), **notes)
        with torch.no_grad():
            h_torch = cell(x, h)
        np.testing.assert_allclose(step.h, h_torch.numpy(), rtol=0, atol=torch_bound(notes, x.numpy()[None]))

    def test_lstm_over_a_sequence(self, m, n, batch, bias):
        layer = nn.LSTM(m, n, bias=bias, dtype=torch.float64)
        x, h, C = (
            torch.randn(*size, dtype=torch.float64) for size in ((12, batch, m), (batch, n), (batch, n))
        )
        h = h.tanh()
        notes = from_torch_layout(*numpy_weights(layer))
        steps = run_lstm(x.numpy(), h.numpy(), C.numpy(), **notes)
        with torch.no_grad():
            h_torch, (_, C_last) = layer(x, (h[None], C[None]))
        bound = torch_bound(notes, x.numpy()) * (1 + float(C.abs().max()))
        np.testing.assert_allclose(steps.h, h_torch.numpy(), rtol=0, atol=bound)
        np.testing.assert_allclose(steps.C[-1], C_last[0].numpy(), rtol=0, atol=bound)

    def test_gru_over_a_sequence(self, m, n, batch, bias):
        layer = nn.GRU(m, n, bias=bias, dtype=torch.float64)
        x, h = (torch.randn(*size, dtype=torch.float64) for size in ((12, batch, m), (batch, n)))
        h = h.tanh()
        notes = from_torch_layout(*numpy_weights(layer))
        steps = run_gru(x.numpy(), h.numpy(), **notes)
        with torch.no_grad():
            h_torch, _ = layer(x, h[None])
        np.testing.assert_allclose(steps.h, h_torch.numpy(), rtol=0, atol=torch_bound(notes, x.numpy()))


def test_the_torch_layout_takes_each_bias_alone_and_both_resets():
    rng = np.random.default_rng(0)
    n, m = 3, 2
    weights = rng.normal(size=(3 * n, m)), rng.normal(size=(3 * n, n))
    ih, hh = rng.normal(size=3 * n), rng.normal(size=3 * n)
    x, h = rng.normal(size=m), rng.uniform(-1, 1, n)
    zero = np.zeros(3 * n)
    for reset in ("before", "after"):
        assert from_torch_layout(*weights, reset=reset)["b"] is None
        for alone, both in (((ih, None), (ih, zero)), ((None, hh), (zero, hh)), ((None, None), (zero, zero))):
            one = gru_step(x, h, **from_torch_layout(*weights, *alone, reset=reset))
            two = gru_step(x, h, **from_torch_layout(*weights, *both, reset=reset))
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)
    notes = from_torch_layout(*weights, ih, hh, reset="before")
    assert notes["reset"] == "before"
    assert notes["b_after"] is None
    np.testing.assert_array_equal(notes["b"]["r"], (ih + hh)[:n])
    np.testing.assert_array_equal(notes["b"]["u"], -(ih + hh)[n : 2 * n])
    np.testing.assert_array_equal(notes["b"]["g"], (ih + hh)[2 * n :])
    np.testing.assert_array_equal(notes["W"]["u"], -weights[1][n : 2 * n])


# Dtypes and batches.


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_stays_and_its_precision_with_it(dtype):
    m, n, T = 4, 5, 6
    rng = np.random.default_rng(1)
    for gates, run, states in (("fiog", run_lstm, 2), ("rug", run_gru, 1)):
        cell = random_cell(gates, m, n, dtype=dtype)
        x, h = rng.normal(size=(T, 2, m)).astype(dtype), np.zeros((2, n), dtype)
        steps = run(x, *[h] * states, **cell)
        assert [field.dtype for field in steps] == [dtype] * len(steps)
        assert output(steps.h, cell["W"]["g"]).dtype == dtype
        wide = {name: {k: a.astype(np.longdouble) for k, a in table.items()} for name, table in cell.items()}
        exact = run(x.astype(np.longdouble), *[h.astype(np.longdouble)] * states, **wide)
        bound = torch_bound(cell, x.astype(np.float64), float(np.finfo(dtype).eps))
        for field, reference in zip(steps, exact, strict=True):
            np.testing.assert_allclose(field.astype(np.longdouble), reference, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reset", ["before", "after"])
def test_a_batch_gives_the_bits_of_its_rows(dtype, reset):
    # An equality: each row of the batch is a matrix-vector product of its own, whatever BLAS does inside.
    m, n, T = 6, 37, 3
    rng = np.random.default_rng(2)
    x = rng.normal(size=(T, 2, 5, m)).astype(dtype)
    h, C = (rng.uniform(-1, 1, (2, 5, n)).astype(dtype) for _ in range(2))
    lstm, gru = (random_cell(gates, m, n, dtype=dtype) for gates in ("fiog", "rug"))
    lstm_batch, gru_batch = run_lstm(x, h, C, **lstm), run_gru(x, h, **gru, reset=reset)
    for row in np.ndindex(2, 5):
        at = (slice(None), *row)
        pairs = zip(
            (*lstm_batch, *gru_batch),
            (*run_lstm(x[at], h[row], C[row], **lstm), *run_gru(x[at], h[row], **gru, reset=reset)),
            strict=True,
        )
        for batch, alone in pairs:
            np.testing.assert_array_equal(batch[at], alone)


def test_a_run_is_its_steps():
    cell = random_cell("fiog", 2, 3)
    x, h, C = np.random.default_rng(3).normal(size=(4, 2)), np.zeros(3), np.ones(3)
    steps = run_lstm(x, h, C, **cell)
    for t in range(4):
        step = lstm_step(x[t], h, C, **cell)
        for field, expected in zip(steps, step, strict=True):
            np.testing.assert_array_equal(field[t], expected)
        h, C = step.h, step.C


# The two things that differ from the frameworks.


def test_reset_before_and_after_are_different_functions():
    cell = random_cell("rug", 3, 4)
    x, h = np.array([1.0, -1.0, 0.5]), np.array([0.9, -0.5, 0.3, -0.8])
    before, after = (gru_step(x, h, **cell, reset=reset) for reset in ("before", "after"))
    np.testing.assert_array_equal(before.r, after.r)
    np.testing.assert_array_equal(before.u, after.u)
    assert np.abs(before.g - after.g).max() > 0.01  # the product alone differs by tenths here
    with_bias = gru_step(x, h, **cell, reset="after", b_after=np.ones(4))
    W, U, b, r = cell["W"]["g"], cell["U"]["g"], cell["b"]["g"], before.r
    within = 4 * (3 + 4 + 2) * EPS  # an eps for each of 3 + 4 products and two biases, of sums below 4
    np.testing.assert_allclose(before.g, np.tanh(W @ (r * h) + U @ x + b), rtol=0, atol=within)
    np.testing.assert_allclose(with_bias.g, np.tanh(r * (W @ h + 1) + U @ x + b), rtol=0, atol=within)


def test_negated_weights_turn_u_into_the_share_of_the_old():
    cell = random_cell("rug", 3, 4)
    x, h = np.array([1.0, -1.0, 0.5]), np.array([0.9, -0.5, 0.3, -0.8])
    step = gru_step(x, h, **cell)
    z = gru_step(x, h, **{name: table | {"u": -table["u"]} for name, table in cell.items()}).u
    # Two sigmoids, a difference, two products and a sum, all within 1: six times half an eps.
    np.testing.assert_allclose((1 - z) * step.g + z * h, step.h, rtol=0, atol=3 * EPS)
