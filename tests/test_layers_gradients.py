"""The operators under torch's own checks and transforms: every derivative, vmap, data-parallel training."""

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

import glassgate
from glassgate.layers import operators, reference

CELLS = [reference.LSTM, reference.GRU_AFTER, reference.GRU_BEFORE]
LAYERS = [("LSTM", {}), ("GRU", {}), ("GRU", {"reset": "before"})]


def arguments(cell: int, T: int = 4, N: int = 3, I: int = 2, H: int = 3, **kind: Any) -> list[Any]:
    """Arguments of `scan`; kind: ragged, reverse, bare (no bias, no state), save, dtype."""
    G, dtype, ragged = reference.gate_count(cell), kind.get("dtype", torch.float64), kind.get("ragged", False)
    torch.manual_seed(cell)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype).mul_(0.5).requires_grad_()

    bare = kind.get("bare", False)
    return [
        cell,
        *(normal(T, N, I), normal(G * H, I), normal(G * H, H)),
        *([None] * 4 if bare else [normal(G * H), normal(G * H), normal(N, H)]),
        *([] if bare else [normal(N, H) if cell == reference.LSTM else None]),
        torch.tensor([T, 0, 2][:N]) if ragged else None,
        torch.tensor([[False] * N, [True, False, True][:N]] + [[False] * N] * (T - 2)) if ragged else None,
        kind.get("reverse", False),
        False,
        kind.get("save", True),
    ]


def as_function(scan: Any, given: list[Any]) -> tuple[Any, list[Tensor]]:
    """`scan` as a function of its differentiable inputs, and those."""
    at = [k for k in range(1, 8) if given[k] is not None]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        full = list(given)
        for k, value in zip(at, values, strict=True):
            full[k] = value
        return tuple(t for t in scan(*full) if t.dim() > 1)

    return function, [given[k] for k in at]


