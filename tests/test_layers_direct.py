"""Calls without gradients go past torch's dispatcher: the same bits as through it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_calls_past_torch_have_the_bits_of_calls_through_it(data: st.DataObject) -> None:
    """The same call with gradients goes through torch's dispatcher."""
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
    expected = layer(x, hx, **marks)
    assert same(without_gradients(layer, x, hx, **marks), expected)


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


def dispatched(layer: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """Return what a call without gradients gives, and how many layers of it went through torch."""
    calls, scan = [], operators.scan
    with monkeypatch.context() as patch:
        patch.setattr(
            scanning.Call, "_scan", staticmethod(lambda *a, **k: (calls.append(1), scan(*a, **k))[1])
        )
        return without_gradients(layer, x), len(calls)


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
