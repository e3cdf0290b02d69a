"""Gradients by rows, and an AdamW that visits those in play: beside torch's dense AdamW."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glassgate import GlassgateError
from glassgate.language import optimizer as module
from glassgate.language.optimizer import AdamW
from glassgate.layers import Embedding, FullSoftmax, RowGradient, track

HEIGHT, WIDTH, DECAY, BETAS = 40, 5, 0.1, (0.9, 0.99)
# float64 throughout. Sums over k skipped steps and products of k factors err by some k eps, 1e-14 for 60
# steps; a move is at most about ten rates of 0.05.
ROUNDING = 1e-12
# The epsilon of a row that is caught up is that of another moment: relative to its sqrt(v), at least
# 1e-2 here, it is 1e-12 / 1e-2 = 1e-10 of ten rates of 0.05.
LAGGING = 1e-10
EPSILON = 1e-12


class Pair:
    """A tracked matrix and a bias under our optimiser, and copies of both under torch's."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.ours = {
            "V": nn.Parameter(torch.randn(HEIGHT, WIDTH, dtype=torch.float64)),
            "b": nn.Parameter(torch.randn(HEIGHT, dtype=torch.float64)),
        }
        self.theirs = {name: nn.Parameter(p.detach().clone()) for name, p in self.ours.items()}
        self.gradient = track(self.ours["V"])
        self.optimizer = AdamW(self.ours, DECAY, BETAS, EPSILON)
        groups = [{"params": [self.theirs["V"]]}, {"params": [self.theirs["b"]], "weight_decay": 0.0}]
        self.torch = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, weight_decay=DECAY)

    def step(self, rows: Tensor, rate: float, clip: float, seed: int) -> tuple[float, float]:
        """Give both the same gradient, of V in these rows alone; return both norms."""
        generator = torch.Generator().manual_seed(seed)
        g = torch.randn(len(rows), WIDTH, dtype=torch.float64, generator=generator)
        g = torch.where(g.abs() < 0.1, 0.1, g)  # no sqrt(v) is next to nothing
        c = torch.randn(HEIGHT, dtype=torch.float64, generator=generator)
        self.gradient.read(rows)
        current = self.ours["V"].detach()[rows].clone()
        self.gradient.add(rows, g)
        self.ours["b"].grad = c.clone()
        norm = self.optimizer.step(rate, clip)
        self.theirs["V"].grad = torch.zeros_like(self.theirs["V"]).index_add_(0, rows, g)
        self.theirs["b"].grad = c
        # What a layer that read these rows has seen is what the dense optimiser has there.
        np.testing.assert_allclose(current, self.theirs["V"].detach()[rows], rtol=0, atol=LAGGING)
        dense = float(nn.utils.clip_grad_norm_(self.theirs.values(), clip))
        for group in self.torch.param_groups:
            group["lr"] = rate
        self.torch.step()
        return norm, dense

    def compare(self, tolerance: float) -> None:
        for name, theirs in self.theirs.items():
            np.testing.assert_allclose(
                self.ours[name].detach(), theirs.detach(), rtol=0, atol=tolerance, err_msg=name
            )
            slot, state = self.optimizer.slots[name], self.torch.state[theirs]
            np.testing.assert_allclose(slot.exp_avg, state["exp_avg"], rtol=0, atol=ROUNDING)
            np.testing.assert_allclose(slot.exp_avg_sq, state["exp_avg_sq"], rtol=0, atol=ROUNDING)


def test_with_all_rows_in_play_it_is_torchs_adamw() -> None:
    pair = Pair()
    for step in range(20):
        norm, dense = pair.step(torch.arange(HEIGHT), 0.01 + 0.001 * step, (0.5, 1e9)[step % 2], step)
        assert norm == pytest.approx(dense, rel=1e-14)
    pair.compare(ROUNDING)


def drawn_rows(step: int) -> Tensor:
    """Return rows for a step: row r about every r steps, so that some are left out for long."""
    return torch.tensor([r for r in range(HEIGHT) if (step * 7 + r * r) % (r + 1) == 0])


@pytest.mark.parametrize("horizon", [1024, 8])
def test_rows_left_out_end_where_a_dense_adamw_leads_them(
    monkeypatch: pytest.MonkeyPatch, horizon: int
) -> None:
    monkeypatch.setattr(module, "HORIZON", horizon)
    pair = Pair()
    for step in range(60):
        rate = 0.05 * (1 + np.sin(step)) / 2  # a rate that moves while rows wait
        norm, dense = pair.step(drawn_rows(step), rate, (0.5, 1e9)[step % 2], step)
        assert norm == pytest.approx(dense, rel=1e-14)  # the parts by rows count as they are
    lagging = (pair.ours["V"] - pair.theirs["V"]).detach().abs().max(1).values
    assert bool((lagging > 1e-4).any())  # there was something to catch up with
    pair.optimizer.catch_up()
    pair.compare(LAGGING)
    before = pair.ours["V"].detach().clone()
    pair.optimizer.catch_up()
    assert torch.equal(pair.ours["V"], before)


def test_a_row_never_in_play_decays_and_no_more() -> None:
    pair = Pair()
    start = pair.ours["V"].detach().clone()
    for step in range(5):
        pair.step(torch.tensor([0]), 0.1, 1.0, step)
    pair.optimizer.catch_up()
    np.testing.assert_allclose(pair.ours["V"].detach()[1:], start[1:] * (1 - 0.1 * DECAY) ** 5, rtol=1e-14)


