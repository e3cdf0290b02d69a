"""Calls that nobody else sees go past torch's dispatcher: the same bits as through it."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import glassgate
from glassgate.layers import operators, scanning


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors(part)]


def same(found: Any, expected: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(expected), strict=True))


def without_gradients(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
    with torch.no_grad():
        return layer(*arguments, **options)


class Watched(TorchFunctionMode):
    """Changes nothing, but somebody looks: calls go through torch's dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def through_torch(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with Watched():
        return call(*arguments, **options)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_calls_past_torch_have_the_bits_of_calls_through_it(data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(["LSTM", "GRU"]))
    T, N, I, H, L = (draw(st.integers(low, 6)) for low in (0, 0, 1, 1, 1))
    options: dict[str, Any] = {"bias": draw(st.booleans()), "bidirectional": draw(st.booleans())}
    if kind == "GRU":
        options["reset"] = draw(st.sampled_from(["before", "after"]))
    options["precision"] = draw(st.sampled_from(["fp32", "bf16"]))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layer = getattr(glassgate, kind)(I, H, min(L, 3), **options)
    x = torch.randn(T, N, I)
    total = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [torch.randn(total, N, H) for _ in range(2 if kind == "LSTM" else 1)]
    hx: Any = None if draw(st.booleans()) else tuple(states) if kind == "LSTM" else states[0]
    marks: dict[str, Any] = {}
    if draw(st.booleans()):
        marks["lengths"] = torch.tensor([draw(st.integers(0, T)) for _ in range(N)], dtype=torch.int64)
    if draw(st.booleans()):
        marks["resets"] = torch.rand(T, N) < 0.3
    expected = through_torch(layer, x, hx, **marks)
    assert same(without_gradients(layer, x, hx, **marks), expected)
    layer.weight_hh_l0.requires_grad_(draw(st.booleans()))
    inputs = [t.requires_grad_(draw(st.booleans())) for t in (x, *(() if hx is None else states))]
    wanted = [t for t in (*inputs, *layer.parameters()) if t.requires_grad]

    def gradients() -> list[Tensor]:
        results = [t for t in tensors(layer(x, hx, **marks)) if t.requires_grad]
        factors = [torch.linspace(-1, 1, t.numel()).reshape(t.shape) for t in results]
        grads = torch.autograd.grad(results, wanted, factors, allow_unused=True)
        return [torch.empty(0) if grad is None else grad for grad in grads]

    assert same(layer(x, hx, **marks), expected)
    assert same(gradients(), through_torch(gradients))


def test_another_dtype_and_precision_are_seen() -> None:
    layer, x = glassgate.LSTM(5, 7), torch.randn(3, 2, 5)
    single = without_gradients(layer, x)
    layer.precision = "bf16"
    assert not same(without_gradients(layer, x), single)
    layer.precision = "fp32"
    assert same(without_gradients(layer, x), single)
    layer.double()
    assert same(without_gradients(layer, x.double()), layer(x.double()))


def test_parametrised_weights_are_computed_in_each_call() -> None:
    layer, x = glassgate.LSTM(5, 7), torch.randn(3, 2, 5)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    without_gradients(layer, x)
    layer.parametrizations.weight_hh_l0.original0.data.mul_(2)
    assert same(without_gradients(layer, x), layer(x))


def test_records_have_the_bits_of_calls_through_torch() -> None:
    layer, x = glassgate.LSTM(5, 7, 2), torch.randn(3, 2, 5)
    with glassgate.record(layer) as expected:
        layer(x, lengths=[2, 3])
    with glassgate.record(layer) as found, torch.no_grad():
        layer(x, lengths=[2, 3])
    for name, trace in expected.items():
        for gate in trace.names:
            assert torch.equal(getattr(found[name], gate), getattr(trace, gate)), (name, gate)


def test_cells_have_the_bits_of_calls_through_torch() -> None:
    torch.manual_seed(0)
    for cell in (glassgate.LSTMCell(4, 3), glassgate.GRUCell(4, 3, bias=False)):
        x = torch.randn(2, 4)
        for rows in (x, x[0]):
            assert same(without_gradients(cell, rows), cell(rows))


