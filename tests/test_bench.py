"""The benchmark's own arithmetic: operations, turns, medians, ratios, aims. No test depends on a time."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from statistics import geometric_mean
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glassgate import GlassgateError
from glassgate.bench import timing
from glassgate.bench.checks import WrongResultError, compare, tolerance
from glassgate.bench.loops import LOOPS, gru_before_loop, lstm_loop
from glassgate.bench.report import Report, Row
from glassgate.bench.timing import Timed, in_turns, trial
from glassgate.bench.works import SHAPES, STEPS, WORKS, Shape, Work, parse_shapes, parse_works
from glassgate.equations import from_torch_layout, run_gru, run_lstm

EPS = np.finfo(np.float64).eps
SHAPE = Shape(7, 3, 4, 5)


def double(cell: str) -> nn.Module:
    torch.manual_seed(2)
    return (nn.LSTM if cell == "lstm" else nn.GRU)(SHAPE.I, SHAPE.H).double()


@pytest.mark.parametrize("cell", ["lstm", "gru-before"])
def test_operations_are_those_that_torch_counts(cell: str) -> None:
    """The loop's products, counted one by one as they happen, forward and backward."""
    module = double(cell)
    x = torch.randn(*SHAPE[:3], dtype=torch.float64, requires_grad=True)
    work = {"lstm": ("lstm-inference", "lstm-training"), "gru-before": ("gru-inference", "gru-training")}[
        cell
    ]
    with FlopCounterMode(display=False) as counter:
        y, _ = LOOPS[cell](module, x)
    assert counter.get_total_flops() == WORKS[work[0]].flops(SHAPE, SHAPE.T * SHAPE.N)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    # The first state is a constant: its gradient, one product for a step of each sequence, is not asked for.
    gates = 4 if cell == "lstm" else 3
    first = 2 * SHAPE.N * gates * SHAPE.H * SHAPE.H
    if cell == "gru-before":  # r h of that step has a gradient, for r's sake
        first -= 2 * SHAPE.N * SHAPE.H * SHAPE.H
    both = counter.get_total_flops() + backward.get_total_flops() + first
    assert both == WORKS[work[1]].flops(SHAPE, SHAPE.T * SHAPE.N)


def test_the_loops_are_the_equations() -> None:
    """Float64; sums of 9 products below 1 in another order, over 7 steps of a contraction: 9 x 7 x 4 eps."""
    x = torch.randn(*SHAPE[:3], dtype=torch.float64)
    zeros = np.zeros((SHAPE.N, SHAPE.H))
    atol = 9 * 7 * 4 * EPS
    lstm = double("lstm")
    notes = from_torch_layout(*(p.detach().numpy() for p in lstm.parameters()))
    steps: Any = run_lstm(x.numpy(), zeros, zeros, **notes)
    y, seen = lstm_loop(lstm, x)
    np.testing.assert_allclose(y.detach(), steps.h, rtol=0, atol=atol)
    for name, letter in {"input": "i", "forget": "f", "candidate": "g", "output": "o", "cell": "C"}.items():
        got = torch.stack([step[name] for step in seen]).detach()
        np.testing.assert_allclose(got, getattr(steps, letter), rtol=0, atol=atol)
    gru = double("gru-before")
    notes = from_torch_layout(*(p.detach().numpy() for p in gru.parameters()), reset="before")
    steps = run_gru(x.numpy(), zeros, **notes)
    y, seen = gru_before_loop(gru, x)
    np.testing.assert_allclose(y.detach(), steps.h, rtol=0, atol=atol)
    for name, want in {"reset": steps.r, "update": 1 - steps.u, "candidate": steps.g}.items():
        got = torch.stack([step[name] for step in seen]).detach()
        np.testing.assert_allclose(got, want, rtol=0, atol=atol)


