"""Lengths and resets of the layers, on the kernels and in plain operations: the definition's values."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import glassgate
from glassgate.errors import GlassgateError
from kernel_cases import CELLS, Case, definition

LAYERS: dict[str, Any] = {
    "lstm": glassgate.LSTM,
    "gru-after": glassgate.GRU,
    "gru-before": lambda *a, **k: glassgate.GRU(*a, reset="before", **k),
}


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassgate.layers.scanning._said", set())


def flat(output: Any) -> list[Tensor]:
    y, last = output
    return [y, *(last if isinstance(last, tuple) else (last,))]


def by_definition(layer: Any, cell: str, x: Any, states: list[Any], lengths: Any, resets: Any) -> list[Any]:
    """Run x [T, N, I] through the equations, layer by layer, direction by direction."""
    finals: list[list[Any]] = [[] for _ in states]
    for number in range(layer.num_layers):
        outputs = []
        for end in ("", "_reverse") if layer.bidirectional else ("",):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights: Any = [getattr(layer, f"{name}_l{number}{end}").detach().numpy() for name in names]
            before = [state[len(finals[0])] for state in states]
            h0, c0 = (*before, None)[:2]
            got = definition(Case(cell, tuple(weights), x, h0, c0, lengths, resets, bool(end)))
            outputs.append(got["hidden"])
            for final, name in zip(finals, ("h_n", "c_n"), strict=False):
                final.append(got[name])
        x = np.concatenate(outputs, -1)
    return [x, *(np.stack(final) for final in finals)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_lengths_and_resets_are_the_definition(data: st.DataObject) -> None:
    cell, kind = data.draw(st.sampled_from(CELLS)), data.draw(st.sampled_from(["TN", "NT", "T"]))
    layers, both = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    T, N = data.draw(st.integers(1, 6)), 1 if kind == "T" else data.draw(st.integers(1, 4))
    torch.manual_seed(data.draw(st.integers(0, 999)))
    layer = LAYERS[cell](5, 7, layers, bidirectional=both, batch_first=kind == "NT", dtype=torch.float64)
    x, total = torch.randn(T, N, 5, dtype=torch.float64), layers * (1 + both)
    lengths = data.draw(st.none() | st.lists(st.integers(0, T), min_size=N, max_size=N))
    resets = data.draw(st.sampled_from([None, torch.rand(T, N) < 0.4]))
    states = [torch.randn(total, N, 7, dtype=torch.float64) for _ in range(2 if cell == "lstm" else 1)]
    marks = [None if mark is None else np.asarray(mark) for mark in (lengths, resets)]
    want = by_definition(layer, cell, x.numpy(), [state.numpy() for state in states], *marks)

    def turned(t: Tensor) -> Tensor:
        return t.transpose(0, 1) if kind == "NT" else t.squeeze(1) if kind == "T" else t

    hx: Any = [state.squeeze(1) if kind == "T" else state for state in states]
    options: dict[str, Any] = {"resets": None if resets is None else turned(resets)}
    options["lengths"] = lengths[0] if lengths and kind == "T" else lengths
    got = flat(layer(turned(x), tuple(hx) if cell == "lstm" else hx[0], **options))
    for g, w, turn in zip(got, want, (turned, *[lambda t: t] * 2), strict=False):
        w = turn(torch.from_numpy(w))
        # Six steps in two layers of sums of at most 21 float64 products of size one: 1e3 roundings.
        torch.testing.assert_close(g.detach(), w.reshape(g.shape), rtol=0, atol=2e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_a_packed_sequence_is_a_padded_one_with_lengths(cell: str) -> None:
    layer = LAYERS[cell](5, 7, 2, bidirectional=True)
    x, lengths = torch.randn(6, 3, 5), torch.tensor([4, 6, 1])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with glassgate.record(layer) as one:
        y, *last = flat(layer(x, lengths=lengths))
    with glassgate.record(layer) as other:
        z, *last_packed = flat(layer(packed))
    assert torch.equal(pad_packed_sequence(z)[0], y)  # type: ignore[arg-type]
    assert all(torch.equal(g, w) for g, w in zip(last_packed, last, strict=True))
    for name, trace in one.items():
        for gate in trace.names:
            assert torch.equal(getattr(other[name], gate), getattr(trace, gate)), (name, gate)


PLAIN: list[dict[str, Any]] = [{"proj_size": 2}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}]


@pytest.mark.filterwarnings("ignore:LSTM. no kernel for:UserWarning")
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("options", PLAIN)
def test_what_lies_in_the_padding_reaches_nothing(options: dict[str, Any], twice: bool) -> None:
    """Zeros and NaN there give the same results, gradients and second derivatives."""
    layer = glassgate.LSTM(3, 4, 2, bidirectional=True, **options)
    dtype = layer.weight_ih_l0.dtype
    x, lengths = torch.randn(5, 3, 3).to(dtype), [5, 3, 0]
    wide = layer.proj_size or 4
    h, c = torch.randn(4, 3, wide).to(dtype), torch.randn(4, 3, 4).to(dtype)
    runs = []
    for hole in (0.0, float("nan")):
        given = [t.clone() for t in (x, h, c)]
        given[0][3:, 1] = given[0][:, 2] = given[1][:, 2] = given[2][:, 2] = hole
        inputs = [t.requires_grad_() for t in given]
        y, (h_n, c_n) = layer(inputs[0], (inputs[1], inputs[2]), lengths=lengths)
        loss = y.square().sum() + (h_n[:, :2] * c_n[:, :2, :wide]).sum()
        results = list(torch.autograd.grad(loss, [*inputs, *layer.parameters()], create_graph=twice))
        if twice:
            results += torch.autograd.grad(sum(r.square().sum() for r in results), list(layer.parameters()))
        runs.append([y, *results])
    assert all(torch.equal(g, w) for g, w in zip(*runs, strict=True))


def lengths_of(layer: Any, x: Tensor, lengths: Any) -> Any:
    return layer(x, lengths=lengths)[0]


@pytest.mark.filterwarnings("ignore:LSTM. no kernel for:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("wrong", [[7, 2], [3, -2]])
def test_lengths_that_are_none_are_refused_whoever_computes(wrong: list[int]) -> None:
    projected, layer, x = glassgate.LSTM(3, 4, proj_size=2), glassgate.LSTM(3, 4), torch.randn(5, 2, 3)
    at = 0 if wrong[0] == 7 else 1
    message = rf"^scan: lengths\[{at}\]: must be from 0 to 5, got {wrong[at]}$"
    tensor = torch.tensor(wrong)
    for call in (
        lambda: lengths_of(layer, x, wrong),
        lambda: lengths_of(projected, x, wrong),
        lambda: torch.func.jvp(lambda x: lengths_of(layer, x, wrong), (x,), (x,)),
        lambda: torch.vmap(lambda n: lengths_of(projected, x, n))(tensor.unsqueeze(0)),
        lambda: torch.vmap(lambda n: lengths_of(layer, x, n))(tensor.unsqueeze(0)),
    ):
        with pytest.raises(GlassgateError, match=message):
            call()
    with glassgate.edit(layer, "forget", set=1), pytest.raises(GlassgateError, match=message):
        lengths_of(layer, x, wrong)
    compiled = torch.compile(projected, fullgraph=True, backend="aot_eager")
    assert torch.equal(
        lengths_of(compiled, x, tensor.clamp(0, 5)), lengths_of(projected, x, tensor.clamp(0, 5))
    )
    with pytest.raises(RuntimeError, match="scan: lengths: each must be from 0 to 5"):
        lengths_of(compiled, x, tensor)


@pytest.mark.parametrize("cell", CELLS)
def test_no_sequences_and_no_steps(cell: str) -> None:
    layer = LAYERS[cell](5, 7, 2)
    for lengths in (None, [], torch.zeros(0, dtype=torch.int32)):
        y, *last = flat(layer(torch.zeros(4, 0, 5), lengths=lengths))
        assert [y.shape, *(state.shape for state in last)] == [(4, 0, 7), *[(2, 0, 7)] * len(last)]
    states = [torch.randn(2, 3, 7) for _ in last]
    y, *last = flat(
        layer(torch.zeros(0, 3, 5), tuple(states) if cell == "lstm" else states[0], lengths=[0] * 3)
    )
    assert y.shape == (0, 3, 7)
    assert all(torch.equal(g, w) for g, w in zip(last, states, strict=True))


def test_no_steps_with_a_projection() -> None:
    layer, hx = glassgate.LSTM(5, 7, proj_size=3), (torch.randn(1, 4, 3), torch.randn(1, 4, 7))
    with pytest.warns(UserWarning, match="plain torch operations"):
        y, last = layer(torch.zeros(0, 4, 5), hx)
    assert y.shape == (0, 4, 3)
    assert all(torch.equal(g, w) for g, w in zip(last, hx, strict=True))
