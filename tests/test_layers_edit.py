"""Edits in torch: the same on the kernels and in plain operations, differentiable, scoped."""

import contextlib
import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import glassgate
from edited_by_hand import edited_definition, edits_of
from glassgate import Edit, GlassgateError, kernels
from glassgate.edit_tables import compile_edits
from glassgate.trace import NAMES
from kernel_cases import Case, make

LAYERS: dict[str, Any] = {
    "lstm": glassgate.LSTM,
    "gru-after": glassgate.GRU,
    "gru-before": lambda *a, **k: glassgate.GRU(*a, reset="before", **k),
}


def edits_for(kind: str, seed: int = 0) -> list[Edit]:
    """One edit of each kind, on every gate and state in turn."""
    rng = np.random.default_rng(seed)
    kinds: list[dict[str, Any]] = [
        {"scale": 0.5, "steps": slice(1, None)},
        {"add": rng.normal(size=2), "units": [0, 3]},
        {"set": 0.25, "units": [1], "steps": slice(-2, None)},
        {"clamp": (-0.3, 0.6)},
        {"replace": rng.uniform(size=(6, 1, 4)), "steps": slice(2, 4)},
    ]
    names = NAMES[kind.split("-")[0]]
    return [Edit(names[(k + seed) % len(names)], **change) for k, change in enumerate(kinds)]


def layer_of(cell: str, **options: Any) -> Any:
    torch.manual_seed(3)
    return LAYERS[cell](5, 4, dtype=options.pop("dtype", torch.float64), **options)