class Machine:
    """A clock that only its calls move."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.log += name
            self.now += next(seconds)

        return run


def always(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def test_calls_take_turns_and_the_median_counts() -> None:
    machine = Machine()
    # A warm-up, one trial since a tenth of a second is long for that, and four rounds; one is disturbed.
    ours = machine.call("o", iter([0.2, 0.1, 0.1, 7.0, 0.2, 0.3]))
    peer = machine.call("p", iter([0.2, 0.2, 0.5, 0.3, 0.6, 0.3]))
    times = in_turns(ours, {"peer": peer}, seconds=9.0, clock=machine)
    assert machine.log == "oopp" + "op" * 4  # after three rounds 8.7 s have gone, after four 9.3
    assert times == {"ours": Timed(pytest.approx(0.25), 4), "peer": Timed(pytest.approx(0.4), 4)}


def test_there_are_three_rounds_however_slow() -> None:
    machine = Machine()
    times = in_turns(machine.call("o", always(50.0)), {"peer": machine.call("p", always(60.0))}, 0.0, machine)
    assert machine.log == 3 * "op"  # the trial is the first of them
    assert times == {"ours": Timed(50.0, 3), "peer": Timed(60.0, 3)}


def test_short_calls_are_repeated_and_counted_singly() -> None:
    machine = Machine()
    times = in_turns(
        machine.call("o", always(2.0**-12)), {"peer": machine.call("p", always(2.0**-9))}, 0.0, machine
    )
    # 2^-9 s is a block of its own; of 2^-12 s there are nine in two milliseconds.
    assert machine.log == 6 * "o" + 6 * "p" + 3 * ("o" * 9 + "pp")
    assert times == {"ours": Timed(2.0**-12, 3), "peer": Timed(2.0**-9, 3)}


def test_a_form_of_the_peer_without_a_chance_is_left_at_its_trial() -> None:
    machine = Machine()
    calls = {"a": machine.call("a", always(1.0)), "b": machine.call("b", always(4.0))}
    times = in_turns(machine.call("o", always(30.0)), calls, 0.0, machine)
    assert machine.log == "oab" + 2 * "oa"  # ours is measured however slow it is
    assert times == {"ours": Timed(30.0, 3), "a": Timed(1.0, 3), "b": Timed(4.0, 1)}


def test_a_yardstick_takes_turns_and_drops_no_form() -> None:
    machine = Machine()
    beside = {"y": machine.call("y", always(1.0))}
    calls = {"a": machine.call("a", always(4.0)), "b": machine.call("b", always(11.0))}
    times = in_turns(machine.call("o", always(30.0)), calls, 0.0, machine, beside)
    assert machine.log == 3 * "oaby"  # 11 is less than three times the fastest form's 4
    assert times["y"] == Timed(1.0, 3)


def test_a_disturbed_trial_drops_no_form() -> None:
    machine = Machine()
    assert trial(machine.call("a", iter([0.25, 0.04, 0.004, 0.5])), machine) == pytest.approx(0.004)
    assert machine.log == "aaaa"


def test_garbage_is_collected_again_afterwards() -> None:
    assert timing.gc.isenabled()

    def wrong() -> None:
        assert not timing.gc.isenabled()
        raise ValueError("told")

    with pytest.raises(ValueError, match="told"):
        in_turns(wrong, {}, 0.0)
    assert timing.gc.isenabled()


def row(work: str, shape: Shape, ours: float, peer: float) -> Row:
    forms = {"slow form": Timed(2 * peer, 3), "fast form": Timed(peer, 3)}
    flops = WORKS[work].flops(shape, shape.T * shape.N)
    return Row(WORKS[work], shape, Timed(ours, 3), "fast form", forms, flops, 1e-7, 1e-5)


def test_ratio_speed_and_share() -> None:
    one = row("lstm-training", Shape(10, 5, 30, 20), ours=0.001, peer=0.003)
    # 3 passes x 2 operations x 50 steps x 4 gates x 20 units x 50 inputs and units = 1,200,000 in 1 ms.
    assert one.flops == 1_200_000
    assert one.ratio == pytest.approx(3.0)
    assert one.gflops == pytest.approx(1.2)
    told = one.as_dict(200.0)
    assert told["share_of_sgemm"] == pytest.approx(0.006)
    assert told["ms"] == pytest.approx(1.0)
    assert told["peer_ms"] == pytest.approx(3.0)
    assert told["peer_forms"]["slow form"] == {"ms": pytest.approx(6.0), "rounds": 3}
    assert told["shape"] == {"T": 10, "N": 5, "I": 30, "H": 20}


def test_a_share_is_of_the_product_that_took_turns() -> None:
    one = row("lstm-training", Shape(100, 64, 512, 512), ours=1.0, peer=1.8)
    beside = dataclasses.replace(one, product=50.0)
    assert beside.share(200.0) == beside.as_dict(200.0)["share_of_sgemm"] == pytest.approx(one.gflops / 50)
    assert one.share(200.0) == pytest.approx(one.gflops / 200)
    (share,) = [a for a in Report([beside], [], {}, 2, 200.0, False).aims() if a.of.endswith("product")]
    assert share.measured == pytest.approx(one.gflops / 50)


def test_aims_are_means_and_smallest_ratios() -> None:
    small, large = SHAPES[0], Shape(100, 64, 512, 512)
    rows = [
        row("lstm-training", small, 1.0, 4.0),
        row("lstm-training", large, 2.0, 1.8),
        row("gru-training", small, 1.0, 1.3),
        row("lstm-gates", small, 1.0, 0.5),
    ]
    report = Report(rows, ["skipped"], {}, 2, 200.0, False)
    aims = {aim.of: aim for aim in report.aims()}
    mean = aims["lstm-training / torch.nn, geometric mean"]
    assert (mean.measured, mean.asked, mean.met) == (pytest.approx(geometric_mean([4.0, 0.9])), 1.6, True)
    least = aims["lstm-training / torch.nn, smallest"]
    assert (least.measured, least.asked, least.met) == (pytest.approx(0.9), 1.0, False)
    assert least.where == "100x64x512x512"
    share = aims["lstm-training, share of the matrix product"]  # of the large shape alone
    assert (share.measured, share.asked, share.met) == (pytest.approx(rows[1].gflops / 200), 0.85, False)
    assert aims["gru-training / torch.nn, smallest"].met is True  # 1.3 asked and reached
    assert aims["lstm-gates / Python loop, smallest"].met is None
    assert "gru-training, share of the matrix product" not in aims
    assert report.as_dict()["aims"] == [aim.as_dict() for aim in report.aims()]


def test_losses_are_told_as_plainly_as_the_rest() -> None:
    rows = [row("lstm-training", SHAPES[0], 1.0, 4.0), row("lstm-training", SHAPES[1], 2.0, 1.8)]
    told = list(Report(rows, ["why it was skipped"], {}, 2, 200.0, False, seconds=3.0).tail())
    assert told[1:3] == ["slower than the peer: 1 of 2 rows", "  0.90  lstm-training 35x20x10x20, fast form"]
    assert any("smallest" in text and "0.90" in text and "NOT MET" in text for text in told)
    assert told[-2] == "why it was skipped"
    assert told[-1] == "3 s"


def test_every_work_has_the_shapes_that_fit_it() -> None:
    large = {Shape(100, 64, 512, 512), Shape(70, 80, 400, 1150), Shape(50, 16, 2048, 2048)}
    for work in WORKS.values():
        full, quick = work.shapes(None, False), work.shapes(None, True)
        assert set(quick) <= set(full)
        assert quick
        if work.steps:
            assert full == STEPS
        elif work.task == "gates":
            assert full == quick == tuple(shape for shape in SHAPES if shape not in large)
        elif work.task == "bf16":
            assert full == tuple(shape for shape in SHAPES if shape.H >= 512)
        else:
            assert full == SHAPES
    step, tall = Shape(1, 1, 9, 9), Shape(3, 1, 9, 600)
    given = (step, tall)
    assert WORKS["lstm-step-ort"].shapes(given, False) == (step,)
    assert WORKS["lstm-bf16"].shapes(given, False) == (tall,)
    assert WORKS["lstm-training"].shapes((SHAPES[7],), True) == (SHAPES[7],)  # what is asked for is measured


@pytest.mark.parametrize(
    "text", ["", "35", "1x2x3", "1x2x3x4x5", "1x2x3x0", "1x2xx4", "ax2x3x4", "1x2x3x-4", "²x2x3x4"]
)
def test_a_shape_that_is_none_is_told(text: str) -> None:
    with pytest.raises(GlassgateError, match=r"^--shapes: expected TxNxIxH, as 35x20x650x650, .* got '"):
        parse_shapes(text)
    assert parse_shapes("1x2x3x4, 5x6x7x8") == (Shape(1, 2, 3, 4), Shape(5, 6, 7, 8))


def test_a_work_that_is_none_is_told() -> None:
    with pytest.raises(GlassgateError, match=r"^--work: expected some of lstm-training, .*; got 'lstm'$"):
        parse_works("gru-training,lstm")
    assert parse_works("gru-training, lstm-ragged") == (WORKS["gru-training"], WORKS["lstm-ragged"])


def test_compare_tells_what_differs() -> None:
    want = {"h": torch.tensor([1.0, -4.0]), "zero": torch.zeros(2)}

    def got(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**copy.deepcopy(want), **changed}

    assert compare(got(), want, 0.0) == 0.0
    assert compare(got(h=torch.tensor([1.0, -4.5])), want, 0.125) == 0.125  # of the largest value, 4
    for wrong in (
        got(h=torch.tensor([1.0, -4.5])),
        got(h=torch.tensor([1.0, math.nan])),
        got(h=torch.tensor([math.inf, -4.0])),
        got(zero=torch.tensor([0.0, 1.0])),
        got(h=torch.ones(1)),
        got(more=torch.ones(1)),
        {"h": want["h"]},
    ):
        with pytest.raises(WrongResultError):
            compare(wrong, want, 0.12)


def test_tolerances_lie_above_rounding_and_below_mistakes() -> None:
    """Float32 rounding of the layers here is 3e-6 at most; a wrong result is off by 1e-3 or more."""
    for shape in (*SHAPES, *STEPS):
        assert 3e-6 < tolerance(shape) < 1e-4
        assert tolerance(shape, sides=1) == tolerance(shape) / 2
        assert 2**-8 < tolerance(shape, bf16=True) < 2**-4


def test_the_works_aim_at_nothing_by_accident() -> None:
    for name, work in WORKS.items():
        assert isinstance(work, Work)
        assert work.name == name
        assert work.least is None or work.mean is not None
        assert work.least is None or work.least < work.mean
