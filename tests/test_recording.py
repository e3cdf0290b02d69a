"""Records of a part: the same values as the whole record's, in the memory that was told, or on disk."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import glassgate
from glassgate import GlassgateError
from glassgate.trace import NAMES


class Tagger(nn.Module):
    """All kinds of layers, one of them a cell that is called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = glassgate.LSTM(5, 4, num_layers=2, bidirectional=True)
        self.middle = glassgate.GRU(8, 4)
        self.step = glassgate.LSTMCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(x.shape[1]) + 2
        y, state = self.middle(self.encoder(x, lengths=lengths)[0])[0], None
        for one in y:
            state = self.step(one, state)
        assert state is not None
        return state[0]


def recorded(model: nn.Module, x: Tensor, **options: Any) -> Any:
    with torch.no_grad(), glassgate.record(model, **options) as trace:
        model(x)
        model(x + 1)
    return trace


def tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


FILTERS: list[dict[str, Any]] = [
    {},
    {"gates": ["hidden", "candidate"]},
    {"layers": ["middle.l0", "encoder.l1_reverse"]},
    {"gates": ["update", "cell"], "units": [3, 0]},
    {"steps": slice(1, 5, 2)},
    {"dtype": "float16"},
    {"dtype": torch.float64, "steps": slice(4), "units": range(2), "gates": ("output",)},
]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("options", FILTERS)
def test_a_part_is_that_part_of_the_whole(options: dict[str, Any], on_disk: bool, tmp_path: Path) -> None:
    model, x = Tagger(), torch.randn(6, 3, 5)
    whole = recorded(model, x)
    to = {"to": tmp_path / "a" / "trace"} if on_disk else {}
    part = recorded(model, x, **options, **to)
    names = options.get("layers", list(whole))
    gates = {n: [g for g in whole[n].names if g in options.get("gates", whole[n].names)] for n in names}
    assert {n: list(part[n].names) for n in part} == {n: own for n, own in gates.items() if own}
    dtype = {"float16": torch.float16, torch.float64: torch.float64}.get(options.get("dtype"), torch.float32)
    units = list(options.get("units", range(4)))
    for name, own in gates.items():
        for gate in own:
            values, steps = getattr(whole[name], gate), options.get("steps", slice(None))
            pieces = [values[steps]] if name == "step" else [half[steps] for half in values.split(6)]
            want = torch.cat(pieces)[:, :, units].to(dtype)
            got = getattr(part[name], gate)
            assert isinstance(got, np.ndarray) == on_disk
            assert torch.equal(tensor(got), want)
            if "steps" not in options:
                rows = whole[name].rows(gate)[:, units].to(dtype)
                assert torch.equal(tensor(part[name].rows(gate)), rows)
    if on_disk:
        files = sorted(path.name for path in (tmp_path / "a" / "trace").iterdir())
        assert files == sorted(f"{name}.{gate}.npy" for name, own in gates.items() for gate in own)


@pytest.mark.parametrize("options", FILTERS)
def test_the_size_that_is_told_is_the_size_that_is_kept(options: dict[str, Any]) -> None:
    layer = glassgate.GRU(5, 4, num_layers=2)
    options = options | ({"layers": ["l1"]} if "layers" in options else {})
    options |= {"gates": ["update"]} if "output" in options.get("gates", ()) else {}
    options |= {"gates": ["update"]} if "cell" in options.get("gates", ()) else {}
    with torch.no_grad(), glassgate.record(layer, **options) as trace:
        told = trace.size(7, 3)
        layer(torch.randn(7, 3, 5))
    kept = [getattr(trace[name], gate) for name in trace for gate in trace[name].names]
    assert told == sum(values.numel() * values.element_size() for values in kept) > 0


def test_what_is_dropped_is_not_held() -> None:
    layer = glassgate.LSTM(5, 4)
    with torch.no_grad(), glassgate.record(layer, gates=["forget"]) as trace:
        layer(torch.randn(7, 3, 5))
    assert trace.forget.untyped_storage().nbytes() == 7 * 3 * 4 * 4


