"""Edits: how they are written and checked, and what the kernels make of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edited_by_hand import edited_definition, edits_of, kind_of
from glassgate import GlassgateError, kernels
from glassgate.edit_tables import Table, compile_edits
from glassgate.edits import Edit, Target, for_layers, parse_edit
from glassgate.trace import NAMES, Chunk, LayerTrace, Trace
from kernel_cases import CELLS, Case, cases, make


def run(case: Case, table: Table | None, **changes: Any) -> dict[str, Any]:
    """All gates and states by name, and the final states, from the kernels."""
    options = {"lengths": case.lengths, "resets": case.resets, "reverse": case.reverse} | changes
    if case.cell == "lstm":
        y: Any = kernels.PackedLSTM(*case.weights).forward(
            case.x, case.h0, case.c0, save=True, edits=table, **options
        )
        return {name: y.gates[:, :, k] for k, name in enumerate(NAMES["lstm"][:4])} | {
            "cell": y.cell, "hidden": y.hidden, "h_n": y.h_n, "c_n": y.c_n
        }  # fmt: skip
    reset: Any = case.cell.removeprefix("gru-")
    y = kernels.PackedGRU(*case.weights, reset=reset).forward(
        case.x, case.h0, save=True, edits=table, **options
    )
    keys = ("reset", "z", "candidate")
    return {k: y.gates[:, :, n] for n, k in enumerate(keys)} | {"hidden": y.hidden, "h_n": y.h_n}


def compiled(case: Case, edits: list[Edit], dtype: Any = np.float64) -> Table | None:
    (T, N, _), H = case.x.shape, case.weights[1].shape[1]
    kind = kind_of(case)
    own = for_layers(edits, {"l0": Target(kind, H, H)}).get("l0", [])
    return compile_edits(own, kind, T, N, H, dtype, case.lengths)


@settings(max_examples=250)
@given(st.data())
def test_the_kernels_against_the_equations_with_the_same_edits(data: st.DataObject) -> None:
    case = data.draw(cases(largest=20))
    edits = data.draw(edits_of(case))
    want = edited_definition(case, edits)
    got = run(case, compiled(case, edits))
    if case.cell != "lstm":
        active = np.arange(len(case.x))[:, None] < (len(case.x) if case.lengths is None else case.lengths)
        got["update"] = (1 - got.pop("z")) * active[:, :, None]
    for name, values in got.items():
        # A step rounds some 60 sums of numbers of size 10 (3e-14 at worst); six factors of 2, the weights and
        # seven steps let that grow; it stays far below 1e-9, where a wrong edit shows at 1e-2.
        np.testing.assert_allclose(values, want[name], rtol=1e-9, atol=1e-9, err_msg=name)


def neutral(case: Case, dtype: Any) -> Table:
    (T, N, _), H = case.x.shape, case.weights[1].shape[1]
    rows = np.zeros((T, N, len(NAMES[kind_of(case)])), np.int32)
    table = np.array([1, -0.0, -np.inf, np.inf], dtype)[None, :, None].repeat(H, 2)
    return Table(rows, table)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_units_that_are_not_edited_keep_every_bit(cell: str, dtype: Any) -> None:
    """Also those that share a vector with edited ones."""
    case = make(cell, 5, 7, 6, 21, dtype=dtype, bias=True, lengths=True)
    plain, same = run(case, None), run(case, neutral(case, dtype))
    for name, values in plain.items():
        assert values.tobytes() == same[name].tobytes(), name
    last = {"lstm": "output"}.get(cell, "candidate")  # of the last step, which no other unit reads
    one = run(case, compiled(case, [Edit(last, set=0.125, units=[4], steps=slice(-1, None))], dtype))
    others = np.arange(21) != 4
    for name, values in plain.items():
        assert values[..., others].tobytes() == one[name][..., others].tobytes(), name
    for n, length in enumerate(case.lengths):
        if length:
            assert one[last][length - 1, n, 4] == 0.125


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_negative_zero_stays_negative(dtype: Any) -> None:
    """Half of the smallest number below zero is -0.0; and -0.0 + 0.0 would be 0.0."""
    zero = np.zeros((4 * 21, 1), dtype)
    tiny = np.full((1, 21), -np.finfo(dtype).smallest_subnormal)
    weights = zero, np.zeros((4 * 21, 21), dtype), None, None
    case = Case("lstm", weights, np.zeros((1, 1, 1), dtype), None, tiny, None, None, False)
    plain, same = run(case, None)["cell"], run(case, neutral(case, dtype))["cell"]
    one = run(case, compiled(case, [Edit("cell", add=1, units=[4])], dtype))["cell"]
    assert np.signbit(plain).all()
    assert not plain.any()
    assert np.signbit(same).all()
    assert np.signbit(one).sum() == 20
    assert one[0, 0, 4] == 1


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_by_any_number_of_threads_and_for_each_sequence_alone(cell: str) -> None:
    case = make(cell, 6, 9, 5, 40, dtype=np.float32, bias=True, state=True, lengths=True)
    edits = [
        Edit("candidate", scale=0.5, steps=slice(-2, None)),
        Edit("hidden", add=0.25, units=range(5, 30)),
        Edit("candidate", clamp=(-0.1, 0.1)),
    ]
    whole = run(case, compiled(case, edits, np.float32))
    with kernels.using_threads(1):
        for name, values in run(case, compiled(case, edits, np.float32)).items():
            assert values.tobytes() == whole[name].tobytes(), name
    for n, length in enumerate(case.lengths.tolist()):
        alone = case._replace(
            x=case.x[:length, n : n + 1],
            lengths=None,
            h0=case.h0[n : n + 1],
            c0=None if case.c0 is None else case.c0[n : n + 1],
        )
        for name, values in run(alone, compiled(alone, edits, np.float32)).items():
            part = whole[name][n : n + 1] if name in ("h_n", "c_n") else whole[name][:length, n : n + 1]
            np.testing.assert_array_equal(values, part, err_msg=name)


def test_what_does_nothing_has_no_table() -> None:
    case = make("lstm", 4, 1, 2, 3)
    idle = [
        Edit("forget", scale=1),
        Edit("forget", add=np.zeros(3)),
        Edit("cell", clamp=(-np.inf, np.inf)),
        Edit("output", set=9, units=[]),
        Edit("output", set=9, steps=slice(4, None)),
    ]
    assert compiled(case, idle) is None


def test_a_stream_counts_on() -> None:
    case = make("lstm", 8, 1, 2, 3)
    edits = [Edit("forget", scale=0.5, steps=slice(3, None, 2)), Edit("cell", set=1.0, steps=slice(6))]
    whole = compiled(case, edits)
    parts = [compile_edits(edits, "lstm", 4, 1, 3, np.float64, first=first) for first in (0, 4)]
    assert whole is not None
    at = [[None if row < 0 else t.edits[row].tolist() for row in t.rows.ravel()] for t in (whole, *parts)]  # type: ignore[union-attr]
    assert at[0] == at[1] + at[2]
    with pytest.raises(GlassgateError, match="a stream has no end to count from"):
        compile_edits([Edit("cell", set=1.0, steps=slice(-1, None))], "lstm", 4, 1, 3, np.float64, first=0)


def corpus() -> Trace:
    rng = np.random.default_rng(0)
    layer = LayerTrace("l0", "gru")
    active = np.array([[True, True], [True, False]])
    gates = rng.uniform(0, 1, (2, 2, 3, 4)) * active[..., None, None]
    layer.add(Chunk(rng.normal(size=(2, 2, 4)) * active[..., None], gates, None, active))
    return Trace({"l0": layer})


def test_mean_and_resample_take_the_steps_that_count() -> None:
    target, recorded = {"l0": Target("gru", 4, 4)}, corpus()
    steps = recorded["l0"].rows("update")
    assert steps.shape == (3, 4)
    mean = for_layers([Edit("update", mean=recorded, units=[1, 3])], target)["l0"][0]
    np.testing.assert_array_equal(mean.set, steps.mean(0)[[1, 3]])
    table = compile_edits(
        for_layers([Edit("update", resample=recorded, seed=3)], target)["l0"], "gru", 50, 2, 4, float
    )
    assert table is not None
    drawn = 1 - table.edits[table.rows[..., 1].ravel(), 2]  # the kernels keep 1 - update
    # 1 - (1 - u) rounds twice, numbers of at most 1: 2^-53 each.
    nearest = np.abs(drawn[:, None] - steps).max(2)
    assert (nearest.min(1) < 2.3e-16).all()
    assert set(nearest.argmin(1).tolist()) == {0, 1, 2}


def test_a_layer_may_be_replaced_from_a_trace() -> None:
    target, recorded = {"l0": Target("gru", 4, 4)}, corpus()
    for value in (recorded, recorded["l0"], recorded["l0"].reset, recorded["l0"].reset.tolist()):
        edit = for_layers([Edit("reset", replace=value)], target)["l0"][0]
        np.testing.assert_array_equal(edit.replace, recorded["l0"].reset)


@pytest.mark.parametrize(
    ("gate", "change", "message"),
    [
        ("forgot", {"set": 1}, "the gates and states are input, forget, candidate, .*, got 'forgot'"),
        ("forget", {}, "exactly one of set, .* expected, got none"),
        ("forget", {"set": 1, "add": 2}, "exactly one of set, .* expected, got set, add"),
        ("forget", {"set": np.nan}, "set must be finite numbers, got nan"),
        ("forget", {"set": np.full((9, 9), np.inf)}, r"finite numbers, got array\(\[\[inf, inf, .*\.\.\.$"),
        ("forget", {"scale": "x"}, "numbers expected, got 'x'"),
        ("forget", {"clamp": (1, 0)}, r"clamp must be \(low, high\) with low <= high, got \(1, 0\)"),
        ("forget", {"clamp": (1, 2, 3)}, "clamp must be"),
        ("forget", {"set": 1, "units": [1, -2]}, "units must be different whole numbers from 0 on"),
        ("forget", {"clamp": 0.5}, r"clamp must be \(low, high\) with low <= high, got 0\.5"),
        ("forget", {"set": 1, "units": 3}, "units must be different whole numbers from 0 on, got 3"),
        ("forget", {"set": 1, "units": [1, 1]}, "units must be different"),
        ("forget", {"set": 1, "steps": [1]}, r"steps must be a slice, got \[1\]"),
        ("forget", {"set": 1, "steps": slice(4, 0, -1)}, "that goes forward"),
        ("forget", {"function": 3}, "function must be callable, got int"),
    ],
)
def test_what_is_no_edit(gate: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(GlassgateError, match=message):
        Edit(gate, **change)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("forget", set=1, layer="l7"), "edit of forget: the layers are l0, l1, got 'l7'"),
        (
            Edit("reset", set=1),
            "edit of reset: there is input, forget, candidate, output, cell, hidden",
        ),
        (Edit("forget", set=1, units=[2, 4]), "units must be from 0 to 3 in l0, got 4"),
        (Edit("forget", set=[1, 2, 3]), r"set must be a number or 4 in l0, got shape \[3\]"),
        (Edit("forget", set=[1, 2], units=[0]), r"set must be a number or 1 in l0, got shape \[2\]"),
        (Edit("forget", replace=np.zeros((2, 3))), r"replace must have shape \[T, 4\] or \[T, N, 4\] for l0"),
        (Edit("forget", replace=["x"]), "replace must be numbers for l0, got <U1"),
        (Edit("forget", mean=np.zeros((0, 4))), r"mean must have shape \[..., 4\] for l0, got \[0, 4\]"),
        ("forget", "edits: glassgate.edits.Edit expected, got str"),
    ],
)
def test_what_does_not_fit_the_layers(edit: Any, message: str) -> None:
    with pytest.raises(GlassgateError, match=message):
        for_layers([edit], {"l0": Target("lstm", 4, 4), "l1": Target("lstm", 4, 4)})


def test_what_does_not_fit_the_call() -> None:
    case = make("lstm", 5, 2, 2, 3)
    for shape, message in (((5, 3, 3), "1 or 2 sequences, got 3"), ((4, 2, 3), "has 4 steps, fewer than")):
        with pytest.raises(GlassgateError, match=message):
            compiled(case, [Edit("forget", replace=np.zeros(shape))])
    with pytest.raises(GlassgateError, match="a function is called by torch's layers only"):
        compiled(case, [Edit("forget", function=abs)])
    with pytest.raises(GlassgateError, match="a table of 5 steps and 2 sequences expected"):
        run(case, Table(np.zeros((4, 2, 6), np.int32), np.zeros((1, 4, 3))))
    with pytest.raises(ValueError, match="edit_rows: names a row that is not there"):
        run(case, Table(np.full((5, 2, 6), 1, np.int32), np.zeros((1, 4, 3))))


def test_edits_as_they_are_written() -> None:
    assert parse_edit("forget=0.5") == Edit("forget", set=0.5)
    assert parse_edit("forget = 1/2") == Edit("forget", set=0.5)
    assert parse_edit("l0.forget[3,7]=1") == Edit("forget", set=1.0, units=[3, 7], layer="l0")
    assert parse_edit("encoder.rnn.l1_reverse.cell[0]*=-1e-1").layer == "encoder.rnn.l1_reverse"
    assert parse_edit("forget*=0.5") == Edit("forget", scale=0.5)
    assert parse_edit("cell+=0.25") == Edit("cell", add=0.25)
    for text in ("forget", "forget=", "forget=x", "forget[a]=1", "forget[]=1", "forget-=1", "forget=1/0", ""):
        with pytest.raises(GlassgateError, match=r"--set: expected forget=0\.5"):
            parse_edit(text)
    with pytest.raises(GlassgateError, match="got 'forgot'"):
        parse_edit("forgot=1")
