"""The layers against torch's and against the definition: results, gradients, options, messages."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import glassgate
from glassgate import equations
from glassgate.errors import GlassgateError
from glassgate.layers import scanning
from glassgate.layers.recurrent import _dropped

CLASSES = ["LSTM", "GRU"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "dropout": 0.4},
]


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_said", set())


def pair(
    name: str, dtype: torch.dtype = torch.float64, sizes: tuple[int, int] = (5, 7), **options: Any
) -> Any:
    """Torch's layer and ours, drawn from the same seed."""
    layers = []
    for module in (nn, glassgate):
        torch.manual_seed(1)
        layers.append(getattr(module, name)(*sizes, dtype=dtype, **options))
    return layers


def flat(output: Any) -> list[Tensor]:
    """All tensors of a layer's result."""
    y, last = output
    y = y.data if isinstance(y, PackedSequence) else y
    return [y, *(last if isinstance(last, tuple) else (last,))]


def run(layer: Any, *inputs: Any, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Results, and the gradients of a weighted sum of them all, from a fixed seed for the dropout."""
    torch.manual_seed(2)
    results = flat(layer(*inputs, **options))
    torch.manual_seed(3)
    loss = sum((r * torch.randn(r.shape, dtype=torch.float64).to(r.dtype)).sum() for r in results)
    leaves = [v for v in inputs if isinstance(v, Tensor)]
    leaves += [v for pair_ in inputs if isinstance(pair_, tuple) and type(pair_) is tuple for v in pair_]
    return results, list(
        torch.autograd.grad(loss, [*(v for v in leaves if v.requires_grad), *layer.parameters()])
    )


def states(layer: Any, batch: int | None, dtype: torch.dtype) -> Any:
    total = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (total, layer.hidden_size) if batch is None else (total, batch, layer.hidden_size)
    drawn = [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]
    return tuple(drawn) if isinstance(layer, nn.LSTM) else drawn[0]


def assert_near(got: list[Tensor], want: list[Tensor]) -> None:
    # Sums of at most a few hundred float64 products of size one: 1e3 roundings of 1.1e-16.
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=2e-13)


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g.detach().numpy(), w.detach().numpy())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CLASSES)
def test_torch_in_float64(name: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(name, **options)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert_equal(list(ours.state_dict().values()), list(theirs.state_dict().values()))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    hx = states(ours, 6 if ours.batch_first else 4, torch.float64)
    for inputs in ((x,), (x, hx)):
        (got, d_got), (want, d_want) = run(ours, *inputs), run(theirs, *inputs)
        assert_near(got, want)
        assert_near(d_got, d_want)


@pytest.mark.parametrize("name", CLASSES)
def test_float32_within_twice_torchs_own_error(name: str) -> None:
    """Torch's float32 error against float64 is what float32 gives; twice that allows another order of sums.

    The largest error of the results; of each gradient the root mean square, because the largest of a few
    rounding errors of long sums is a matter of luck. A bias has the gradient of T N rows, summed in order as
    in torch's LSTM; torch's GRU sums step by step, then the steps, and errs half as much (measured over eight
    inputs: 2.0 to 2.6 times). Four times is allowed there.
    """
    exact, _ = pair(name, sizes=(40, 50), num_layers=2)
    theirs, ours = pair(name, sizes=(40, 50), num_layers=2, dtype=torch.float32)
    theirs.load_state_dict(exact.state_dict())
    ours.load_state_dict(exact.state_dict())
    exact.load_state_dict(theirs.state_dict())  # the rounded weights
    x = torch.randn(30, 8, 40, requires_grad=True)
    want = run(exact, x.detach().double().requires_grad_())
    got, peer = run(ours, x), run(theirs, x)
    for w, t, o in zip(want[0], peer[0], got[0], strict=True):
        assert (o - w).abs().max() <= 2 * (t - w).abs().max()
    names = ["x", *(name_ for name_, _ in ours.named_parameters())]
    for name_, w, t, o in zip(names, want[1], peer[1], got[1], strict=True):
        times = 4 if name == "GRU" and name_.startswith("bias") else 2
        assert (o - w).square().mean() <= times**2 * (t - w).square().mean()


@pytest.mark.parametrize("name", CLASSES)
def test_unbatched(name: str) -> None:
    theirs, ours = pair(name, num_layers=2, bidirectional=True)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    hx = states(ours, None, torch.float64)
    for inputs in ((x,), (x, hx)):
        (got, d_got), (want, d_want) = run(ours, *inputs), run(theirs, *inputs)
        assert_near(got, want)
        assert_near(d_got, d_want)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(CLASSES),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 19)),
    steps=st.integers(1, 7),
    batch=st.integers(1, 9),
    given_state=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "num_layers": st.integers(1, 3),
            "bias": st.booleans(),
            "batch_first": st.booleans(),
            "bidirectional": st.booleans(),
        }
    ),
)
def test_any_shape_and_option(
    name: str, sizes: Any, steps: int, batch: int, given_state: bool, options: dict[str, Any]
) -> None:
    theirs, ours = pair(name, sizes=sizes, **options)
    shape = (batch, steps) if ours.batch_first else (steps, batch)
    x = torch.randn(*shape, sizes[0], dtype=torch.float64, requires_grad=True)
    inputs = (x, states(ours, batch, torch.float64)) if given_state else (x,)
    (got, d_got), (want, d_want) = run(ours, *inputs), run(theirs, *inputs)
    assert_near(got, want)
    assert_near(d_got, d_want)


@pytest.mark.parametrize("sorted_", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_packed(name: str, sorted_: bool) -> None:
    theirs, ours = pair(name, num_layers=2, bidirectional=True, batch_first=True)
    lengths = [6, 4, 4, 1] if sorted_ else [4, 1, 6, 4]
    sequences = [torch.randn(length, 5, dtype=torch.float64) for length in lengths]
    packed = pack_sequence(sequences, enforce_sorted=sorted_)
    hx = states(ours, 4, torch.float64)
    (got, d_got), (want, d_want) = run(ours, packed, hx), run(theirs, packed, hx)
    assert_near(got, want)
    assert_near(d_got, d_want)
    mine, theirs_ = ours(packed)[0], theirs(packed)[0]
    assert torch.equal(mine.batch_sizes, theirs_.batch_sizes)
    if not sorted_:
        assert torch.equal(mine.unsorted_indices, theirs_.unsorted_indices)


def gru_before(layer: Any, x: Any) -> Any:
    weights = (p.detach().numpy() for p in layer.parameters())
    notes = equations.from_torch_layout(*weights, reset="before")
    return equations.run_gru(x, np.zeros((x.shape[1], 7)), **notes)


def test_gru_of_the_notes() -> None:
    layer = glassgate.GRU(5, 7, reset="before", dtype=torch.float64)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    with glassgate.record(layer) as trace:
        y, last = layer(x)
    want = gru_before(layer, x.numpy())
    for got, array in ((trace.reset, want.r), (trace.update, want.u), (trace.candidate, want.g), (y, want.h)):
        # About ten roundings of values below one, and 12 products in each of three sums.
        np.testing.assert_allclose(got.detach().numpy(), array, rtol=0, atol=1e-14)
    assert_equal([last[0]], [y[-1]])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU before"])
def test_padded_is_each_alone(name: str, options: dict[str, Any]) -> None:
    kind, _, reset = name.partition(" ")
    layer = getattr(glassgate, kind)(5, 7, **options, **({"reset": reset} if reset else {}))
    lengths = [4, 0, 6, 1]
    x = torch.randn(4, 6, 5)
    swap = (lambda t: t) if layer.batch_first else (lambda t: t.transpose(0, 1))
    hx = states(layer, 4, torch.float32)
    y, *last = flat(layer(swap(x), hx, lengths=lengths))
    y = swap(y)
    for n, length in enumerate(lengths):
        assert not y[n, length:].any()
        own = tuple(h[:, n : n + 1] for h in hx) if isinstance(hx, tuple) else hx[:, n : n + 1]
        alone, *last_alone = flat(layer(swap(x[n : n + 1, :length]), own))
        assert_equal([y[n, :length]], [swap(alone)[0]])
        assert_equal([h[:, n] for h in last], [h[:, 0] for h in last_alone])


@pytest.mark.parametrize("name", CLASSES)
def test_resets_are_separate_sequences(name: str) -> None:
    layer = getattr(glassgate, name)(5, 7)
    x = torch.randn(9, 2, 5)
    resets = torch.zeros(9, 2, dtype=torch.bool)
    resets[4] = resets[7, 1] = True
    y, *last = flat(layer(x, resets=resets))
    for n, pieces in ((0, [(0, 4), (4, 9)]), (1, [(0, 4), (4, 7), (7, 9)])):
        for start, end in pieces:
            alone, *last_alone = flat(layer(x[start:end, n : n + 1]))
            assert_equal([y[start:end, n]], [alone[:, 0]])
        assert_equal([h[:, n] for h in last], [h[:, 0] for h in last_alone])


@pytest.mark.parametrize("name", CLASSES)
def test_batches_and_steps(name: str) -> None:
    layer = getattr(glassgate, name)(5, 40)
    x = torch.randn(6, 3, 5)
    whole = flat(layer(x))
    ones = [flat(layer(x[:, n : n + 1])) for n in range(3)]
    assert_equal(whole, [torch.cat(parts, 1) for parts in zip(*ones, strict=True)])
    hx, steps = None, []
    for t in range(6):
        y, hx = layer(x[t : t + 1], hx)
        steps.append(y)
    assert_equal(whole, flat((torch.cat(steps), hx)))


@pytest.mark.parametrize("name", CLASSES)
def test_threads(name: str) -> None:
    """Large enough that the kernels do share the work."""
    layer = getattr(glassgate, name)(30, 50)
    x = torch.randn(12, 40, 30, requires_grad=True)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results, gradients = run(layer, x)
            runs.append(results + gradients)
    finally:
        torch.set_num_threads(before)
    for one in runs[1:]:
        assert_equal(one, runs[0])


def test_forget_bias_is_the_sum_of_both() -> None:
    layer = glassgate.LSTM(5, 7, num_layers=2, bidirectional=True, forget_bias=1.5)
    assert repr(layer) == "LSTM(5, 7, num_layers=2, bidirectional=True, forget_bias=1.5)"
    for again in (False, True):
        if again:
            layer.reset_parameters()
        for name in ("l0", "l0_reverse", "l1", "l1_reverse"):
            ih, hh = getattr(layer, f"bias_ih_{name}"), getattr(layer, f"bias_hh_{name}")
            assert ((ih + hh)[7:14] == 1.5).all()
            assert ((ih + hh)[:7] != 1.5).all()


@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU before"])
def test_bf16_is_float32_on_rounded_operands(name: str) -> None:
    """One step from zeros: no state is rounded on the way; rounded operands in float64 are exact."""
    kind, _, reset = name.partition(" ")
    options = {"reset": reset} if reset else {}
    layer = getattr(glassgate, kind)(30, 40, precision="bf16", **options)
    assert repr(layer).endswith("precision=bf16)")
    exact = getattr(glassgate, kind)(30, 40, dtype=torch.float64, **options)
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        exact.weight_ih_l0.copy_(layer.weight_ih_l0.bfloat16())
    x = torch.randn(1, 5, 30)
    y = layer(x)[0]
    # A float32 sum of 32 terms below one in size: 32 roundings of 6e-8, halved by the slope of a gate.
    torch.testing.assert_close(y.double(), exact(x.bfloat16().double())[0], rtol=0, atol=1e-6)
    assert (y.double() - exact(x.double())[0]).abs().max() > 1e-5  # the rounding is there
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = layer(x)[0]
    assert torch.equal(under, y.bfloat16() if kind == "LSTM" else y)  # the dtypes of torch's own
    with pytest.raises(GlassgateError, match=r'precision="bf16" takes torch.float32, got torch.float64'):
        getattr(glassgate, kind)(3, 4, precision="bf16", dtype=torch.float64)(torch.zeros(1, 1, 3).double())


def test_bf16_trains() -> None:
    """Its gradients are those of float32 but for roundings of 2^-9, some dozens of which add up at random."""
    plain, rounded = glassgate.LSTM(10, 20), glassgate.LSTM(10, 20, precision="bf16")
    rounded.load_state_dict(plain.state_dict())
    x = torch.randn(8, 3, 10, requires_grad=True)
    for want, got in zip(run(plain, x)[1], run(rounded, x)[1], strict=True):
        assert 0 < (got - want).norm() < 12 * 2.0**-9 * want.norm()


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"precision": "bf16"}])
@pytest.mark.parametrize("name", CLASSES)
def test_weight_drop_is_a_layer_with_dropped_weights(name: str, options: dict[str, Any]) -> None:
    layer = getattr(glassgate, name)(5, 7, weight_drop=0.5, **options)
    plain = getattr(glassgate, name)(5, 7, **options)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(6, 3, 5)
    torch.manual_seed(5)
    got = layer(x)[0]
    torch.manual_seed(5)
    names = [name_ for name_ in layer.state_dict() if name_.startswith("weight_hh")]
    with torch.no_grad():
        for name_ in names:
            weight = plain.get_parameter(name_)
            drawn = torch.randint(-(2**63), 2**63 - 1, (-(-weight.numel() // 4),)).numpy().view("i2")
            kept = torch.from_numpy(drawn[: weight.numel()] >= 0).view(weight.shape)
            weight.copy_(2 * weight * kept)
            assert 0.3 < (weight == 0).float().mean() < 0.7
    assert torch.equal(got, plain(x)[0])
    got.sum().backward()
    for name_ in names:
        assert ((layer.get_parameter(name_).grad == 0) == (plain.get_parameter(name_) == 0)).all()
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9999999])
def test_weight_drop_drops_its_share(share: float) -> None:
    """To 2^-16, and never all; what stays grows by as much, so that the mean is kept."""
    torch.manual_seed(3)
    weight = torch.ones(1_001, 999, requires_grad=True)
    dropped = _dropped(weight, share)
    stays = max(1 - share, 2**-16)
    kept = dropped != 0
    sigma = (stays * (1 - stays) / weight.numel()) ** 0.5
    assert abs(kept.double().mean() - stays) < 5 * sigma + 2**-17
    np.testing.assert_allclose(dropped[kept].detach(), 1 / stays, rtol=2**-17 / stays)
    dropped.sum().backward()
    assert torch.equal(weight.grad, dropped)


@pytest.mark.parametrize("copy_", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(copy_: Any) -> None:
    layer = glassgate.GRU(5, 7, reset="before", num_layers=2)
    x = torch.randn(6, 4, 5)
    with glassgate.record(layer) as trace:
        other = copy_(layer)
        assert_equal(flat(other(x)), flat(layer(x)))
    assert trace["l0"].hidden.shape == (6, 4, 7)  # one call of the layer, none of the copy


def test_without_a_kernel_torch_computes_and_says_so_once() -> None:
    for options in ({"dtype": torch.bfloat16}, {"proj_size": 3, "dtype": torch.float64}):
        theirs, ours = pair("LSTM", **options)
        x = torch.randn(6, 4, 5, dtype=options["dtype"])
        with pytest.warns(UserWarning, match=r"^LSTM: no kernel for .*torch's own path computes$"):
            got = flat(ours(x))
        assert all(torch.equal(g, w) for g, w in zip(got, flat(theirs(x)), strict=True))
        ours(x)  # a warning would be an error here


def test_without_a_kernel_plain_operations_compute_what_torch_lacks() -> None:
    _, ours = pair("LSTM", proj_size=3)
    x = torch.randn(6, 2, 5, dtype=torch.float64)
    with pytest.warns(UserWarning, match="plain torch operations"):
        y, (h, c) = ours(x, lengths=[6, 2])
    with pytest.warns(UserWarning, match="torch's own path"):
        want = [ours(x[:, :1]), ours(x[:2, 1:])]
    assert h.shape == (1, 2, 3)
    assert c.shape == (1, 2, 7)
    assert not y[2:, 1].any()
    assert_near([y[:, :1], y[:2, 1:]], [want[0][0], want[1][0]])
    half = glassgate.GRU(5, 7, reset="before", dtype=torch.float16)
    double = glassgate.GRU(5, 7, reset="before", dtype=torch.float64)
    double.load_state_dict(half.state_dict())
    with pytest.warns(UserWarning, match="plain torch operations"):
        y, _ = half(x.half())
    # Float16 has 11 bits; some ten roundings in each of six steps, none amplified by |weights| < 0.4.
    torch.testing.assert_close(y.double(), double(x.half().double())[0], rtol=0, atol=60 * 2.0**-11)


def test_importing_glassgate_costs_no_torch() -> None:
    code = (
        "import glassgate, sys; a = 'torch' in sys.modules; glassgate.LSTM; print(a, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "False True\n"
