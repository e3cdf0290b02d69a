"""The kernels against torch.nn and a Python loop of torch ops: checked first, then timed in turns.

Run: ``python benchmarks/kernels.py [--threads 2] [--shapes 1,5,7] [--json FILE]``.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import glassgate
from glassgate import kernels
from glassgate.kernels import _native

# T, N, I, H: the cells of the notes' exercise first, then small, middle and large networks.
SHAPES = [
    (35, 1, 10, 20),
    (35, 20, 10, 20),
    (20, 20, 200, 200),
    (35, 20, 200, 200),
    (100, 32, 256, 256),
    (100, 64, 512, 512),
    (35, 20, 650, 650),
    (70, 80, 400, 1150),
    (100, 1, 128, 128),
    (25, 1, 1024, 1024),
    (50, 16, 2048, 2048),
]
CELLS = {"lstm": 0, "gru-after": 1, "gru-before": 2}
Call = Callable[[], Any]


class Ours:
    """The kernels on torch tensors, by address: what a layer does, without the layer."""

    def __init__(self, cell: str, weights: list[torch.Tensor], x: torch.Tensor, d: torch.Tensor) -> None:
        self.cell, self.weights, self.x, self.d = CELLS[cell], weights, x, d
        T, N, I = x.shape
        self.sizes, self.gates = (T, N, I, weights[1].shape[1]), 4 if cell == "lstm" else 3

    def forward(self, save: bool) -> list[torch.Tensor | None]:
        """Hidden states, state and gates."""
        T, N, I, H = self.sizes
        hidden, h_n = torch.empty(T, N, H), torch.empty(N, H)
        state = torch.empty(T, N, H) if save and self.cell != 2 else None
        gates = torch.empty(T, N, self.gates, H) if save else None
        c_n = torch.empty(N, H) if self.cell == 0 else None
        names = ("w_ih", "w_hh", "b_ih", "b_hh")
        weights: Any = {name: weight.data_ptr() for name, weight in zip(names, self.weights, strict=True)}
        _native.forward(
            **self.common(T, N, I, H),
            **weights,
            packed=None,
            hidden=address(hidden),
            state=address(state),
            gates=address(gates),
            h_n=address(h_n),
            c_n=address(c_n),
        )
        return [hidden, state, gates]

    def train(self) -> list[torch.Tensor]:
        """Forward and backward: hidden states, then the gradients in the order of torch's parameters."""
        T, N, I, H = self.sizes
        hidden, state, gates = self.forward(save=True)
        GH = self.gates * H
        shapes = {"d_x": (T, N, I), "d_w_ih": (GH, I), "d_w_hh": (GH, H), "d_b_ih": (GH,), "d_b_hh": (GH,)}
        out = {name: torch.empty(shape) for name, shape in shapes.items()}
        arguments: dict[str, Any] = dict.fromkeys(("d_state", "d_gates", "d_h_n", "d_c_n", "d_h0", "d_c0"))
        arguments |= {name: address(tensor) for name, tensor in out.items()}
        _native.backward(
            **self.common(T, N, I, H),
            w_ih=address(self.weights[0]),
            w_hh=address(self.weights[1]),
            hidden=address(hidden),
            state=address(state),
            gates=address(gates),
            d_hidden=address(self.d),
            **arguments,
        )
        assert hidden is not None
        return [hidden, *out.values()]

    def common(self, T: int, N: int, I: int, H: int) -> Any:
        """Give the arguments that forward and backward share."""
        given = {"cell": self.cell, "twice": False, "T": T, "N": N, "I": I, "H": H, "x": self.x.data_ptr()}
        absent = dict.fromkeys(("h0", "c0", "lengths", "resets"))
        return given | absent | {"reverse": False, "bf16": False}

    def infer(self) -> torch.Tensor | None:
        """Hidden states alone."""
        return self.forward(save=False)[0]


