"""Under autocast: the layers' own bf16 path in value and gradient, torch's dtypes, nothing rounded twice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import glassgate
from glassgate.errors import GlassgateError

KINDS: list[tuple[str, dict[str, Any]]] = [("LSTM", {}), ("GRU", {}), ("GRU", {"reset": "before"})]


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassgate.layers.scanning._said", set())


def autocast(dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> Any:
    return torch.autocast("cpu", dtype=dtype, enabled=enabled)


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


def drawn(name: str, options: dict[str, Any], **further: Any) -> Any:
    torch.manual_seed(1)
    return getattr(glassgate, name)(10, 12, **options, **further)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_results_and_gradients_are_those_of_precision_bf16(name: str, options: dict[str, Any]) -> None:
    """Two layers, both directions, ragged; the gradients outside of autocast and inside of it."""
    layer = drawn(name, options, num_layers=2, bidirectional=True)
    plain = drawn(name, options, num_layers=2, bidirectional=True, precision="bf16")
    x = torch.randn(8, 3, 10)

    def run(layer: Any, forward: bool, backward: bool) -> tuple[list[Tensor], list[Tensor]]:
        given = x.clone().requires_grad_()
        with autocast(enabled=forward):
            results = flat(layer(given, lengths=[8, 0, 5]))
        # Factors that bfloat16 holds: rounding a result on the way changes no gradient.
        factors = [torch.linspace(-1, 1, r.numel()).bfloat16().reshape(r.shape).to(r.dtype) for r in results]
        with autocast(enabled=backward):
            return results, list(torch.autograd.grad(results, [given, *layer.parameters()], factors))

    want, d_want = run(plain, False, False)
    for inside in (False, True):
        got, d_got = run(layer, True, inside)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == (torch.bfloat16 if name == "LSTM" else torch.float32)
            assert torch.equal(g, w.to(g.dtype))
        assert all(torch.equal(g, w) for g, w in zip(d_got, d_want, strict=True))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_dtypes_are_those_of_torch(name: str, half: bool) -> None:
    """Parameters in bfloat16 too: their values are taken as they are, since float32 holds them all."""
    torch.manual_seed(1)
    theirs, ours = getattr(nn, name)(10, 12), drawn(name, {})
    wide = drawn(name, {}, precision="bf16")
    x = torch.randn(6, 3, 10).bfloat16().float()
    for layer in (theirs, ours, wide):
        layer.bfloat16() if half else None
    wide.float()
    packed = pack_padded_sequence(x, torch.tensor([6, 4, 1]))
    for given in (x, x[:, 0], packed):
        cast = given.bfloat16() if half and isinstance(given, Tensor) else given
        if half and isinstance(given, PackedSequence):
            cast = given._replace(data=given.data.bfloat16())
        with autocast():
            want, got = flat(theirs(cast)), flat(ours(cast))
        assert [t.dtype for t in got] == [t.dtype for t in want]
        assert all(torch.equal(g, w.to(g.dtype)) for g, w in zip(got, flat(wide(given)), strict=True))
    with autocast():
        gradients = torch.autograd.grad(flat(ours(x))[0].float().square().sum(), list(ours.parameters()))
    assert {g.dtype for g in gradients} == {torch.bfloat16 if half else torch.float32}


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_cells_are_torchs_own_and_near_float32_when_seen(name: str) -> None:
    torch.manual_seed(1)
    theirs = getattr(nn, name + "Cell")(10, 12)
    ours = drawn(name + "Cell", {})
    x = torch.randn(3, 10)
    with autocast():
        with pytest.warns(UserWarning, match="no kernel for autocast to torch.bfloat16, torch's own path"):
            got = flat(ours(x))
        assert all(torch.equal(g, w) for g, w in zip(got, flat(theirs(x)), strict=True))
        with glassgate.record(ours) as trace, pytest.warns(UserWarning, match="plain torch operations"):
            seen = flat(ours(x))
    assert torch.equal(trace.hidden[0], seen[0])
    assert [s.dtype for s in seen] == [g.dtype for g in got]
    layer = drawn(name, {}, precision="bf16")
    layer.load_state_dict({f"{key}_l0": value for key, value in ours.state_dict().items()})
    for s, w in zip(seen, flat(layer(x.unsqueeze(0))[1]), strict=True):
        # The same rounded factors in plain operations: sums of 22 float32 products of size one.
        torch.testing.assert_close(s, w[0], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_plain_operations_round_the_factors_alone(name: str, options: dict[str, Any]) -> None:
    """The values that forward mode gives beside its tangents, and second derivatives taken inside."""
    layer, x = drawn(name, options), torch.randn(6, 3, 10)

    def value(call: Callable[[Tensor], Tensor]) -> Tensor:
        y: Tensor = torch.func.jvp(call, (x,), (x,))[0]
        return y

    layer.precision = "bf16"
    want = value(lambda x: layer(x)[0])
    layer.precision = "fp32"
    with autocast():
        got = value(lambda x: layer(x)[0])
    assert torch.equal(got, want.to(got.dtype))

    def second(inside: bool) -> list[Tensor]:
        given = x.clone().requires_grad_()
        y = layer(given)[0]
        with autocast(enabled=inside):
            (d,) = torch.autograd.grad(y.sum(), given, create_graph=True)
            return list(torch.autograd.grad(d.square().sum(), list(layer.parameters())))

    assert all(torch.equal(g, w) for g, w in zip(second(True), second(False), strict=True))


def test_float16_rounds_no_factor() -> None:
    layer, x = drawn("GRU", {"reset": "before"}), torch.randn(6, 3, 10)
    with autocast(torch.float16), pytest.warns(UserWarning, match="no kernel for autocast to torch.float16"):
        got, last = layer(x)
    assert (got.dtype, last.dtype) == (torch.float32, torch.float32)
    # Plain operations against the kernel: six steps of sums of 22 products below one, 6e-8 each.
    torch.testing.assert_close(got, layer(x)[0], rtol=0, atol=1e-5)


def test_what_autocast_does_not_cast_is_refused() -> None:
    for layer, x, message in [
        (
            drawn("LSTM", {}).double(),
            torch.zeros(1, 1, 10),
            "torch.float64 like the weights, got torch.float32",
        ),
        (drawn("GRU", {}), torch.zeros(1, 1, 10).long(), "torch.float32 like the weights, got torch.int64"),
    ]:
        with autocast(), pytest.raises(GlassgateError, match=message):
            layer(x)
    double = drawn("LSTM", {}).double()
    with autocast():
        assert double(torch.zeros(1, 1, 10).double())[0].dtype == torch.float64