@pytest.mark.parametrize("saved_at", [1, 7, 9])
def test_saved_and_loaded_it_goes_on_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, saved_at: int
) -> None:
    monkeypatch.setattr(module, "HORIZON", 8)
    whole, first, second = Pair(), Pair(), Pair()
    for step in range(20):
        for pair in (whole, first if step < saved_at else second):
            if pair is second and step == saved_at:
                second.optimizer.load_arrays(first.optimizer.arrays())
                for name, parameter in first.ours.items():
                    second.ours[name].data.copy_(parameter.data)
                    second.theirs[name].data.copy_(first.theirs[name].data)
                second.torch.load_state_dict(first.torch.state_dict())
            pair.step(drawn_rows(step), 0.01, 1.0, step)
    arrays = whole.optimizer.arrays()
    for name, found in second.optimizer.arrays().items():
        np.testing.assert_array_equal(found, arrays[name], err_msg=name)
    for name, parameter in whole.ours.items():
        assert torch.equal(second.ours[name], parameter)
    with pytest.raises(ValueError, match=r"^V\.exp_avg has another shape$"):
        second.optimizer.load_arrays({**arrays, "V.exp_avg": np.zeros((HEIGHT + 1, WIDTH))})


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    pair = Pair()
    before = pair.ours["V"].detach().clone()
    pair.gradient.add(torch.tensor([3]), torch.full((1, WIDTH), torch.nan, dtype=torch.float64))
    assert np.isnan(pair.optimizer.step(0.1, 1.0))
    assert torch.equal(pair.ours["V"], before)


def test_a_dense_gradient_on_a_tracked_matrix_counts_too() -> None:
    """Of an operation that knows no rows, beside one that does."""
    pair = Pair()
    V, other = pair.ours["V"], pair.theirs["V"]
    Embedding(HEIGHT, WIDTH)
    for weight in (V, other):
        weight.square().sum().backward()
    pair.gradient.add(torch.tensor([2]), torch.ones(1, WIDTH, dtype=torch.float64))
    assert other.grad is not None
    other.grad[2] += 1
    pair.optimizer.step(0.1, 1e9)
    pair.torch.param_groups[0]["lr"] = 0.1
    pair.torch.step()
    np.testing.assert_allclose(V.detach(), other.detach(), rtol=0, atol=ROUNDING)


def test_rows_are_added_in_any_number_and_order() -> None:
    weight = nn.Parameter(torch.zeros(HEIGHT, WIDTH))
    gradient = track(weight)
    assert track(weight) is gradient
    rows = torch.randint(0, HEIGHT, (5_000,), generator=torch.Generator().manual_seed(0))
    rows = rows[rows % 3 != 1]
    values = torch.randint(-8, 8, (len(rows), WIDTH), generator=torch.Generator().manual_seed(1)).float()
    gradient.values.fill_(torch.nan)  # what lies in rows that are not in play is not read
    for half in (slice(0, 1_000), slice(1_000, None)):
        gradient.add(rows[half], values[half])
    expected = torch.zeros(HEIGHT, WIDTH).index_add_(0, rows, values)
    assert torch.equal(gradient.rows(), rows.unique())  # type: ignore[arg-type]
    assert torch.equal(gradient.values[gradient.rows()], expected[gradient.rows()])  # whole numbers: exact
    gradient.clear()
    assert len(gradient.rows()) == 0  # type: ignore[arg-type]


def losses(count: int) -> tuple[FullSoftmax, RowGradient, list[Any], list[Any]]:
    torch.manual_seed(0)
    output = FullSoftmax(WIDTH, HEIGHT).double()
    inputs = [(torch.randn(7, WIDTH).double(), torch.randint(0, HEIGHT, (7,))) for _ in range(count)]
    expected = [torch.autograd.grad(output.loss(*one, "mean"), output.weight)[0] for one in inputs]
    return output, track(output.weight), inputs, expected


def test_losses_one_after_another_add_up() -> None:
    output, gradient, inputs, expected = losses(3)
    for one, factor in zip(inputs, (1.0, 0.5, 2.0), strict=True):
        (factor * output.loss(*one, "mean")).backward()
    np.testing.assert_allclose(
        gradient.values, expected[0] + 0.5 * expected[1] + 2 * expected[2], rtol=0, atol=1e-14
    )


def test_two_losses_before_a_backward_pass_are_one_line() -> None:
    output, _, inputs, _ = losses(2)
    first = output.loss(*inputs[0], "mean")
    second = output.loss(*inputs[1], "mean")
    second.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(
        GlassgateError, match=r"^loss: with a tracked matrix each loss must be followed by its"
    ):
        first.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (torch.zeros(3), r"^track: must be a dense matrix on the CPU, got \[3\] on cpu$"),
        (torch.zeros(3, 4).t(), r"^track: must be a dense matrix on the CPU, got \[4, 3\] on cpu$"),
        (torch.zeros(3, 4).half(), r"^track: must be of float32 or float64, got torch.float16$"),
    ],
)
def test_what_cannot_be_tracked_is_one_line(parameter: Tensor, message: str) -> None:
    with pytest.raises(GlassgateError, match=message):
        track(nn.Parameter(parameter))


def test_what_cannot_be_moved_is_one_line() -> None:
    with pytest.raises(
        GlassgateError, match=r"^w: must be dense float32 or float64 on the CPU, got torch.bfl"
    ):
        AdamW({"w": nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))}, 0.0)
    gradient = track(nn.Parameter(torch.zeros(3, 4)))
    with pytest.raises(
        GlassgateError, match=r"^track: the gradient must be torch.float32 \[1, 4\], got torch.fl"
    ):
        gradient.add(torch.tensor([1]), torch.zeros(1, 4).double())