@pytest.mark.parametrize("kind", [glassgate.LSTM, glassgate.GRU])
def test_second_derivatives_and_batches_of_gradients(kind: Any) -> None:
    """What the kernels do not compute is asked of the operators, from the same graph."""
    torch.manual_seed(0)
    layer = kind(3, 2).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)

    def second() -> list[Tensor]:
        y, _ = layer(x)
        (d_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(d_x.square().sum(), [x, *layer.parameters()]))

    def batched() -> tuple[Tensor, ...]:
        last = layer(x)[1]
        h_n = last if isinstance(last, Tensor) else last[1]
        return torch.autograd.grad(h_n, x, torch.eye(4).double().view(4, 1, 2, 2), is_grads_batched=True)

    assert same(second(), through_torch(second))
    assert same(batched(), through_torch(batched))


def test_what_changed_before_the_backward_pass_is_seen() -> None:
    layer, x = glassgate.LSTM(4, 3), torch.randn(5, 2, 4)
    y = layer(x)[0]
    layer.weight_hh_l0.data = torch.zeros(12, 2)
    with pytest.raises(glassgate.errors.GlassgateError, match=r"w_hh must have shape|w_ih must have shape"):
        y.sum().backward()
    layer = glassgate.LSTM(4, 3)
    y = layer(x)[0]
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    layer = glassgate.LSTM(4, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.flatten()[:1]):
        y = layer(x)[0]
    with pytest.raises(glassgate.errors.GlassgateError, match="must have shape"):
        y.sum().backward()


def test_final_states_are_tensors_of_their_own() -> None:
    """`detach_` refuses views."""
    lstm, gru = glassgate.LSTM(4, 3), glassgate.GRUCell(4, 3)
    _, (h, c) = lstm(torch.randn(5, 2, 4))
    for state in (h, c, gru(torch.randn(2, 4))):
        assert state.requires_grad
        state.detach_()
        assert not state.requires_grad


def test_hooks_on_final_states_that_no_loss_uses_are_not_called() -> None:
    y, (h, c) = glassgate.LSTM(4, 3)(torch.randn(5, 2, 4))
    called: list[Tensor] = []
    for state in (h, c):
        state.register_hook(called.append)
    y.sum().backward()
    assert called == []


def test_nothing_stays_in_memory() -> None:
    layer, x = glassgate.GRU(4, 3), torch.randn(5, 2, 4)

    def alive() -> int:
        gc.collect()
        return sum(type(thing) is Tensor for thing in gc.get_objects())

    layer(x)[0].sum().backward()
    before = alive()
    for _ in range(3):
        layer.zero_grad()
        layer(x)[0].sum().backward()
        layer(x)
    assert alive() <= before


def dispatched(layer: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """Return what a call without gradients gives, and how many layers of it went through torch."""
    calls, scan = [], operators.scan
    with monkeypatch.context() as patch:
        patch.setattr(
            scanning.Call, "_scan", staticmethod(lambda *a, **k: (calls.append(1), scan(*a, **k))[1])
        )
        found = without_gradients(layer, x)
        without = len(calls)
        layer(x)
        assert len(calls) == 2 * without  # with gradients likewise
        return found, without


def test_a_weight_that_lies_otherwise_goes_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Marked(Tensor):
        pass

    layer, x = glassgate.LSTM(4, 3, 2), torch.randn(2, 1, 4)
    assert dispatched(layer, x, monkeypatch)[1] == 0
    layer.weight_ih_l1 = nn.Parameter(torch.randn(3, 12).T)  # not in one piece
    found, calls = dispatched(layer, x, monkeypatch)
    assert calls == 1
    assert same(found, layer(x))
    layer.weight_hh_l0 = nn.Parameter(torch.randn(12, 3).as_subclass(Marked))  # type: ignore[no-untyped-call]
    found, calls = dispatched(layer, x, monkeypatch)
    assert calls == 2
    assert same(found, layer(x))


def test_modes_and_transforms_see_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = glassgate.GRU(4, 3), torch.randn(2, 1, 4)
    with FlopCounterMode(display=False):
        assert dispatched(layer, x, monkeypatch)[1] == 1
    with torch.profiler.profile():
        assert dispatched(layer, x, monkeypatch)[1] == 1
    xs = torch.randn(5, 2, 1, 4)
    with torch.no_grad():
        found = torch.func.vmap(lambda one: layer(one)[0])(xs)
        assert torch.equal(found, torch.stack([layer(one)[0] for one in xs]))
