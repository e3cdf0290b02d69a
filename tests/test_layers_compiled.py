"""torch.compile and torch.export: layers and cells, lengths, resets, any T and N; no graph break."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import glassgate
from test_layers_gradients import LAYERS, layer_and_input

CELLS = [("LSTMCell", {}), ("GRUCell", {}), ("GRUCell", {"reset": "before"})]


# The backends below aot_eager generate code with a C++ compiler, which is not what is tested here.
@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_compile_without_a_graph_break(name: str, options: dict[str, Any]) -> None:
    layer, _ = layer_and_input(name, options, 1)
    model = nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), layer)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    # The first T has a graph of its own, the second one for any T, and one step its own again.
    for T, graphs in ((5, 1), (7, 2), (9, 2), (11, 2), (1, 3)):
        x = torch.randn(T, 2, 3, dtype=torch.float64)
        got, want = compiled(x)[0], model(x)[0]
        assert counter.frame_count == graphs
        assert torch.equal(got, want)
        grads = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (got, want)]
        assert all(torch.equal(g, w) for g, w in zip(*grads, strict=True))
    x, lengths = torch.randn(9, 2, 3, dtype=torch.float64), torch.tensor([9, 2])
    with torch.no_grad():
        assert torch.equal(compiled(x)[0], model(x)[0])
    ragged = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(ragged(x, lengths=lengths)[0], layer(x, lengths=lengths)[0])
    with glassgate.record(layer) as trace:
        y = ragged(x)[0]
    assert torch.equal(trace["l1"].hidden, y)


def test_compile_still_turns_torchs_own_layer_away() -> None:
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Attempted to wrap RNN, GRU, or LSTM"):
        torch.compile(nn.LSTM(3, 4), fullgraph=True, backend="eager")(torch.zeros(2, 1, 3))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_export_with_any_time_and_batch(name: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(glassgate, name)(3, 4, bidirectional=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            y: Tensor = self.rnn(x, lengths=lengths)[0]
            return y

    model = Model().eval()
    time, batch = torch.export.Dim("time", min=1), torch.export.Dim("batch", min=1)
    example = torch.randn(5, 3, 3), torch.tensor([5, 2, 1])
    program = torch.export.export(model, example, dynamic_shapes=({0: time, 1: batch}, {0: batch}))
    for T, lengths in ((9, [9, 0, 3, 2]), (2, [1])):
        x = torch.randn(T, len(lengths), 3)
        assert torch.equal(program.module()(x, torch.tensor(lengths)), model(x, torch.tensor(lengths)))


# torch's compiler looks at the .grad of every state that it is handed, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("name", "options"), CELLS)
def test_compiled_cells_step_and_learn_as_others_do(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    cell = getattr(glassgate, name)(3, 4, **options)
    torch._dynamo.reset()
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3)

    def ends(step: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        state = None
        for row in x:
            state = step(row, state)
        h: Tensor = state[0] if isinstance(state, tuple) else state  # type: ignore[assignment]
        return h, torch.autograd.grad(h.square().sum(), list(cell.parameters()))

    (got, grads), (want, others) = ends(compiled), ends(cell)
    assert torch.equal(got, want)
    assert all(torch.equal(g, o) for g, o in zip(grads, others, strict=True))
    with glassgate.record(cell) as trace:
        ends(compiled)
    assert torch.equal(trace.hidden[-1], want)


@pytest.mark.parametrize(("name", "options"), CELLS)
def test_exported_cells_take_any_batch(name: str, options: dict[str, Any]) -> None:
    cell = getattr(glassgate, name)(3, 4, **options)
    batch = torch.export.Dim("batch", min=1)
    states = 2 if name == "LSTMCell" else 1
    example = [torch.randn(3, 4) for _ in range(states)]
    shapes = [{0: batch}] * states
    hx, dims = (tuple(example), tuple(shapes)) if states == 2 else (example[0], shapes[0])
    program = torch.export.export(cell, (torch.randn(3, 3), hx), dynamic_shapes=({0: batch}, dims))
    for N in (1, 7):
        x, own = torch.randn(N, 3), [torch.randn(N, 4) for _ in range(states)]
        given = tuple(own) if states == 2 else own[0]
        got, want = program.module()(x, given), cell(x, given)
        for g, w in zip(*((y,) if states == 1 else y for y in (got, want)), strict=True):
            assert torch.equal(g, w)


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_resets_are_compiled_and_exported(name: str, options: dict[str, Any]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(glassgate, name)(3, 4, **options)

        def forward(self, x: Tensor, resets: Tensor) -> Tensor:
            y: Tensor = self.rnn(x, resets=resets)[0]
            return y

    model = Model().eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    time, batch = torch.export.Dim("time", min=1), torch.export.Dim("batch", min=1)
    dims = {0: time, 1: batch}
    example = torch.randn(5, 3, 3), torch.rand(5, 3) < 0.3
    program = torch.export.export(model, example, dynamic_shapes=(dims, dims))
    for T, N in ((6, 2), (3, 4)):
        x, resets = torch.randn(T, N, 3), torch.rand(T, N) < 0.3
        resets[1, 0] = True  # one at least that clears something, whatever is drawn
        want = model(x, resets)
        assert not torch.equal(want, model(x, torch.zeros_like(resets)))
        assert torch.equal(compiled(x, resets), want)
        assert torch.equal(program.module()(x, resets), want)