def run(layer: Any, x: Tensor, edits: list[Edit], **options: Any) -> tuple[dict[str, Any], Any]:
    with glassgate.record(layer) as trace, glassgate.edit(layer, edits):
        y, _ = layer(x, **options)
    return {name: {gate: getattr(own, gate) for gate in own.names} for name, own in trace.items()}, y


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cell", LAYERS)
def test_both_ways_are_the_equations_with_the_same_edits(cell: str, seed: int) -> None:
    """Two directions, ragged and with resets: by plain operations (gradients wanted) and by the kernels."""
    layer, edits = layer_of(cell, bidirectional=True), edits_for(cell, seed)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    lengths, resets = [6, 0, 4], torch.rand(6, 3) < 0.2
    plain, _ = run(layer, x, edits, lengths=lengths, resets=resets)
    with torch.no_grad():
        fast, _ = run(layer, x, edits, lengths=lengths, resets=resets)
    for end in ("", "_reverse"):
        weights = [getattr(layer, f"{name}_l0{end}").detach().numpy() for name in
                   ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
        case = Case(cell, tuple(weights), x.numpy(), None, None, np.array(lengths), resets.numpy(), bool(end))
        want = edited_definition(case, edits)
        for gate, values in plain[f"l0{end}"].items():
            # Six steps of some thirty roundings of numbers of size 1.
            np.testing.assert_allclose(values.detach(), want[gate], rtol=0, atol=1e-13, err_msg=gate)
            np.testing.assert_allclose(fast[f"l0{end}"][gate], want[gate], rtol=0, atol=1e-13, err_msg=gate)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_stacks_with_drawn_edits(data: st.DataObject) -> None:
    """Two layers, both directions: each reads what the one below it gives after its edits."""
    cell = data.draw(st.sampled_from(list(LAYERS)))
    kind = {name: data.draw(st.booleans()) for name in ("lengths", "resets", "bias")}
    sizes = [data.draw(st.integers(1, most)) for most in (6, 4, 5, 9)]
    torch.manual_seed(0)
    drawn = make(cell, *sizes, seed=data.draw(st.integers(0, 999)), **kind)
    layer = LAYERS[cell](*sizes[2:], num_layers=2, bidirectional=True, bias=kind["bias"], dtype=torch.float64)
    x, wanted, edits = drawn.x, {}, []
    for number in range(2):
        outputs = []
        for end in ("", "_reverse"):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(layer, f"{name}_l{number}{end}", None) for name in names]
            arrays = tuple(w if w is None else w.detach().numpy() for w in weights)
            case = drawn._replace(x=x, weights=arrays, reverse=bool(end))
            own = [replace(edit, layer=f"l{number}{end}") for edit in data.draw(edits_of(case))]
            wanted[f"l{number}{end}"] = edited_definition(case, own)
            outputs.append(wanted[f"l{number}{end}"]["hidden"])
            edits += own
        x = np.concatenate(outputs, -1)
    options = {
        "lengths": drawn.lengths,
        "resets": None if drawn.resets is None else torch.tensor(drawn.resets),
    }
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            got, _ = run(layer, torch.from_numpy(drawn.x), edits, **options)
        for name, gates in got.items():
            for gate, values in gates.items():
                # As for the kernels alone: far below 1e-9; a wrong edit shows at 1e-2.
                np.testing.assert_allclose(values.detach(), wanted[name][gate], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", LAYERS)
def test_torch_and_the_runtimes_face_of_the_kernels_give_the_same_bits(cell: str) -> None:
    layer, edits = layer_of(cell, dtype=torch.float32), edits_for(cell)
    x = torch.randn(6, 3, 5)
    with torch.no_grad():
        got, _ = run(layer, x, edits)
    weights = [p.detach().numpy() for p in layer.parameters()]
    table = compile_edits(edits, cell.split("-")[0], 6, 3, 4, np.float32)
    if cell == "lstm":
        want: Any = kernels.PackedLSTM(*weights).forward(x.numpy(), edits=table)
    else:
        reset: Any = cell.removeprefix("gru-")
        want = kernels.PackedGRU(*weights, reset=reset).forward(x.numpy(), edits=table)
    assert got["l0"]["hidden"].numpy().tobytes() == want.hidden.tobytes()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_an_edit_that_changes_nothing_changes_no_bit(cell: str, gradients: bool) -> None:
    layer = layer_of(cell, dtype=torch.float32, num_layers=2)
    x = torch.randn(6, 3, 5)
    idle = [
        Edit("candidate", scale=1),
        Edit("hidden", add=torch.zeros(4)),
        Edit("hidden", clamp=(-np.inf, np.inf)),
        Edit("candidate", set=3, units=[]),
        Edit("candidate", set=3, steps=slice(6, None)),
        Edit("candidate", function=lambda v: v + 1, steps=slice(2, 2)),
    ]
    results = []
    for edits in ([], idle):
        with torch.set_grad_enabled(gradients):
            trace, y = run(layer, x, edits)
        results.append([y, *trace["l1"].values()])
        if gradients:
            results[-1] += torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    for without, with_ in zip(*results, strict=True):
        assert without.detach().numpy().tobytes() == with_.detach().numpy().tobytes()


@pytest.mark.parametrize("cell", LAYERS)
def test_what_follows_from_an_edit(cell: str) -> None:
    """Steps before it keep their bits; the next layer reads an edited hidden state."""
    layer = layer_of(cell, dtype=torch.float32, num_layers=2)
    x = torch.randn(6, 3, 5)
    with torch.no_grad():
        before, _ = run(layer, x, [])
        after, _ = run(layer, x, [Edit("hidden", set=0.5, units=[2], steps=slice(3, 4), layer="l0")])
    for name in ("l0", "l1"):
        for gate, values in after[name].items():
            assert torch.equal(values[:3], before[name][gate][:3])
            assert name == "l0" or not torch.equal(values[3], before[name][gate][3])
            assert not torch.equal(values[4], before[name][gate][4])
    assert (after["l0"]["hidden"][3, :, 2] == 0.5).all()


@pytest.mark.parametrize("kind", ["set", "scale", "add", "clamp", "replace", "mean", "resample", "function"])
@pytest.mark.parametrize("cell", LAYERS)
def test_gradients_flow_through_every_kind(cell: str, kind: str) -> None:
    layer = layer_of(cell)
    value: Any = torch.rand(4, 1, 4, dtype=torch.float64) if kind in ("replace", "mean", "resample") else 0.7
    value = {"clamp": (-0.1, 0.2), "function": torch.sin}.get(kind, value)
    gate = "hidden" if kind in ("clamp", "function") else "candidate"
    # The gate is edited in places, and its neighbours carry gradients on.
    edit = Edit(gate, units=[0, 2], steps=slice(1, 3), **{kind: value})

    def results(x: Tensor) -> Any:
        with glassgate.record(layer) as trace, glassgate.edit(layer, edit):
            y, _ = layer(x)
        return y, getattr(trace, gate)

    torch.autograd.gradcheck(results, torch.randn(4, 2, 5, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("kind", ["set", "scale", "add", "replace"])
def test_the_value_of_an_edit_may_be_learned(kind: str) -> None:
    layer = layer_of("lstm")
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    value = torch.ones(4, dtype=torch.float64) if kind != "replace" else torch.rand(3, 2, 4).double()

    def result(value: Tensor) -> Any:
        with glassgate.edit(layer, "forget", **{kind: value}):
            return layer(x)[0]

    torch.autograd.gradcheck(result, value.requires_grad_())


def test_patching_from_another_run() -> None:
    """All gates of the one and its initial state give its outputs over any input."""
    layer = layer_of("lstm", num_layers=2)
    x, other = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    with torch.no_grad(), glassgate.record(layer) as trace:
        want, _ = layer(x)
    patches = [Edit(gate, replace=trace) for gate in ("input", "forget", "candidate", "output")]
    with torch.no_grad(), glassgate.edit(layer, patches):
        assert torch.equal(layer(other)[0], want)
    with glassgate.edit(layer, "hidden", replace=trace["l1"].hidden, layer="l1"):
        assert torch.equal(layer(other)[0], want)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = glassgate.LSTM(5, 4, bidirectional=True)
        self.step = glassgate.GRUCell(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.encoder(x)[0], x.new_zeros(x.shape[1], 3)
        for one in y:
            h = self.step(one, h)
        return h


@pytest.mark.parametrize("gradients", [False, True])
def test_a_cells_calls_are_its_steps(gradients: bool) -> None:
    model, x = Tagger(), torch.randn(6, 2, 5)
    rng = np.random.default_rng(0)
    edits = [
        Edit("update", set=0.25, layer="step", steps=slice(2, 4)),
        Edit("reset", replace=rng.uniform(size=(6, 3)), units=[1]),
        Edit("candidate", resample=rng.uniform(size=(9, 3)), layer="step", units=[0]),
    ]
    with torch.set_grad_enabled(gradients), glassgate.record(model) as trace, glassgate.edit(model, edits):
        model(x)
    seen = trace["step"]
    assert ((seen.update == 0.25).all((1, 2)) == torch.tensor([0, 0, 1, 1, 0, 0]).bool()).all()
    assert torch.equal(seen.reset[:, 1, 1].detach(), torch.tensor(edits[1].replace[:, 1]).float())
    drawn = {round(v, 6) for v in seen.candidate[:, :, 0].flatten().tolist()}
    assert 1 < len(drawn) <= 9
    assert drawn <= {round(v, 6) for v in edits[2].resample[:, 0].astype(np.float32).tolist()}
    with pytest.raises(GlassgateError, match="a stream has no end"), glassgate.edit(
        model, "update", set=1, layer="step", steps=slice(-1, None)
    ):  # fmt: skip
        model(x)


def test_scopes_nest_in_order_and_leave_nothing() -> None:
    layer, x = layer_of("lstm"), torch.randn(6, 2, 5, dtype=torch.float64)
    before = dict(layer.__dict__)
    with torch.no_grad():
        want, _ = layer(x)
        outer = glassgate.edit(layer, "forget", set=0.5)
        with outer, glassgate.edit(layer, "forget", scale=0.5), glassgate.record(layer) as trace:
            layer(x)
            copied = copy.deepcopy(layer)
        assert (trace.forget == 0.25).all()
        with contextlib.suppress(ZeroDivisionError), glassgate.edit(layer, "forget", set=0.5):
            raise ZeroDivisionError
        with pytest.raises(GlassgateError, match=r"there is input, .* in l0"):
            glassgate.edit(layer, "reset", set=0.5).__enter__()
        assert layer.__dict__.keys() == before.keys()
        assert torch.equal(layer(x)[0], want)
        assert torch.equal(copied(x)[0], want)


def test_where_there_is_no_kernel_plain_operations_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassgate.layers.scanning._said", set())
    layer = glassgate.LSTM(5, 4, proj_size=2)
    x = torch.randn(6, 2, 5)
    edits = [Edit("hidden", set=[1, 2]), Edit("cell", set=0.5)]
    warned = pytest.warns(UserWarning, match="plain torch operations")
    with warned, torch.no_grad(), glassgate.record(layer) as trace, glassgate.edit(layer, edits):
        y, (h, c) = layer(x)
    assert torch.equal(y, torch.tensor([1.0, 2.0]).expand(6, 2, 2))
    assert torch.equal(h[0], y[-1])
    assert (c == 0.5).all()
    assert (trace.cell == 0.5).all()
    meta = glassgate.GRU(5, 4, device="meta")
    with torch.no_grad(), glassgate.edit(meta, "update", set=0.5):
        assert meta(torch.empty(6, 2, 5, device="meta"))[0].shape == (6, 2, 4)
    with pytest.raises(GlassgateError, match="units must be from 0 to 1 in l0, got 3"):
        glassgate.edit(layer, "hidden", set=1, units=[3]).__enter__()


def test_transforms_and_the_compiler_see_edits() -> None:
    layer, x = layer_of("gru-after"), torch.randn(7, 4, 2, 5, dtype=torch.float64)
    compiled = torch.compile(layer, backend="eager")
    with torch.no_grad():
        for change in ({"set": 0.5}, {"scale": 0.5}):
            with glassgate.edit(layer, "update", **change):
                want = layer(x[0])[0]
                assert torch.equal(compiled(x[0])[0], want)
                many = torch.vmap(lambda one: layer(one)[0])(x)
            # Plain operations under vmap against the kernels: four steps of some thirty roundings.
            torch.testing.assert_close(many[0], want, rtol=0, atol=1e-13)
        assert torch.equal(compiled(x[0])[0], layer(x[0])[0])
        assert not torch.equal(want, layer(x[0])[0])


@pytest.mark.parametrize("cell", LAYERS)
def test_in_bf16_both_ways_round_the_same(cell: str) -> None:
    """By autocast and by precision="bf16": the factors of the products are rounded, and nothing else."""
    layer, x = layer_of(cell, dtype=torch.float32), torch.randn(6, 3, 5)
    results = {}
    for gradients in (False, True):
        for auto in (False, True):
            layer.precision = "fp32" if auto else "bf16"
            with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=auto):
                trace, _ = run(layer, x, [Edit("candidate", scale=0.5)])
            results[gradients, auto] = trace["l0"]
    for gate, want in results[False, False].items():
        assert torch.equal(results[False, True][gate], want)
        for auto in (False, True):
            # float32 sums differ in their last bits; where one falls on the other side of a rounding to
            # bfloat16, a factor moves by 2^-9: in six steps by at most a few of them.
            torch.testing.assert_close(results[True, auto][gate], want, rtol=0, atol=2**-7)
        assert torch.equal(results[True, True][gate], results[True, False][gate])


def test_a_function_must_keep_the_shape() -> None:
    layer = layer_of("lstm")
    x, message = torch.zeros(3, 2, 5, dtype=torch.float64), r"a tensor of shape \[2, 4\], got \[4\]"
    with (
        glassgate.edit(layer, "forget", function=lambda v: v[0]),
        pytest.raises(GlassgateError, match=message),
    ):
        layer(x)
    with pytest.raises(GlassgateError, match="edit: Linear has no glassgate layer"):
        glassgate.edit(nn.Linear(1, 1), "forget", set=1).__enter__()
