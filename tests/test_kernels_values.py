"""The kernels compute what the equations say, forward and backward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from glassgate import kernels
from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from kernel_cases import CELLS, Case, backward, cases, definition, forward, make

EPS64 = np.finfo(np.float64).eps


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_forward_is_the_definition(case: Case) -> None:
    got, want = forward(case), definition(case)
    for name, value in want.items():
        # Sums of at most 81 terms of size about 1, then up to 7 steps which each may amplify a state's
        # error a few times: 2^20 units in the last place lie far above that and far below any slip.
        np.testing.assert_allclose(getattr(got, name), value, rtol=0, atol=2**20 * EPS64, err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [(9, 5, 7, 19), (4, 70, 40, 130), (3, 1, 300, 33)])
def test_float32_is_as_close_to_float64_as_torch_is(cell: str, size: tuple[int, int, int, int]) -> None:
    case = make(cell, *size, dtype=np.float32, bias=True)
    narrow = case._replace(
        x=case.x.astype(np.float64),
        weights=tuple(w.astype(np.float64) for w in case.weights),  # type: ignore[arg-type]
    )
    want = definition(narrow)["hidden"]
    error = np.abs(forward(case).hidden - want).max()
    if cell == "gru-before":
        # torch lacks this form. Rounding of single operations gives about sqrt(K) units; 16 is
        # twice what is seen.
        assert error < 16 * np.finfo(np.float32).eps
        return
    module = _torch_module(case)
    with torch.no_grad():
        torch_error = np.abs(module(torch.from_numpy(case.x))[0].numpy() - want).max()
    assert (
        error <= 2 * torch_error
    )  # flash-attention's rule: at most twice the error of the plain float32 path


@settings(max_examples=150, deadline=None)
@given(case=cases(largest=20))
def test_backward_is_the_gradient(case: Case) -> None:
    """Against autograd through the equations in torch, for all results at once, gates and cells included."""
    saved = forward(case)
    rng = np.random.default_rng(1)
    names = ["hidden", "gates", "h_n"] + (["cell", "c_n"] if case.cell == "lstm" else [])
    gradients = {f"d_{name}": rng.standard_normal(getattr(saved, name).shape) for name in names}
    got = backward(case, saved, **gradients)
    want = _autograd(case, gradients)
    for name, value in want.items():
        # As forward, over 7 steps back, and sums over up to 7 * 13 rows.
        np.testing.assert_allclose(getattr(got, name), value, rtol=0, atol=2**24 * EPS64, err_msg=name)


@pytest.mark.parametrize("cell", ["lstm", "gru-after"])
def test_backward_is_torch_autograd(cell: str) -> None:
    case = make(cell, 30, 9, 33, 70, bias=True)
    module = _torch_module(case)
    x = torch.from_numpy(case.x).requires_grad_()
    d = np.random.default_rng(2).standard_normal((30, 9, 70))
    module(x)[0].backward(torch.from_numpy(d))
    got = backward(case, forward(case), d_hidden=d)
    for name, want in (
        ("x", x.grad),
        ("w_ih", module.weight_ih_l0.grad),
        ("w_hh", module.weight_hh_l0.grad),
        ("b_ih", module.bias_ih_l0.grad),
        ("b_hh", module.bias_hh_l0.grad),
    ):
        assert want is not None
        # Both sum 270 rows in float64; gradients are of size 1 to 100.
        np.testing.assert_allclose(getattr(got, name), want.numpy(), rtol=1e-10, atol=1e-11, err_msg=name)


# From 64 units and 32 rows on the weights' gradients are made on tile registers, where there are any.
BY_PARTS = [(9, 5, 40, 70), (33, 1, 7, 64), (60, 20, 90, 130)]


@pytest.mark.parametrize("cell", ["lstm", "gru-after"])
@pytest.mark.parametrize("size", BY_PARTS)
def test_gradients_in_float32_are_as_close_to_float64_as_torchs(cell: str, size: tuple[int, ...]) -> None:
    case = make(cell, *size, dtype=np.float32, bias=True)
    d = np.random.default_rng(2).standard_normal((size[0], size[1], size[3]))
    gradients = []
    for module in (_torch_module(case), _torch_module(case).double()):
        dtype = module.weight_ih_l0.dtype
        x = torch.from_numpy(case.x).to(dtype).requires_grad_()
        module(x)[0].backward(torch.from_numpy(d).to(dtype))
        gradients.append([x.grad, *(p.grad for p in module.parameters())])
    got = backward(case, forward(case), d_hidden=d.astype(np.float32))
    for name, torchs, exact in zip(("x", "w_ih", "w_hh", "b_ih", "b_hh"), *gradients, strict=True):
        assert torchs is not None
        assert exact is not None
        error = np.linalg.norm(getattr(got, name) - exact.numpy())
        # The same rule, of root mean squares; with two parts of three they would be ten times torch's.
        assert error <= 2 * torch.linalg.norm(torchs.double() - exact).item(), name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", BY_PARTS)
def test_gradients_grow_with_their_causes_to_the_bit(cell: str, size: tuple[int, ...]) -> None:
    """A power of two rounds nothing: not even the least part of a number is lost where numbers are small."""
    case = make(cell, *size, dtype=np.float32, bias=True)
    saved = forward(case)
    d = np.random.default_rng(2).standard_normal((size[0], size[1], size[3])).astype(np.float32)
    want = backward(case, saved, d_hidden=d)
    for power in (2.0**-40, 2.0**60):
        got = backward(case, saved, d_hidden=d * np.float32(power))
        for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name) * np.float32(power), name)


@pytest.mark.parametrize("size", BY_PARTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_belongs(size: tuple[int, ...], bad: float) -> None:
    case = make("lstm", *size, dtype=np.float32, bias=True)
    saved = forward(case)
    d = np.random.default_rng(2).standard_normal((size[0], size[1], size[3])).astype(np.float32)
    want = backward(case, saved, d_hidden=d)
    case.x[3, 0, 2] = bad
    got = backward(case, saved, d_hidden=d)
    column = np.zeros(size[2], bool)
    column[2] = True
    assert not np.isfinite(got.w_ih[:, column]).any()
    np.testing.assert_array_equal(got.w_ih[:, ~column], want.w_ih[:, ~column])
    np.testing.assert_array_equal(got.w_hh, want.w_hh)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [(130, 9, 5, 6), (3, 400, 4, 40)])
def test_backward_over_several_chunks(cell: str, size: tuple[int, int, int, int]) -> None:
    """More than 512 rows of float64 are taken in chunks of whole steps: here of 28 steps, or of one."""
    case = make(cell, *size, bias=True, state=True, lengths=True, resets=True, reverse=True)
    saved = forward(case)
    for name, value in definition(case).items():
        # A reset every third step or so, else as in the other tests of the definition.
        np.testing.assert_allclose(getattr(saved, name), value, rtol=0, atol=2**20 * EPS64, err_msg=name)
    rng = np.random.default_rng(1)
    names = ["hidden", "gates", "h_n"] + (["cell", "c_n"] if cell == "lstm" else [])
    gradients = {f"d_{name}": rng.standard_normal(getattr(saved, name).shape) for name in names}
    got = backward(case, saved, **gradients)
    for name, value in _autograd(case, gradients).items():
        # As above; sums over 1,200 rows at most.
        np.testing.assert_allclose(getattr(got, name), value, rtol=0, atol=2**24 * EPS64, err_msg=name)


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float32, 4.0), (np.float64, 4.0)])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activations_keep_their_stated_error(name: str, dtype: Any, ulps: float) -> None:
    small = np.geomspace(1e-30, 1, 100_001)
    x = np.concatenate([np.linspace(-25, 25, 1_000_001), small, -small])
    x = x.astype(dtype)
    exact = x.astype(np.longdouble)
    want = np.tanh(exact) if name == "tanh" else 1 / (1 + np.exp(-exact))
    error = np.abs(_activation(name, x) - want) / np.spacing(np.abs(want).astype(dtype))
    assert error.max() <= ulps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_at_the_ends(dtype: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4], dtype)
    np.testing.assert_array_equal(_activation("sigmoid", x), np.array([np.nan, 1, 0, 0.5, 0.5, 1, 0], dtype))
    tanh = _activation("tanh", x)
    np.testing.assert_array_equal(tanh, np.array([np.nan, 1, -1, 0, 0, 1, -1], dtype))
    assert np.signbit(tanh[4])
    tiny = np.array([np.finfo(dtype).tiny, -np.finfo(dtype).tiny], dtype)
    np.testing.assert_array_equal(_activation("tanh", tiny), tiny)


@pytest.mark.parametrize("cell", CELLS)
def test_nan_in_one_sequence_stays_in_it(cell: str) -> None:
    case = make(cell, 5, 9, 3, 11)
    x = case.x.copy()
    x[2, 4, 1] = np.nan
    clean, got = forward(case).hidden, forward(case._replace(x=x)).hidden
    np.testing.assert_array_equal(np.delete(got, 4, axis=1), np.delete(clean, 4, axis=1))
    np.testing.assert_array_equal(got[:2, 4], clean[:2, 4])
    assert np.isnan(got[2:, 4]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_bf16_rounds_what_enters_the_products(cell: str) -> None:
    """With weights, inputs and one step from h0 = 0 that bfloat16 holds, only sums change their order."""
    case = make(cell, 1, 6, 17, 21, dtype=np.float32, bias=True)
    exact = case._replace(
        x=_bf16(case.x), weights=(_bf16(case.weights[0]), _bf16(case.weights[1]), *case.weights[2:])
    )
    rounded = forward(case, precision="bf16").hidden
    np.testing.assert_array_equal(forward(exact, precision="bf16").hidden, rounded)
    if kernels.isa() in ("amx", "avx512bf16"):  # their instructions add two products at once
        # 19 roundings of sums below 8, each at most 2^-22, through gates of slope 1 at most.
        np.testing.assert_allclose(rounded, forward(exact).hidden, rtol=0, atol=19 * 2.0**-22)
    else:
        np.testing.assert_array_equal(rounded, forward(exact).hidden)
    long = make(cell, 12, 6, 17, 21, dtype=np.float32, bias=True)
    error = np.abs(forward(long, precision="bf16").hidden - forward(long).hidden).max()
    assert 0 < error < 0.05  # 2^-9 relative on each of 38 products of size 1, over 12 steps: about 0.01


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "size", [(3, 37, 45, 70), (2, 20, 33, 31), (1, 1, 64, 16), (5, 70, 2, 129), (130, 17, 8, 5)]
)
@pytest.mark.parametrize("ragged", [False, True])
def test_bf16_is_near_float32(cell: str, size: tuple[int, ...], ragged: bool) -> None:
    """Across the edges of blocks of 16 rows, units of 32 products and chunks of steps, both ways."""
    case = make(cell, *size, dtype=np.float32, bias=True, state=True, lengths=ragged, resets=ragged)
    d = np.random.default_rng(3).standard_normal((size[0], size[1], size[3])).astype(np.float32)
    saved = forward(case)
    pairs = [(saved, forward(case, precision="bf16"))]
    pairs.append(
        (backward(case, saved, d_hidden=d), backward(case._replace(precision="bf16"), saved, d_hidden=d))
    )
    for want, got in pairs:
        for name in want._fields:
            value = getattr(want, name)
            # Roundings of at most 2^-9 of each factor and each state, at random; a few steps carry them on.
            error = 0 if value is None else np.linalg.norm(getattr(got, name) - value)
            assert value is None or error <= 8 * 2.0**-9 * np.linalg.norm(value), name


def test_a_call_with_misfits_says_so_in_one_line() -> None:
    case = make("lstm", 3, 2, 4, 5, bias=True)
    w_ih, w_hh, b, _ = case.weights
    packed, state = kernels.PackedLSTM(w_ih, w_hh), np.zeros((2, 5))

    def lstm(x: Any = case.x, w_ih: Any = w_ih, w_hh: Any = w_hh, **options: Any) -> Any:
        return lambda: kernels.lstm_forward(x, w_ih, w_hh, **options)

    unsaved = lstm(save=False)()
    wrong: dict[str, Callable[[], object]] = {
        r"x: shape \[T, N, I\] expected, got \(2, 4\)": lstm(case.x[0]),
        r"w_ih: shape \(20, 4\) expected": lstm(w_ih=w_ih[:8]),
        r"w_hh: shape \(4 \* H, H\) expected": lstm(w_hh=w_hh[:8]),
        r"b_ih: float64 expected": lstm(b_ih=b.astype(np.float32)),
        r"lengths: each from 0 to 3 expected": lstm(lengths=[1, 4]),
        r"resets: bool of shape \(3, 2\)": lstm(resets=np.ones((3, 2))),
        r"precision: 'bf16' needs float32": lstm(precision="bf16"),
        r"reset must be 'before' or 'after'": lambda: kernels.gru_forward(case.x, b, b, reset="now"),  # type: ignore[arg-type]
        r"saved: the result of lstm_forward": lambda: kernels.lstm_backward(unsaved, case.x, w_ih, w_hh),
        r"w_hh: shape \[4 H, H\] expected": lambda: kernels.PackedLSTM(w_ih, b),
        r"x: float64 with 4 inputs expected": lambda: packed.forward(np.zeros((1, 1, 3))),
        r"step: x: needs 64 bytes, got 32": lambda: packed.step(case.x[0, :1].copy(), state, state.copy()),
        r"input_sums: x: float64 expected": lambda: packed.input_sums(np.zeros((1, 4), np.float32)),
        r"input_sums: x: needs 32 bytes, got 24": lambda: packed.input_sums(np.zeros((1, 3))),
        r"count must be from 0": lambda: kernels.set_num_threads(-1),
    }
    for message, call in wrong.items():
        with pytest.raises(GlassgateError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def _bf16(a: Any) -> Any:
    return torch.from_numpy(a).to(torch.bfloat16).to(torch.float32).numpy()


def _activation(name: str, x: Any) -> Any:
    out = np.empty_like(x)
    _native.activation(name == "tanh", x.dtype == np.float64, x, out, x.size)
    return out


def _torch_module(case: Case) -> Any:
    kind = torch.nn.LSTM if case.cell == "lstm" else torch.nn.GRU
    I, H = case.x.shape[2], case.weights[1].shape[1]
    module = kind(I, H, dtype=torch.from_numpy(case.x).dtype)
    for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), case.weights, strict=True):
        getattr(module, f"{name}_l0").data = torch.from_numpy(value.copy())
    return module


def _autograd(case: Case, gradients: dict[str, Any]) -> dict[str, Any]:
    """The gradients that torch's autograd finds through the equations, written out one sequence at a time."""
    T, N, _ = case.x.shape
    H, G = case.weights[1].shape[1], case.gates
    zeros = np.zeros((N, H))
    leaves = {
        "x": case.x,
        "w_ih": case.weights[0],
        "w_hh": case.weights[1],
        "b_ih": np.zeros(G * H) if case.weights[2] is None else case.weights[2],
        "b_hh": np.zeros(G * H) if case.weights[3] is None else case.weights[3],
        "h0": zeros if case.h0 is None else case.h0,
        "c0": zeros if case.c0 is None else case.c0,
    }
    v = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in leaves.items()}
    d = {name: torch.from_numpy(value) for name, value in gradients.items()}
    loss = sum((value * 0).sum() for value in v.values())
    for n in range(N):
        h, c = v["h0"][n], v["c0"][n]
        steps = range(T if case.lengths is None else int(case.lengths[n]))
        for t in reversed(steps) if case.reverse else steps:
            if case.resets is not None and case.resets[t, n]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            a = (v["w_ih"] @ v["x"][t, n] + v["b_ih"]).reshape(G, H)
            u = (v["w_hh"] @ h + v["b_hh"]).reshape(G, H)
            if case.cell == "lstm":
                i, f, o = torch.sigmoid(a + u)[[0, 1, 3]]
                g = torch.tanh((a + u)[2])
                c = f * c + i * g
                h = o * torch.tanh(c)
                gates = torch.stack([i, f, g, o])
                loss = loss + (d["d_cell"][t, n] * c).sum()
            else:
                r, z = torch.sigmoid(a + u)[:2]
                inner = (
                    r * u[2]
                    if case.cell == "gru-after"
                    else v["w_hh"][2 * H :] @ (r * h) + v["b_hh"][2 * H :]
                )
                g = torch.tanh(a[2] + inner)
                h = (1 - z) * g + z * h
                gates = torch.stack([r, z, g])
            loss = loss + (d["d_hidden"][t, n] * h).sum() + (d["d_gates"][t, n] * gates).sum()
        loss = loss + (d["d_h_n"][n] * h).sum()
        if case.cell == "lstm":
            loss = loss + (d["d_c_n"][n] * c).sum()
    loss.backward()  # type: ignore[union-attr]
    names = [name for name in v if name != "c0" or case.cell == "lstm"]
    return {name: np.zeros(v[name].shape) if v[name].grad is None else v[name].grad.numpy() for name in names}
