"""Drawn cases for the tests of the kernels, and the definition run on them."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from glassgate import equations, kernels

CELLS = ("lstm", "gru-after", "gru-before")


class Case(NamedTuple):
    """One call: its arguments by name, all arrays in one dtype."""

    cell: str
    weights: tuple[Any, Any, Any, Any]  # w_ih, w_hh, b_ih, b_hh
    x: Any
    h0: Any
    c0: Any
    lengths: Any
    resets: Any
    reverse: bool
    precision: Any = "fp32"

    @property
    def gates(self) -> int:
        return 4 if self.cell == "lstm" else 3

    def options(self, **changes: Any) -> dict[str, Any]:
        """The keyword arguments that the forward and the backward call share."""
        out: dict[str, Any] = {"lengths": self.lengths, "resets": self.resets, "reverse": self.reverse}
        out["precision"] = self.precision
        if self.cell != "lstm":
            out["reset"] = self.cell.removeprefix("gru-")
        return out | changes

    def states(self) -> dict[str, Any]:
        return {"h0": self.h0, "c0": self.c0} if self.cell == "lstm" else {"h0": self.h0}


def make(
    cell: str, T: int, N: int, I: int, H: int, seed: int = 0, dtype: Any = np.float64, **kind: Any
) -> Case:
    """A case with normal entries; `kind`: bias, state, lengths, resets, reverse (all false), precision."""
    rng = np.random.default_rng(seed)
    G = 4 if cell == "lstm" else 3

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return (rng.standard_normal(shape) * scale).astype(dtype)

    weights = (
        normal(G * H, I, scale=max(I, 1) ** -0.5),
        normal(G * H, H, scale=max(H, 1) ** -0.5),
        normal(G * H) if kind.get("bias") else None,
        normal(G * H) if kind.get("bias") else None,
    )
    return Case(
        cell,
        weights,
        normal(T, N, I),
        normal(N, H) if kind.get("state") else None,
        normal(N, H) if kind.get("state") and cell == "lstm" else None,
        rng.integers(0, T + 1, N) if kind.get("lengths") else None,
        rng.random((T, N)) < 0.3 if kind.get("resets") else None,
        bool(kind.get("reverse")),
        kind.get("precision", "fp32"),
    )


@st.composite
def cases(draw: Any, dtype: Any = np.float64, largest: int = 40) -> Case:
    """Any cell, size, option, precision; sizes from 0 (H from 1), across the edges of vectors and blocks."""
    sizes = [draw(st.integers(0, 7)), draw(st.integers(0, 13)), draw(st.integers(0, largest))]
    sizes.append(draw(st.integers(1, largest)))
    kind: dict[str, Any] = {
        name: draw(st.booleans()) for name in ("bias", "state", "lengths", "resets", "reverse")
    }
    if dtype == np.float32:
        kind["precision"] = draw(st.sampled_from(["fp32", "bf16"]))
    return make(draw(st.sampled_from(CELLS)), *sizes, seed=draw(st.integers(0, 2**31)), dtype=dtype, **kind)


def forward(case: Case, **changes: Any) -> Any:
    run = kernels.lstm_forward if case.cell == "lstm" else kernels.gru_forward
    return run(case.x, *case.weights, **case.states(), **case.options(**changes))


def backward(case: Case, saved: Any, **gradients: Any) -> kernels.Gradients:
    run: Any = kernels.lstm_backward if case.cell == "lstm" else kernels.gru_backward
    w_ih, w_hh = case.weights[:2]
    return run(saved, case.x, w_ih, w_hh, **case.states(), **case.options(), **gradients)  # type: ignore[no-any-return]


def definition(case: Case) -> dict[str, Any]:
    """What ``glassgate.equations`` gives, sequence by sequence and step by step, in the kernels' layout."""
    T, N, _ = case.x.shape
    H = case.weights[1].shape[1]
    reset: Any = "after" if case.cell == "gru-after" else "before"
    letters = equations.from_torch_layout(*case.weights, reset=reset)
    out = {
        "hidden": np.zeros((T, N, H)),
        "gates": np.zeros((T, N, case.gates, H)),
        "h_n": np.zeros((N, H)) if case.h0 is None else case.h0.copy(),
    }
    if case.cell == "lstm":
        out |= {"cell": np.zeros((T, N, H)), "c_n": np.zeros((N, H)) if case.c0 is None else case.c0.copy()}
    for n in range(N):
        h = out["h_n"][n]
        c = out["c_n"][n] if case.cell == "lstm" else None
        steps = range(T if case.lengths is None else int(case.lengths[n]))
        for t in reversed(steps) if case.reverse else steps:
            if case.resets is not None and case.resets[t, n]:
                h, c = np.zeros(H), np.zeros(H)
            if case.cell == "lstm":
                step = equations.lstm_step(case.x[t, n], h, c, **letters)
                h, c = step.h, step.C
                out["gates"][t, n], out["cell"][t, n] = (step.i, step.f, step.g, step.o), c
            else:
                one = equations.gru_step(case.x[t, n], h, **letters)
                h = one.h
                out["gates"][t, n] = (one.r, 1 - one.u, one.g)
            out["hidden"][t, n] = h
        out["h_n"][n] = h
        if case.cell == "lstm":
            out["c_n"][n] = c
    return out
