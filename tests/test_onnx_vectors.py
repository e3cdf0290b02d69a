"""Outside vectors: the LSTM and GRU cases that the onnx package ships, through the equations and the kernels.

The shipped cases give all gates of a cell the same weights (but for one GRU case), so they cannot tell a
wrong gate order. Random cells through onnx's own reference evaluator close that gap.
"""

from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import gru, lstm
from onnx.reference import ReferenceEvaluator

from glassgate import kernels
from glassgate.equations import run_gru, run_lstm

Arrays = dict[str, np.ndarray]

# What onnx 1.23 ships; a later package may bring more, which then run too.
SHIPPED = {
    *(f"test_lstm_{name}" for name in ("defaults", "with_initial_bias", "with_peepholes", "batchwise")),
    *(f"test_gru_{name}" for name in ("defaults", "with_initial_bias", "seq_length", "batchwise")),
    *(f"test_{cell}_{direction}" for cell in ("lstm", "gru") for direction in ("reverse", "bidirectional")),
}
WAITING = {"test_lstm_with_peepholes": "peephole connections are not part of the notes' LSTM"}


def shipped_cases() -> dict[str, tuple[onnx.NodeProto, Arrays, Arrays]]:
    """Call the two modules' export functions and note what they expect (all operators would take 10 s)."""
    cases = {}

    def record(node: onnx.NodeProto, inputs: Any, outputs: Any, name: str) -> None:
        named = [
            dict(zip(filter(None, names), values, strict=True))
            for names, values in ((node.input, inputs), (node.output, outputs))
        ]
        cases[name] = (node, named[0], named[1])

    for module, exports in ((lstm, lstm.LSTM), (gru, gru.GRU)):
        with patch.object(module, "expect", record):
            for export in (name for name in dir(exports) if name.startswith("export")):
                np.random.seed(0)
                getattr(exports, export)()
    return cases


CASES = shipped_cases()


def to_notes(order: str, W: np.ndarray, R: np.ndarray, B: np.ndarray | None, after: bool) -> dict[str, Any]:
    """One direction of ONNX weights in the notes' letters: W is our U, R our W, B the two biases in a row."""

    def letters(stacked: np.ndarray) -> Arrays:
        return dict(zip(order, np.split(stacked, len(order)), strict=True))

    notes: dict[str, Any] = {"U": letters(W), "W": letters(R), "b": None}
    if B is not None:
        on_x, on_h = (letters(half) for half in np.split(B, 2))
        notes["b"] = {k: on_x[k] if after and k == "g" else on_x[k] + on_h[k] for k in order}
    if "u" in order:  # ONNX's z is the share of the old value
        notes["reset"] = "after" if after else "before"
        notes["b_after"] = on_h["g"] if after and B is not None else None
        for name in ("W", "U", "b"):
            if notes[name] is not None:
                notes[name]["u"] = -notes[name]["u"]
    return notes


def by_equations(op: str, x: np.ndarray, W: Any, R: Any, B: Any, h: Any, c: Any, after: bool) -> Any:
    """One direction by the equations: h of every step, and the last h and C."""
    steps: Any
    if op == "LSTM":
        steps = run_lstm(x, h, c, **to_notes("iofg", W, R, B, after=False))
        return steps.h, steps.h[-1], steps.C[-1]
    steps = run_gru(x, h, **to_notes("urg", W, R, B, after))
    return steps.h, steps.h[-1], None


def by_kernels(op: str, x: np.ndarray, W: Any, R: Any, B: Any, h: Any, c: Any, after: bool) -> Any:
    """One direction by the kernels, whose gates lie in another order: i f g o and r z n."""
    order = [0, 2, 3, 1] if op == "LSTM" else [1, 0, 2]

    def in_order(stacked: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(stacked, len(order))[k] for k in order])

    weights = [in_order(part) for part in (W, R, *([] if B is None else np.split(B, 2)))]
    if op == "LSTM":
        run = kernels.lstm_forward(x, *weights, h0=h, c0=c)
        return run.hidden, run.h_n, run.c_n
    gru = kernels.gru_forward(x, *weights, h0=h, reset="after" if after else "before")
    return gru.hidden, gru.h_n, None