class Theirs:
    """torch.nn's layer with the same weights; for the reset before the product, a loop of torch ops."""

    def __init__(self, cell: str, weights: list[torch.Tensor], x: torch.Tensor, d: torch.Tensor) -> None:
        self.x, self.d, self.loop = x, d, cell == "gru-before"
        I, H = x.shape[2], weights[1].shape[1]
        self.module: Any = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(I, H)
        for parameter, value in zip(self.module.parameters(), weights, strict=True):
            parameter.data = value.clone()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Hidden states."""
        if not self.loop:
            return self.module(x)[0]  # type: ignore[no-any-return]
        w_ih, w_hh, b_ih, b_hh = self.module.parameters()
        H = w_hh.shape[1]
        inputs = torch.nn.functional.linear(x, w_ih, b_ih + b_hh)
        h, out = torch.zeros(x.shape[1], H), []
        for t in range(x.shape[0]):
            r, z = torch.sigmoid(inputs[t, :, : 2 * H] + h @ w_hh[: 2 * H].T).chunk(2, 1)
            n = torch.tanh(inputs[t, :, 2 * H :] + (r * h) @ w_hh[2 * H :].T)
            h = n + z * (h - n)
            out.append(h)
        return torch.stack(out)

    def train(self) -> list[torch.Tensor]:
        """As `Ours.train`."""
        self.module.zero_grad()
        x = self.x.detach().requires_grad_()
        y = self.run(x)
        torch.autograd.backward(y, self.d)
        assert x.grad is not None
        return [y.detach(), x.grad, *(parameter.grad for parameter in self.module.parameters())]

    def infer(self) -> torch.Tensor:
        """As `Ours.infer`."""
        with torch.no_grad():
            return self.run(self.x)


def address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def check(cell: str, ours: Ours, theirs: Theirs) -> None:
    """Every result of both within 1e-4 of the largest value: float32 over a hundred steps gives 3e-6."""
    for got, want in zip(ours.train(), theirs.train(), strict=True):
        error = float((got - want).abs().max() / want.abs().max())
        assert error < 1e-4, f"{cell} {ours.sizes}: results differ by {error:.1e}"
    assert torch.allclose(ours.infer(), theirs.infer(), atol=1e-4)  # type: ignore[arg-type]


def in_turns(calls: list[Call], seconds: float) -> list[float]:
    """Median time of each call in seconds; they take turns, so that what slows the machine slows all."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or (time.perf_counter() < end and len(times[0]) < 300):
        for call, record in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def sgemm_rate() -> float:
    """GFLOP/s of torch's own float32 product of two 2048 x 2048 matrices."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    (seconds,) = in_turns([lambda: a @ b], 2.0)
    return float(2 * 2048**3 / seconds / 1e9)


def step_times(H: int) -> dict[str, float]:
    """Microseconds of one step at batch 1 from Python: ours in place, torch.nn.LSTM."""
    rng = np.random.default_rng(0)
    w = [
        rng.standard_normal(s).astype(np.float32) * 0.05 for s in ((4 * H, H), (4 * H, H), (4 * H,), (4 * H,))
    ]
    model, module = kernels.PackedLSTM(*w), torch.nn.LSTM(H, H)
    x, h, c = np.zeros((1, H), np.float32), np.zeros((1, H), np.float32), np.zeros((1, H), np.float32)
    tensors = torch.zeros(1, 1, H), (torch.zeros(1, 1, H), torch.zeros(1, 1, H))

    def theirs() -> None:
        with torch.no_grad():
            module(*tensors)

    ours, torch_time = in_turns([lambda: model.step(x, h, c), theirs], 1.0)
    return {"H": H, "ours_us": ours * 1e6, "torch_us": torch_time * 1e6, "ratio": torch_time / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--shapes", default=",".join(str(i) for i in range(len(SHAPES))))
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    kernels.set_num_threads(chosen.threads)
    rate = sgemm_rate()
    versions = f"glassgate {glassgate.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {chosen.threads} threads, {kernels.isa()}; {versions}"
    )
    print(f"sgemm {rate:.0f} GFLOP/s; ms, GFLOP/s, share of sgemm, ratio to torch.nn (gru-before: to a loop)")
    rows: list[dict[str, Any]] = []
    for index in map(int, chosen.shapes.split(",")):
        T, N, I, H = SHAPES[index]
        for cell in chosen.cells.split(","):
            torch.manual_seed(index)
            module: Any = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(I, H)
            weights = [parameter.data for parameter in module.parameters()]
            x, d = torch.randn(T, N, I), torch.randn(T, N, H)
            ours, theirs = Ours(cell, weights, x, d), Theirs(cell, weights, x, d)
            check(cell, ours, theirs)
            flops = 2 * T * N * (4 if cell == "lstm" else 3) * H * (I + H)
            for work, factor, pair in (
                ("train", 3, [ours.train, theirs.train]),
                ("infer", 1, [ours.infer, theirs.infer]),
            ):
                mine, other = in_turns(list[Call](pair), chosen.seconds)
                speed = factor * flops / mine / 1e9
                row = {
                    "cell": cell,
                    "work": work,
                    "shape": (T, N, I, H),
                    "ms": mine * 1e3,
                    "torch_ms": other * 1e3,
                }
                rows.append(row | {"gflops": speed, "share": speed / rate, "ratio": other / mine})
                print(
                    f"{cell:10} {work} {(T, N, I, H)!s:22} {mine * 1e3:9.2f} ms {speed:6.1f}"
                    f" {speed / rate:5.2f}   torch {other * 1e3:9.2f} ms   ratio {other / mine:6.2f}",
                    flush=True,
                )
    for cell in chosen.cells.split(","):
        for work in ("train", "infer"):
            ratios = [row["ratio"] for row in rows if row["cell"] == cell and row["work"] == work]
            mean = statistics.geometric_mean(ratios)
            print(f"{cell:10} {work}: geometric mean {mean:.2f}, smallest {min(ratios):.2f}")
    steps = [step_times(H) for H in (20, 256, 650)]
    for one in steps:
        print("one step, N = 1, H = {H}: ours {ours_us:.1f} us, torch {torch_us:.1f} us".format(**one))
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps({"sgemm": rate, "versions": versions, "rows": rows, "steps": steps})
        )


if __name__ == "__main__":
    main()