KINDS: list[dict[str, Any]] = [
    {},
    {"ragged": True},
    {"ragged": True, "reverse": True},
    {"bare": True},
    {"save": False, "ragged": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_are_the_reference(cell: int, kind: dict[str, Any]) -> None:
    given = arguments(cell, T=6, I=4, H=5, **kind)
    results = []
    for scan in (operators.scan, reference.scan):
        function, inputs = as_function(scan, given)
        outputs = function(*inputs)
        torch.manual_seed(9)
        loss = sum((y * torch.randn_like(y)).sum() for y in outputs)
        results.append((*outputs, *torch.autograd.grad(loss, inputs)))
    for got, want in zip(*results, strict=True):
        # Sums of at most a few hundred float64 products of size one.
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", [reference.LSTM, reference.GRU_BEFORE])
def test_reference_is_the_definition(cell: int, ragged: bool) -> None:
    """The equations know neither lengths nor resets: a reset sequence is two, each from zeros."""
    from glassgate import equations

    given = arguments(cell, T=6, H=5, ragged=ragged)
    y = reference.scan(*given)
    weights = [t.detach().numpy() for t in given[2:6]]
    notes = equations.from_torch_layout(*weights, reset="before")
    x, h0 = given[1].detach().numpy(), given[6].detach().numpy()
    pieces = [(0, 0, 1), (0, 1, 6), (2, 0, 1), (2, 1, 2)] if ragged else [(n, 0, 6) for n in range(3)]
    for n, start, end in pieces:
        h = h0[n] if start == 0 else np.zeros(5)
        if cell == reference.LSTM:
            C = given[7].detach().numpy()[n] if start == 0 else np.zeros(5)
            notes.pop("reset", None)
            want = equations.run_lstm(x[start:end, n], h, C, notes["W"], notes["U"], notes["b"])
            columns = (want.i, want.f, want.g, want.o)
            np.testing.assert_allclose(y.state[start:end, n].detach().numpy(), want.C, rtol=0, atol=1e-14)
        else:
            want = equations.run_gru(x[start:end, n], h, **notes)
            columns = (want.r, 1 - want.u, want.g)
        # Some thirty roundings of values of size one.
        np.testing.assert_allclose(y.hidden[start:end, n].detach().numpy(), want.h, rtol=0, atol=1e-14)
        for k, column in enumerate(columns):
            np.testing.assert_allclose(y.gates[start:end, n, k].detach().numpy(), column, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [{}, {"ragged": True, "reverse": True}, {"save": False}])
@pytest.mark.parametrize("cell", CELLS)
def test_opcheck(cell: int, kind: dict[str, Any]) -> None:
    opcheck(operators.SCAN, arguments(cell, dtype=torch.float32, **kind))


@pytest.mark.parametrize("kind", [{}, {"ragged": True, "reverse": True}, {"bare": True}])
@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_of_the_backward_operator(cell: int, kind: dict[str, Any]) -> None:
    given = arguments(cell, dtype=torch.float32, **kind)
    hidden, h_n, c_n, gates, state = (t.detach() for t in operators.SCAN(*given))
    d = [
        torch.randn_like(t).requires_grad_() if t.dim() > 1 else None
        for t in (hidden, h_n, c_n, gates, state)
    ]
    wanted = [t is not None for t in given[1:8]]
    opcheck(operators.SCAN_BACKWARD, (*given[:12], hidden, gates, state, *d, wanted))


@pytest.mark.parametrize("kind", [{}, {"ragged": True, "reverse": True}, {"bare": True}, {"save": False}])
@pytest.mark.parametrize("cell", CELLS)
def test_first_and_second_derivatives(cell: int, kind: dict[str, Any]) -> None:
    function, inputs = as_function(operators.scan, arguments(cell, T=3, N=2, H=2, **kind))
    torch.autograd.gradcheck(function, inputs, fast_mode=True)
    torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def layer_and_input(name: str, options: dict[str, Any], *shape: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(4)
    layer = getattr(glassgate, name)(3, 4, num_layers=2, dtype=torch.float64, **options)
    return layer, torch.randn(*shape, 3, dtype=torch.float64)


# The first use of forward mode makes torch compile decompositions by its own deprecated torch.jit.script.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_forward_mode_and_hessian(name: str, options: dict[str, Any]) -> None:
    layer, x = layer_and_input(name, options, 4, 1)
    v = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (v,))
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x)
    want = torch.einsum("abcdef,def->abc", jacobian, v)
    torch.testing.assert_close(tangent, want, rtol=0, atol=1e-14)  # values below one, 12 terms

    def loss(x: Tensor) -> Tensor:
        return layer(x)[0].square().sum()

    over_reverse = torch.func.hessian(loss)(x)
    twice_reverse = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(over_reverse, twice_reverse, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_vmap_over_inputs_and_over_weights(name: str, options: dict[str, Any]) -> None:
    layer, x = layer_and_input(name, options, 3, 5, 2)
    assert torch.equal(torch.vmap(lambda x: layer(x)[0])(x), torch.stack([layer(one)[0] for one in x]))
    other = copy.deepcopy(layer)
    nn.init.normal_(other.weight_hh_l1)
    weights, _ = torch.func.stack_module_state([layer, other])
    both = torch.vmap(lambda w: torch.func.functional_call(layer, w, (x[0],))[0])(weights)
    assert torch.equal(both, torch.stack([layer(x[0])[0], other(x[0])[0]]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_forward_mode_over_states_in_a_ragged_batch(name: str, options: dict[str, Any]) -> None:
    layer, x = layer_and_input(name, {"bidirectional": True, **options}, 5, 3)
    marks = {"lengths": torch.tensor([5, 0, 2]), "resets": torch.rand(5, 3) < 0.3}
    states = [torch.randn(4, 3, 4, dtype=torch.float64) for _ in range(2 if name == "LSTM" else 1)]

    def call(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, last = layer(x, states if name == "LSTM" else states[0], **marks)
        return (y, *(last if name == "LSTM" else (last,)))

    inputs = (x, *states)
    tangents = tuple(torch.randn_like(t) for t in inputs)
    got = torch.func.jvp(call, inputs, tangents)[1]
    results = call(*(t.requires_grad_() for t in inputs))
    d = [torch.randn_like(r) for r in results]
    gradients = torch.autograd.grad(results, inputs, d)
    # <J v, d> = <v, J^T d>: the tangents of plain operations and the gradients of the kernels. Sums of a few
    # hundred products of size one.
    ahead = sum((g * w).sum() for g, w in zip(got, d, strict=True))
    back = sum((g * w).sum() for g, w in zip(gradients, tangents, strict=True))
    torch.testing.assert_close(ahead, back, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", range(16))
@pytest.mark.parametrize("cell", CELLS)
def test_vmap_over_states_lengths_and_resets(cell: int, which: int) -> None:
    """Any of them, by itself and together with x, along any axis: a loop's bits."""
    given = [arguments(cell, T=4, N=3, H=3, ragged=True) for _ in range(2)]
    torch.manual_seed(which)
    for full in given:
        full[1] = torch.randn_like(full[1])
        full[6] = torch.randn_like(full[6])
        full[7] = None if full[7] is None else torch.randn_like(full[7])
        full[8] = torch.randint(0, 5, (3,))
        full[9] = torch.rand(4, 3) < 0.4
    bits = dict(zip((1, 6, 8, 9), (which & 1, which & 2, which & 4, which & 8), strict=True))
    at = [k for k in (1, 6, 7, 8, 9) if bits.get(k, which & 2) and given[0][k] is not None]
    if not at:
        at = [1]
    axes = [given[0][k].dim() if (k + which) % 2 else 0 for k in at]
    stacked = [torch.stack([full[k] for full in given], axis) for k, axis in zip(at, axes, strict=True)]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        full = list(given[0])
        for k, value in zip(at, values, strict=True):
            full[k] = value
        return tuple(t for t in operators.scan(*full) if t.dim() > 1)

    many = torch.vmap(call, tuple(axes))(*stacked)
    for n in range(2):
        alone = call(*(given[n][k] for k in at))
        assert all(torch.equal(g[n], w) for g, w in zip(many, alone, strict=True))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_gradients_of_each_sample(name: str, options: dict[str, Any], ragged: bool) -> None:
    layer, x = layer_and_input(name, {"bidirectional": ragged, **options}, 3, 5, 1)
    lengths = torch.tensor([[5], [0], [3]]) if ragged else None

    def loss(weights: dict[str, Tensor], x: Tensor, lengths: Tensor | None) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, weights, (x,), {"lengths": lengths})[0]
        return y.square().sum()

    weights = dict(layer.named_parameters())
    each = torch.vmap(torch.func.grad(loss), (None, 0, 0 if ragged else None))(weights, x, lengths)
    for n in range(3):
        own = None if lengths is None else lengths[n]
        alone = torch.autograd.grad(loss(weights, x[n], own), list(weights.values()))
        for (name_, _), want in zip(weights.items(), alone, strict=True):
            assert torch.equal(each[name_][n], want)


def test_parametrised_weights() -> None:
    class Half(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w * 0.5

    layer = glassgate.LSTM(3, 4)
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        plain.weight_hh_l0 *= 0.5
    nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Half())
    x = torch.randn(5, 2, 3)
    assert torch.equal(layer(x)[0], plain(x)[0])
    layer(x)[0].sum().backward()
    plain(x)[0].sum().backward()
    assert torch.equal(layer.parametrizations.weight_hh_l0.original.grad, plain.weight_hh_l0.grad * 0.5)


def _rank(rank: int, folder: str) -> None:
    """One of two processes: an own batch, the gradients that both average.

    It ends without torch's clearing up, which now and then waits for ever: what averages gradients ends the
    group of processes while it holds Python's lock, and a thread of the group wants that lock.
    """
    torch.manual_seed(0)
    layer = glassgate.GRU(3, 4, reset="before")
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    wrapped = nn.parallel.DistributedDataParallel(layer)
    wrapped(_batch(rank))[0].square().sum().backward()
    torch.save([p.grad for p in layer.parameters()], f"{folder}/{rank}")
    os._exit(0)


def _batch(rank: int) -> Tensor:
    return torch.linspace(-1, 1, 30).reshape(5, 2, 3) * (rank + 1)


def test_distributed_data_parallel(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    layer = glassgate.GRU(3, 4, reset="before")
    parameters = list(layer.parameters())
    alone = [torch.autograd.grad(layer(_batch(rank))[0].square().sum(), parameters) for rank in range(2)]
    for rank in range(2):
        averaged = torch.load(tmp_path / str(rank))
        for got, *own in zip(averaged, *alone, strict=True):
            assert torch.equal(got, (own[0] + own[1]) / 2)  # halving is exact: one rounding, that of the sum
            assert not torch.equal(own[0], own[1])
