"""The GRU layer: the equations, in both forms."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glassgate import GlassgateError
from glassgate.equations import from_torch_layout, run_gru
from glassgate.layers import GRU

# Each pre-activation adds at most 60 products of at most 2 (weights below 0.5, inputs below 4), an error
# of 60 x 2 x 60 eps = 7,200 eps in any order; gates keep it below that (their slopes are at most 1), and
# the state, a mean of old and new, passes on what came before: 7 steps, 3 layers.
TOLERANCE = 7 * 3 * 7_200 * np.finfo(np.float64).eps


def layer(**options: Any) -> GRU:
    torch.manual_seed(5)
    gru = GRU(6, 5, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.uniform_(-0.5, 0.5)
    return gru


def sequence(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6)).clamp(-4, 4)


def by_equations(gru: GRU, x: Any, hx: Any) -> tuple[Any, Any]:
    """Run x [T, N, 6] from hx [layers x directions, N, 5] through the notes' equations."""
    last = []
    for number in range(gru.num_layers):
        outputs = []
        for direction in range(2 if gru.bidirectional else 1):
            suffix = f"_l{number}" + "_reverse" * direction
            names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: 4 if gru.bias else 2]
            arrays = [gru.get_parameter(name + suffix).detach().numpy() for name in names]
            notes = from_torch_layout(*arrays, reset=gru.reset)
            steps = run_gru(x[::-1] if direction else x, hx[len(last)], **notes)
            last.append(steps.h[-1])
            outputs.append(steps.h[::-1] if direction else steps.h)
        x = np.concatenate(outputs, -1)
    return x, np.stack(last)


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("given_state", [False, True])
def test_equals_the_equations(
    reset: str, num_layers: int, bidirectional: bool, bias: bool, given_state: bool
) -> None:
    gru = layer(reset=reset, num_layers=num_layers, bidirectional=bidirectional, bias=bias)
    x = sequence(7, 4, 6)
    states = num_layers * (1 + bidirectional)
    hx = sequence(states, 4, 5) if given_state else None
    h, last = gru(x, hx)
    start = np.zeros((states, 4, 5)) if hx is None else hx.numpy()
    expected, expected_last = by_equations(gru, x.numpy(), start)
    np.testing.assert_allclose(h.detach(), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(last.detach(), expected_last, rtol=0, atol=TOLERANCE)


def test_the_two_forms_are_different_functions() -> None:
    before, after = layer(reset="before"), layer(reset="after")
    assert float((before(sequence(7, 4, 6))[0] - after(sequence(7, 4, 6))[0]).detach().abs().max()) > 0.01


@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first_and_unbatched_are_the_same_run(bidirectional: bool) -> None:
    options: dict[str, Any] = {"reset": "before", "num_layers": 2, "bidirectional": bidirectional}
    x, hx = sequence(7, 4, 6), sequence(2 * (1 + bidirectional), 4, 5)
    h, last = layer(**options)(x, hx)
    h_first, last_first = layer(**options, batch_first=True)(x.transpose(0, 1), hx)
    assert torch.equal(h_first, h.transpose(0, 1))
    assert torch.equal(last_first, last)
    for batch_first in (False, True):  # which means nothing without a batch
        h_one, last_one = layer(**options, batch_first=batch_first)(x[:, 2], hx[:, 2])
        assert torch.equal(h_one, h[:, 2])
        assert torch.equal(last_one, last[:, 2])


def test_a_sequence_in_two_pieces_is_the_same_run() -> None:
    gru, x = layer(reset="before", num_layers=2), sequence(7, 4, 6)
    h, last = gru(x)
    first, middle = gru(x[:3])
    second, end = gru(x[3:], middle)
    assert torch.equal(torch.cat([first, second]), h)
    assert torch.equal(end, last)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_finite_differences(bias: bool) -> None:
    gru = layer(reset="before", num_layers=2, bidirectional=True, bias=bias)
    names, weights = zip(*gru.named_parameters(), strict=True)

    def run(x: Tensor, hx: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(gru, dict(zip(names, values, strict=True)), (x, hx))

    inputs = [sequence(3, 2, 6).requires_grad_(), sequence(4, 2, 5).requires_grad_()]
    # Central differences of step 1e-6 err by 1e-12 times a third derivative, and by eps / 1e-6 = 2e-10
    # of rounding: torch's default bounds, 1e-5 and 1e-3 of the value, leave room for both.
    assert torch.autograd.gradcheck(run, [*inputs, *weights], fast_mode=True)


def test_both_forms_are_drawn_alike_and_share_names() -> None:
    torch.manual_seed(8)
    before = GRU(6, 5, 2, reset="before").state_dict()
    torch.manual_seed(8)
    after = nn.GRU(6, 5, 2).state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_dropout_acts_between_layers_in_training_alone() -> None:
    gru, x = layer(reset="before", num_layers=2, dropout=0.5), sequence(7, 4, 6)
    torch.manual_seed(1)
    first = gru(x)[0]
    torch.manual_seed(1)
    assert torch.equal(gru(x)[0], first)  # the mask is drawn from torch's generator
    assert not torch.equal(gru(x)[0], first)
    gru.eval()
    undropped = layer(reset="before", num_layers=2)
    assert torch.equal(gru(x)[0], undropped(x)[0])
    single = layer(reset="before")
    single.dropout = 0.9  # above the last layer there is none
    assert torch.equal(single(x)[0], layer(reset="before")(x)[0])


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(GlassgateError, match=r"^reset: must be before or after, got 'never'$"):
        GRU(6, 5, reset="never")  # type: ignore[arg-type]
    gru = layer(reset="before", num_layers=2)
    for shape in [(7, 4, 3), (6,), (2, 7, 4, 6)]:
        with pytest.raises(GlassgateError, match=r"^GRU: the input must have shape \[.*6\], got \["):
            gru(sequence(*shape))
    # One state for four rows would be broadcast, were it not refused.
    for state in [(2, 1, 5), (1, 4, 5), (2, 4, 4), (2, 5)]:
        with pytest.raises(GlassgateError, match=r"^GRU: h_0 must have shape \[2, 4, 5\], got \["):
            gru(sequence(7, 4, 6), sequence(*state))
    with pytest.raises(GlassgateError, match=r"^GRU: h_0 must have shape \[2, 5\], got \[2, 1, 5\]$"):
        gru(sequence(7, 6), sequence(2, 1, 5))
