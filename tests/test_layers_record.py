"""Records: the gates of the definition, nothing changed by looking, nothing left behind."""

from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import glassgate
from glassgate import equations
from glassgate.errors import GlassgateError


class Encoder(nn.Module):
    """Two layers of ours within a model."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = glassgate.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = glassgate.GRU(8, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x)[0])[0]
        return y


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_gates_of_the_definition(kind: str) -> None:
    layer: Any = getattr(glassgate, kind.upper())(5, 4, dtype=torch.float64)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    with glassgate.record(layer) as trace:
        layer(x)
    notes = equations.from_torch_layout(*(p.detach().numpy() for p in layer.parameters()))
    zero = np.zeros((3, 4))
    want: Any
    if kind == "lstm":
        want = equations.run_lstm(x.numpy(), zero, zero, **notes)
        names = {"forget": "f", "input": "i", "output": "o", "candidate": "g", "cell": "C", "hidden": "h"}
    else:
        want = equations.run_gru(x.numpy(), zero, **notes)
        names = {"reset": "r", "update": "u", "candidate": "g", "hidden": "h"}
    assert set(trace["l0"].names) == set(names)
    for name, letter in names.items():
        # Some thirty roundings of values of size one.
        got = getattr(trace, name).detach().numpy()
        np.testing.assert_allclose(got, getattr(want, letter), rtol=0, atol=1e-14)


@pytest.mark.parametrize("training", [False, True])
def test_looking_changes_nothing(training: bool) -> None:
    model = Encoder()
    x = torch.randn(3, 6, 5, requires_grad=training)
    results = []
    for looking in (False, True):
        with torch.set_grad_enabled(training):
            if looking:
                with glassgate.record(model):
                    y = model(x)
            else:
                y = model(x)
        results.append([y])
        if training:
            results[-1] += torch.autograd.grad(y.square().sum(), [x, *model.parameters()])
    for off, on in zip(*results, strict=True):
        np.testing.assert_array_equal(on.detach().numpy(), off.detach().numpy())


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"dtype": torch.float64}])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU before"])
def test_looking_changes_neither_states_nor_ragged_calls(
    name: str, options: dict[str, Any], training: bool
) -> None:
    kind, _, reset = name.partition(" ")
    further = {**options, **({"reset": reset} if reset else {})}
    layer = getattr(glassgate, kind)(5, 4, 2, bidirectional=True, **further)
    x = torch.randn(6, 3, 5, dtype=options.get("dtype"), requires_grad=training)
    marks = {"lengths": [6, 0, 4], "resets": torch.rand(6, 3) < 0.3}
    results = []
    for looking in (False, True):
        with torch.set_grad_enabled(training), glassgate.record(layer) if looking else nullcontext():
            results.append(flat(layer(x, **marks)))
        if training:
            loss = torch.stack([r.square().sum() for r in results[-1]]).sum()
            results[-1] += torch.autograd.grad(loss, [x, *layer.parameters()])
    for off, on in zip(*results, strict=True):
        np.testing.assert_array_equal(on.detach().numpy(), off.detach().numpy())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_looking_at_a_cell_changes_nothing(name: str, training: bool) -> None:
    cell, xs = getattr(glassgate, name)(5, 4), torch.randn(3, 2, 5)
    results = []
    for looking in (False, True):
        state = None
        with torch.set_grad_enabled(training), glassgate.record(cell) if looking else nullcontext():
            for x in xs:
                state = cell(x, state)
        results.append(flat(state))
        if training:
            loss = torch.stack([r.square().sum() for r in results[-1]]).sum()
            results[-1] += torch.autograd.grad(loss, list(cell.parameters()))
    for off, on in zip(*results, strict=True):
        np.testing.assert_array_equal(on.detach().numpy(), off.detach().numpy())


def test_names_order_and_directions() -> None:
    model = nn.ModuleDict({"encoder": Encoder()})
    x = torch.randn(3, 6, 5)
    with glassgate.record(model) as trace:
        y = model["encoder"](x)
    assert list(trace) == [
        *(f"encoder.rnn.l{layer}{end}" for layer in range(2) for end in ("", "_reverse")),
        "encoder.head.l0",
    ]
    assert torch.equal(trace["encoder.head.l0"].hidden, y.transpose(0, 1))
    alone = glassgate.LSTM(5, 4)
    rnn: Any = model["encoder"].rnn
    alone.load_state_dict({name: rnn.get_parameter(f"{name}_reverse") for name in alone.state_dict()})
    with glassgate.record(alone) as backwards:
        alone(x.transpose(0, 1).flip(0))
    assert torch.equal(trace["encoder.rnn.l0_reverse"].forget, backwards.forget.flip(0))


def test_past_the_length_all_is_zero() -> None:
    for name in ("LSTM", "GRU"):
        layer = getattr(glassgate, name)(5, 4)
        with glassgate.record(layer) as trace:
            layer(torch.randn(6, 3, 5), lengths=[6, 0, 2])
        for gate in trace["l0"].names:
            values = getattr(trace, gate)
            assert not values[:, 1].any()
            assert not values[2:, 2].any()
            assert values[:, 0].all()


def test_a_loss_may_depend_on_the_gates() -> None:
    layer = glassgate.GRU(3, 2, dtype=torch.float64)

    def update(x: Tensor) -> Tensor:
        with glassgate.record(layer) as trace:
            layer(x)
        gate: Tensor = trace.update
        return gate

    torch.autograd.gradcheck(update, torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True))


def test_without_gradients_records_have_none() -> None:
    layer = glassgate.LSTM(3, 2)
    with glassgate.record(layer) as trace, torch.no_grad():
        layer(torch.zeros(4, 1, 3))
    assert not trace.forget.requires_grad


def test_several_calls_stand_one_after_another() -> None:
    layer = glassgate.LSTM(5, 4)
    x = torch.randn(6, 3, 5)
    with glassgate.record(layer) as whole:
        layer(x)
    with glassgate.record(layer) as parts:
        _, state = layer(x[:2])
        layer(x[2:], state)
    assert torch.equal(parts.cell, whole.cell)
    assert torch.equal(parts.output, whole.output)


def test_nested_repeated_and_after_an_exception() -> None:
    layer = glassgate.LSTM(5, 4)
    before = dict(layer.__dict__)
    x = torch.randn(6, 3, 5)
    with glassgate.record(layer) as outer:
        with glassgate.record(layer) as inner:
            y = layer(x)[0]
        layer(x)
    assert torch.equal(inner.hidden, y)
    assert torch.equal(outer.hidden, torch.cat([y, y]))
    with suppress(ZeroDivisionError), glassgate.record(layer) as trace:
        layer(x)
        raise ZeroDivisionError
    assert torch.equal(trace.hidden, y)
    layer(x)
    assert torch.equal(trace.hidden, y)
    again = glassgate.record(layer)
    with again as first, again as second:
        layer(x)
    with again as third:
        layer(x)
    for found in (first, second, third):
        assert torch.equal(found.hidden, y)
    assert layer.__dict__.keys() == before.keys()


def test_a_record_on_a_device_or_dtype_without_a_kernel() -> None:
    layer = glassgate.LSTM(5, 4, dtype=torch.bfloat16)
    with glassgate.record(layer) as trace, pytest.warns(UserWarning, match="plain torch operations"):
        y, (_, c) = layer(torch.randn(6, 3, 5, dtype=torch.bfloat16))
    assert torch.equal(trace.hidden, y)
    assert torch.equal(trace.cell[-1], c[0])


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassgate.layers.scanning._said", set())


def test_messages() -> None:
    layer = glassgate.LSTM(5, 4)
    with glassgate.record(layer) as trace:
        pass
    stack = glassgate.GRU(5, 4, num_layers=2)
    with glassgate.record(stack) as both:
        stack(torch.zeros(2, 1, 5))
        stack(torch.zeros(2, 3, 5))
    for look, message in [
        (lambda: trace.forget, "trace: l0 was not called while it was recorded"),
        (lambda: trace.update, "trace: l0 has input, forget, candidate, output, cell, hidden, got 'update'"),
        (lambda: trace["l1"], "trace: the layers are l0, got 'l1'"),
        (lambda: both.reset, "trace: there are several layers (l0, l1); name one, as in trace['l0'].reset"),
        (
            lambda: both["l0"].reset,
            "trace: l0 was called with batches of 1, 3; record each call by itself",
        ),
        (
            lambda: glassgate.record(nn.Sequential(nn.LSTM(2, 2))).__enter__(),
            "record: Sequential has no glassgate layer; glassgate.adopt(model) makes its torch.nn.LSTM "
            "and torch.nn.GRU ours",
        ),
    ]:
        with pytest.raises(GlassgateError) as error:
            look()
        assert str(error.value) == message
    assert not hasattr(trace, "update")


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "GRU before"])
def test_a_record_beyond_the_caches_is_that_of_each_sequence_alone(cell: str) -> None:
    """It goes past the caches where the processor can: the same bits, for the backward pass as well."""
    options: dict[str, Any] = {"reset": "before"} if cell == "GRU before" else {}
    torch.manual_seed(1)
    layer = getattr(glassgate, cell.split()[0])(8, 256, **options)
    T, N, gates = 40, 48, 4 if cell == "LSTM" else 3
    assert T * N * (gates + 1) * 256 * 4 > 4 << 20
    x, weights = torch.randn(T, N, 8), torch.randn(T, N, 256)

    def run(part: slice) -> tuple[Any, Tensor]:
        own = x[:, part].clone().requires_grad_()
        with glassgate.record(layer) as trace:
            y, _ = layer(own)
        (d_x,) = torch.autograd.grad((y * weights[:, part]).sum(), own)
        return trace, d_x

    whole, d_whole = run(slice(0, N))
    for n in (0, 21, N - 1):
        alone, d_alone = run(slice(n, n + 1))
        assert torch.equal(d_whole[:, n : n + 1], d_alone)
        for name in alone["l0"].names:
            assert torch.equal(getattr(whole["l0"], name)[:, n : n + 1], getattr(alone["l0"], name)), name