def run_node(node: onnx.NodeProto, inputs: Arrays, one_direction: Any) -> Arrays:
    """Y, Y_h and Y_c of an ONNX node, in the dtype of its inputs."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    direction = attributes.pop("direction", b"forward").decode()
    batch_first = attributes.pop("layout", 0)
    after = bool(attributes.pop("linear_before_reset", 0))
    assert set(attributes) <= {"hidden_size"}, f"no place in the equations: {sorted(attributes)}"
    known = {"X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"}
    assert set(inputs) <= known, f"no place in the equations: {sorted(set(inputs) - known)}"

    x = inputs["X"].swapaxes(0, 1) if batch_first else inputs["X"]
    T, batch, _ = x.shape
    assert np.all(inputs.get("sequence_lens", T) == T)
    directions, _, n = inputs["R"].shape
    states = []
    for name in ("initial_h", "initial_c"):
        shape = (batch, directions, n) if batch_first else (directions, batch, n)
        state = inputs.get(name, np.zeros(shape, x.dtype))
        states.append(state.swapaxes(0, 1) if batch_first else state)

    outputs: dict[str, list[np.ndarray]] = {"Y": [], "Y_h": [], "Y_c": []}
    for d in range(directions):
        turn = slice(None, None, -1 if direction == "reverse" or d == 1 else 1)
        B = inputs["B"][d] if "B" in inputs else None
        arguments = (inputs["W"][d], inputs["R"][d], B, states[0][d], states[1][d], after)
        h, *last_states = one_direction(node.op_type, x[turn], *arguments)
        for name, value in zip(outputs, (h[turn], *last_states), strict=True):
            if value is not None:
                outputs[name].append(value)

    Y, *last = (
        np.stack(outputs[name], axis) for name, axis in (("Y", 1), ("Y_h", 0), ("Y_c", 0)) if outputs[name]
    )
    if batch_first:
        Y, last = Y.transpose(2, 0, 1, 3), [a.swapaxes(0, 1) for a in last]
    return dict(zip(outputs, (Y, *last), strict=False))


def bound(inputs: Arrays, dtype: Any) -> float:
    """How far ONNX's values, computed in `dtype`, may lie from ours.

    Each pre-activation sums m + n products and two biases: as many roundings of at most eps times the sum
    of the magnitudes (|h| <= 1; an initial state is drawn within 1), and six more in what follows. sigmoid
    and tanh do not enlarge an error, and gates below 1 damp what earlier steps left: T steps add up at most.
    """
    X, W, R = (np.abs(inputs[name]).astype(np.float64) for name in "XWR")
    T = max(X.shape[:2])  # one of the two is time
    magnitude = (
        (X @ W.swapaxes(1, 2)[:, None]).max() + R.sum(axis=-1).max() + 2 * np.abs(inputs.get("B", 0)).max()
    )
    return float(T * (W.shape[-1] + R.shape[-1] + 8) * np.finfo(dtype).eps * magnitude)


def assert_same(
    node: onnx.NodeProto, inputs: Arrays, expected: Arrays, dtype: Any, one_direction: Any
) -> None:
    """The equations compute in float64, the kernels in `dtype` as ONNX does: then both sides err."""
    sides = 2 if one_direction is by_kernels else 1
    floats = dtype if one_direction is by_kernels else np.float64
    cast = {name: a if name == "sequence_lens" else a.astype(floats) for name, a in inputs.items()}
    ours = run_node(node, cast, one_direction)
    assert expected
    for name, values in expected.items():
        assert ours[name].dtype == floats
        np.testing.assert_allclose(
            ours[name], values, rtol=0, atol=sides * bound(inputs, dtype), err_msg=name
        )


def test_the_package_ships_the_cases_that_we_know():
    assert set(CASES) >= SHIPPED


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(reason=WAITING[name], raises=AssertionError)] if name in WAITING else [],
        )
        for name in CASES
    ],
)
@pytest.mark.parametrize("one_direction", [by_equations, by_kernels])
def test_a_shipped_case(name, one_direction):
    assert_same(*CASES[name], np.float32, one_direction)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU before", "GRU after"])
@pytest.mark.parametrize("one_direction", [by_equations, by_kernels])
def test_a_random_case_through_the_reference_evaluator(cell, direction, batch_first, one_direction):
    T, batch, m, n, D = 5, 3, 4, 6, 2 if direction == "bidirectional" else 1
    op, gates = cell.split()[0], 4 if cell == "LSTM" else 3
    rng = np.random.default_rng(0)
    state = (batch, D, n) if batch_first else (D, batch, n)
    inputs = {
        "X": rng.normal(size=(batch, T, m) if batch_first else (T, batch, m)),
        "W": rng.normal(size=(D, gates * n, m)) / 2,
        "R": rng.normal(size=(D, gates * n, n)) / 2,
        "B": rng.normal(size=(D, 2 * gates * n)) / 2,
        "initial_h": rng.uniform(-1, 1, state),
        "initial_c": rng.uniform(-1, 1, state),
    }
    places = ["X", "W", "R", "B", "", "initial_h", "initial_c"]
    outputs = ["Y", "Y_h", "Y_c"]
    attributes: dict[str, Any] = {"hidden_size": n, "direction": direction, "layout": int(batch_first)}
    if op == "GRU":
        del inputs["initial_c"], places[-1], outputs[-1]
        attributes["linear_before_reset"] = int(cell == "GRU after")
    node = onnx.helper.make_node(op, places, outputs, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.DOUBLE, a.shape) for k, a in inputs.items()],
        [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.DOUBLE, None) for k in outputs],
    )
    expected = dict(zip(outputs, ReferenceEvaluator(graph, opsets={"": 22}).run(None, inputs), strict=True))
    assert_same(node, inputs, expected, np.float64, one_direction)