def test_a_part_has_gradients() -> None:
    layer = glassgate.LSTM(5, 4, dtype=torch.float64)
    gradients = []
    for options in ({}, {"gates": ["forget"], "units": [1], "steps": slice(2, None)}):
        with glassgate.record(layer, **options) as trace:
            layer(torch.ones(6, 2, 5, dtype=torch.float64))
        part = trace.forget if options else trace.forget[2:, :, [1]]
        gradients.append(torch.autograd.grad(part.sum(), list(layer.parameters())))
    for whole, part in zip(*gradients, strict=True):
        assert torch.equal(whole, part)


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    layer = glassgate.LSTM(5, 4)
    (tmp_path / "l0.forget.npy").write_bytes(b"as it was")
    unwritten = pytest.raises(GlassgateError, match=r"l0\.forget\.npy is read after the with")
    with pytest.raises(OSError, match="the user's"), glassgate.record(layer, to=tmp_path) as trace:  # noqa: PT012
        layer(torch.zeros(3, 2, 5))
        with unwritten:
            _ = trace.forget
        raise OSError("the user's own")
    assert [path.name for path in tmp_path.iterdir()] == ["l0.forget.npy"]
    assert (tmp_path / "l0.forget.npy").read_bytes() == b"as it was"
    two = pytest.raises(GlassgateError, match="calls of one batch size expected, got 2, then 3")
    with two, glassgate.record(layer, to=tmp_path, gates=["cell"]):
        layer(torch.zeros(3, 2, 5))
        layer(torch.zeros(3, 3, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["l0.forget.npy"]
    target = tmp_path / "l0.forget.npy" / "inside"
    with pytest.raises(GlassgateError, match="inside: cannot be written"):
        glassgate.record(layer, to=target).__enter__()


def test_nothing_called_and_no_steps(tmp_path: Path) -> None:
    layer = glassgate.LSTM(5, 4)
    with glassgate.record(layer, to=tmp_path / "none") as trace:
        pass
    with pytest.raises(GlassgateError, match="was not called"):
        _ = trace.forget
    with glassgate.record(layer, to=tmp_path, steps=slice(9, None)) as trace:
        layer(torch.zeros(3, 2, 5))
    assert trace.forget.shape == (0, 2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": "forget"}, "gates and layers must be lists of names, got one string"),
        ({"gates": ["forgot"]}, f"the gates and states are {', '.join(NAMES['lstm'])}, got 'forgot'"),
        ({"layers": ["l3"]}, "the layers are l0, got 'l3'"),
        ({"units": [1, 4]}, "units must be from 0 to 3 in l0, got 4"),
        ({"units": [-1]}, "units must be from 0 to 3 in l0, got -1"),
        ({"steps": 3}, "steps must be a slice, got 3"),
        ({"dtype": "int8"}, "dtype must be one of float16, bfloat16, float32, float64, got int8"),
        ({"dtype": "bfloat16", "to": "x"}, "dtype must be one of float16, float32, float64, got bfloat16"),
    ],
)
def test_what_cannot_be_kept(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GlassgateError, match=f"record: {message}"):
        glassgate.record(glassgate.LSTM(5, 4), **options).__enter__()


def test_a_cells_steps_have_no_end() -> None:
    cell = glassgate.LSTMCell(5, 4)
    with glassgate.record(cell, steps=slice(-2, None)), pytest.raises(GlassgateError, match="no end"):
        cell(torch.zeros(1, 5))


def test_a_copy_of_a_trace_holds_its_values_alone() -> None:
    layer = glassgate.LSTM(5, 400)
    with torch.no_grad(), glassgate.record(layer) as trace:
        layer(torch.randn(6, 3, 5))
    written = pickle.dumps(trace)
    assert len(written) < 2 * trace.size(6, 3) < layer.weight_hh_l0.nbytes
    again = pickle.loads(written)
    assert torch.equal(again.forget, trace.forget)
    assert again.size(6, 3) == trace.size(6, 3) == 6 * 3 * 6 * 400 * 4
