"""Edits made one after another on the equations, step by step and sequence by sequence; and drawn ones."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from glassgate import equations
from glassgate.edits import Edit
from glassgate.trace import NAMES
from kernel_cases import Case


def kind_of(case: Case) -> str:
    return "lstm" if case.cell == "lstm" else "gru"


@st.composite
def edits_of(draw: st.DrawFn, case: Case) -> list[Edit]:
    """Up to six edits that fit a case."""
    H = case.weights[1].shape[1]
    number = st.floats(-2, 2)
    found = []
    for _ in range(draw(st.integers(1, 6))):
        units = draw(st.none() | st.lists(st.integers(0, H - 1), unique=True, max_size=5))
        ends = [draw(st.none() | st.integers(-9, 9)) for _ in range(2)]
        steps = draw(st.none() | st.just(slice(*ends, draw(st.sampled_from([None, 1, 2])))))
        kind = draw(st.sampled_from(["set", "scale", "add", "clamp", "replace"]))
        value: Any
        if kind == "clamp":
            value = tuple(sorted((draw(number | st.just(-np.inf)), draw(number))))
        elif kind == "replace":
            shape = (len(case.x), draw(st.sampled_from([1, case.x.shape[1]])), H)
            value = np.random.default_rng(draw(st.integers(0, 99))).uniform(-1, 1, shape)
            if 0 in shape:
                continue
        elif draw(st.booleans()):
            value = np.array([draw(number) for _ in range(H if units is None else len(units))])
        else:
            value = draw(number | st.just(0.0))
        gate = draw(st.sampled_from(NAMES[kind_of(case)]))
        found.append(Edit(gate, units=units, steps=steps, **{kind: value}))
    return found


def changed(edits: list[Edit], name: str, value: Any, t: int, n: int, length: int) -> Any:
    value = value.copy()
    for edit in edits:
        if edit.gate != name or t not in range(*(edit.steps or slice(None)).indices(length)):
            continue
        units = list(range(len(value)) if edit.units is None else edit.units)
        old = value[units]
        if edit.replace is not None:
            new = edit.replace[t, n if edit.replace.shape[1] > 1 else 0, units]
        elif edit.clamp is not None:
            new = np.clip(old, *edit.clamp)
        else:
            new = {"set": 0 * old, "scale": old, "add": old}[edit.kind]
            new = new * edit.value if edit.kind == "scale" else new + edit.value
        value[units] = new
    return value


def edited_definition(case: Case, edits: list[Edit]) -> dict[str, Any]:
    """All gates and states [T, N, H] by their names, and the final states."""
    T, N, _ = case.x.shape
    H = case.weights[1].shape[1]
    reset: Any = "after" if case.cell == "gru-after" else "before"
    letters = equations.from_torch_layout(*case.weights, reset=reset)
    W, U = letters["W"], letters["U"]
    b = letters["b"] or dict.fromkeys(W, 0.0)
    names = NAMES[kind_of(case)]
    out: dict[str, Any] = {name: np.zeros((T, N, H)) for name in names}
    out["h_n"], out["c_n"] = np.zeros((N, H)), np.zeros((N, H))
    for n in range(N):
        h = np.zeros(H) if case.h0 is None else case.h0[n]
        C = np.zeros(H) if case.c0 is None else case.c0[n]
        length = T if case.lengths is None else int(case.lengths[n])
        for t in reversed(range(length)) if case.reverse else range(length):
            if case.resets is not None and case.resets[t, n]:
                h, C = np.zeros(H), np.zeros(H)
            x, at = case.x[t, n], (t, n, length)
            now: dict[str, Any] = {}

            def gate(name: str, letter: str, h: Any = h, x: Any = x, at: Any = at, now: Any = now) -> Any:
                a = W[letter] @ h + U[letter] @ x + b[letter]
                value = np.tanh(a) if letter == "g" else equations.sigmoid(a)
                now[name] = changed(edits, name, value, *at)
                return now[name]

            if case.cell == "lstm":
                f, i = gate("forget", "f"), gate("input", "i")
                o, g = gate("output", "o"), gate("candidate", "g")
                C = now["cell"] = changed(edits, "cell", f * C + i * g, *at)
                h = o * np.tanh(C)
            else:
                r, u = gate("reset", "r"), gate("update", "u")
                if case.cell == "gru-before":
                    g = gate("candidate", "g", r * h)
                else:
                    inner = W["g"] @ h + (0 if letters["b_after"] is None else letters["b_after"])
                    a = r * inner + U["g"] @ x + b["g"]
                    g = now["candidate"] = changed(edits, "candidate", np.tanh(a), *at)
                h = u * g + (1 - u) * h
            h = now["hidden"] = changed(edits, "hidden", h, *at)
            for name in names:
                out[name][t, n] = now[name]
        out["h_n"][n], out["c_n"][n] = h, C
    return out
