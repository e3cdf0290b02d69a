"""The fused loss: one function for linear layer, softmax and cross-entropy, its gradients taken forward."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glassgate import GlassgateError
from glassgate.kernels import _native, using_threads
from glassgate.layers import AdaptiveSoftmax, Embedding, FullSoftmax, track
from glassgate.layers.output import Reduction

EPS = np.finfo(np.float64).eps
# As in test_output_layers.py: a logit adds at most 32 products of numbers of at most 3 and 1.
TOLERANCE = 6_400 * EPS
WORDS, WIDTH, ROWS = 50, 8, 23
CUTOFFS: list[list[int]] = [[], [10, 30], [1], [49], [1, 2, 3, 25]]


def layer(
    cutoffs: list[int], bias: bool = True, dtype: torch.dtype = torch.float64, **options: Any
) -> FullSoftmax | AdaptiveSoftmax:
    """Return a layer with weights and biases from -1 to 1; full where there are no cutoffs."""
    torch.manual_seed(0)
    if cutoffs:
        made: FullSoftmax | AdaptiveSoftmax = AdaptiveSoftmax(WIDTH, WORDS, cutoffs, bias, **options)
    else:
        made = FullSoftmax(WIDTH, WORDS, bias, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-1, 1)
    return made.to(dtype)


def rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator).clamp(-3, 3).to(dtype)
    return h, torch.randint(0, WORDS, (ROWS,), generator=generator)


def gradients(made: Any, h: Tensor, targets: Tensor, reduction: Reduction, factor: float = 1.0) -> list[Any]:
    """Return the loss and its gradients on h and every parameter, by the fused path or through the rows'."""
    h = h.clone().requires_grad_()
    loss = made.loss(h, targets).mean() if reduction == "none" else made.loss(h, targets, reduction)
    got = torch.autograd.grad(loss * factor, [h, *made.parameters()])
    return [loss.detach(), *got]


@pytest.mark.parametrize("cutoffs", CUTOFFS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("present", ["drawn", "frequent", "rarest"])
def test_loss_and_gradients_are_those_of_the_definition(cutoffs: list[int], bias: bool, present: str) -> None:
    """The losses row by row are held against the equations in test_output_layers.py; here their mean."""
    made = layer(cutoffs, bias)
    h, targets = rows()
    if present != "drawn":
        targets = torch.full_like(targets, 0 if present == "frequent" else WORDS - 1)
    expected = gradients(made, h, targets, "none", factor=3.0)
    for found, wanted in zip(gradients(made, h, targets, "mean", factor=3.0), expected, strict=True):
        # A gradient adds at most 23 rows of products of a probability and a number of at most 3.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3 * 3 * TOLERANCE)
    total = made.loss(h, targets, "sum").detach()
    np.testing.assert_allclose(total, ROWS * expected[0], rtol=0, atol=ROWS * TOLERANCE)


@pytest.mark.parametrize("cutoffs", CUTOFFS)
def test_gradcheck(cutoffs: list[int]) -> None:
    made = layer(cutoffs)
    h, targets = rows()
    parameters = dict(made.named_parameters())

    def loss(h: Tensor, *values: Tensor) -> Any:
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(
            Loss(made), {f"layer.{name}": value for name, value in named.items()}, (h, targets)
        )

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(loss, (h.requires_grad_(), *values))


class Loss(torch.nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor, targets: Tensor) -> Any:
        return self.layer.loss(h, targets, "mean")


@pytest.mark.parametrize("cutoffs", CUTOFFS)
@pytest.mark.parametrize("chunk", [1, WORDS, 3 * WORDS, 7 * WORDS + 5])
def test_how_many_logits_are_held_changes_nothing(cutoffs: list[int], chunk: int) -> None:
    made = layer(cutoffs)
    expected = gradients(made, *rows(), "mean")
    made.layout = made.layout._replace(chunk=chunk)
    for found, wanted in zip(gradients(made, *rows(), "mean"), expected, strict=True):
        # Sums over the rows in another order.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3 * TOLERANCE)


@pytest.mark.parametrize("cutoffs", CUTOFFS)
def test_float32_errs_no_more_than_plain_float32(cutoffs: list[int]) -> None:
    exact = gradients(layer(cutoffs), *rows(), "mean")
    single = layer(cutoffs, dtype=torch.float32)
    plain, fused = (gradients(single, *rows(torch.float32), way) for way in ("none", "mean"))  # type: ignore[arg-type]
    for true, theirs, ours in zip(exact, plain, fused, strict=True):
        error = float((theirs - true).abs().max())
        # Twice the error of torch's own operations; of a single number that may be 0 by chance, so two
        # units in the last place of the largest value are always allowed.
        least = 2 * float(np.finfo(np.float32).eps) * float(true.abs().max())
        assert float((ours - true).abs().max()) <= max(2 * error, least)


@pytest.mark.parametrize("block", [4096, 20])
@pytest.mark.parametrize("cutoffs", [[], [10, 30]])
def test_bf16_rounds_the_factors_of_the_products_and_their_results(
    cutoffs: list[int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are kept below 2, so that what rounding does to them stays small beside a wrong factor."""
    monkeypatch.setattr("glassgate.layers.fused.BLOCK", block)  # one for all words, or several
    found = []
    for dtype, precision in ((torch.float64, "fp32"), (torch.float32, "bf16")):
        made = layer(cutoffs, dtype=dtype, precision=precision)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.div_(12)
        found.append(gradients(made, *rows(dtype), "mean"))
    # A bfloat16 has 8 bits: 2^-9 of relative error. A logit, at most 8 x 3 / 12 in size, takes three
    # roundings: 2 x 3 x 2^-9 = 0.012, and a loss has two such. The clusters' own products are in float32.
    (exact, *gradients_64), (loss, *gradients_16) = found
    assert 0 < float((loss - exact).abs()) < 0.024
    for ours, true in zip(gradients_16, gradients_64, strict=True):
        # A probability errs by 0.024 of itself, a factor and a result by 2^-9 each: by 0.03 of the sum of
        # what is added up, and the largest gradient is at least a third of that here.
        assert 0 < float((ours - true).abs().max()) < 0.09 * float(true.abs().max())
        assert ours.dtype == torch.float32


@pytest.mark.parametrize("cutoffs", [[], [10, 30]])
def test_autocast_is_bf16(cutoffs: list[int]) -> None:
    """The same bits as precision="bf16", with rows that are bfloat16 themselves too."""
    h, targets = rows(torch.float32)
    h = h.bfloat16().float()
    expected = gradients(layer(cutoffs, dtype=torch.float32, precision="bf16"), h, targets, "mean")
    for given in (h, h.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients(layer(cutoffs, dtype=torch.float32), given, targets, "mean")
        torch.testing.assert_close(found[1].float(), expected[1].to(given.dtype).float(), rtol=0, atol=0)
        for ours, theirs in zip(found[:1] + found[2:], expected[:1] + expected[2:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("cutoffs", [[], [10, 30]])
def test_logits_of_any_size(cutoffs: list[int]) -> None:
    """exp of 30,000 is beyond all numbers; the largest logit is taken off before."""
    made = layer(cutoffs, bias=False, dtype=torch.float32)
    h, targets = rows(torch.float32)
    expected = gradients(made.double(), 1e4 * h.double(), targets, "none")
    found = gradients(made.float(), 1e4 * h, targets, "mean")
    for ours, true in zip(found, expected, strict=True):
        assert bool(torch.isfinite(ours).all())
        # Logits of at most 24e4 err by 8 x 2^-24 of that, 0.11: so do losses, and gradients in proportion.
        np.testing.assert_allclose(ours, true, rtol=0, atol=0.25 * float(true.abs().max()))
    h[3] = torch.nan
    assert bool(torch.isnan(made.loss(h, targets, "mean")))


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_logits_of_all_rows_are_never_held() -> None:
    words, width, count = 3_000, 16, 400
    made = FullSoftmax(width, words)
    made.layout = made.layout._replace(chunk=50_000)
    h, targets = torch.randn(count, width, requires_grad=True), torch.randint(0, words, (count,))
    with Largest() as plain:
        made.loss(h, targets).mean().backward()  # type: ignore[no-untyped-call]
    assert plain.elements == count * words
    with Largest() as fused:
        made.loss(h, targets, "mean").backward()  # type: ignore[no-untyped-call]
    # 25 chunks of 16 rows, and V's gradient, which is as large here.
    assert fused.elements == 16 * words


@pytest.mark.parametrize("cutoffs", [[], [10, 30]])
@pytest.mark.parametrize("rows_of", [True, False])
def test_a_tied_matrix_gets_the_gradient_of_both_uses(cutoffs: list[int], rows_of: bool) -> None:
    """Tracked by rows or not: what two separate matrices of the same values get, added up."""
    words = torch.tensor([3, 14, 15, 9, 26, 5, 35, 49, 3])
    made, embedding = layer(cutoffs), Embedding(WORDS, WIDTH).double()
    embedding.weight = torch.nn.Parameter(made.weight.detach().clone())
    made.loss(embedding(words), words.flip(0), "mean").backward()  # type: ignore[no-untyped-call]
    assert made.weight.grad is not None
    assert embedding.weight.grad is not None
    expected = made.weight.grad + embedding.weight.grad
    tied = layer(cutoffs)
    embedding.weight = tied.weight
    if rows_of:
        gradient = track(tied.weight)
    tied.loss(embedding(words), words.flip(0), "mean").backward()  # type: ignore[no-untyped-call]
    if rows_of:
        assert tied.weight.grad is None
        found = torch.where(gradient.in_play[:, None] == 1, gradient.values, 0.0)
    else:
        assert tied.weight.grad is not None
        found = tied.weight.grad
    np.testing.assert_allclose(found, expected, rtol=0, atol=9 * 4 * TOLERANCE)


def test_frozen_parameters_and_inputs_get_no_gradient() -> None:
    for cutoffs in ([], [10, 30]):
        made, (h, targets) = layer(cutoffs), rows()
        expected = gradients(made, h, targets, "mean")[1]
        made.requires_grad_(False)
        h.requires_grad_()
        made.loss(h, targets, "mean").backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is None for parameter in made.parameters())
        np.testing.assert_array_equal(h.grad, expected)
        with torch.no_grad():
            assert not made.loss(h, targets, "mean").requires_grad


def test_no_rows() -> None:
    made = layer([10, 30])
    nothing = torch.zeros(0, WIDTH, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    assert made.loss(*nothing, "sum").item() == 0.0
    assert bool(torch.isnan(made.loss(*nothing, "mean")))  # as torch's own mean of nothing


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h, t: (h[:, :5], t),
            r"^loss: h must have shape \[M, 8\] and targets \[M\], got \[23, 5\] and",
        ),
        (
            lambda h, t: (h, t[:5]),
            r"^loss: h must have shape \[M, 8\] and targets \[M\], got \[23, 8\] and \[5\]",
        ),
        (lambda h, t: (h, t.int()), r"^loss: targets must be of torch.int64, got torch.int32$"),
        (lambda h, t: (h, t + 50), r"^loss: targets must be from 0 to 49, got 5\d to \d\d$"),
        (lambda h, t: (h, t - 50), r"^loss: targets must be from 0 to 49, got -\d\d to -\d+$"),
    ],
)
def test_what_does_not_fit_is_one_line(reduction: Reduction, change: Any, message: str) -> None:
    with pytest.raises(GlassgateError, match=message):
        layer([10, 30]).loss(*change(*rows()), reduction)


def test_unknown_words_of_choice_are_one_line() -> None:
    with pytest.raises(GlassgateError, match=r"^loss: reduction must be none, mean or sum, got 'average'$"):
        layer([]).loss(*rows(), "average")  # type: ignore[arg-type]
    with pytest.raises(GlassgateError, match=r"^precision: must be fp32 or bf16, got 'half'$"):
        FullSoftmax(8, 50, precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "entries"), [(1, 1), (3, 7), (5, 64), (40, 997), (2, 40_001)])
@pytest.mark.parametrize("bias", [True, False])
def test_rounded_logits_are_widened_row_by_row_and_nothing_else(count: int, entries: int, bias: bool) -> None:
    """The very loss and the rounded gradient of the float32 kernel, on any number of threads."""
    generator = torch.Generator().manual_seed(count)
    logits = (4 * torch.randn(count, entries, generator=generator)).bfloat16()
    targets = torch.randint(0, entries, (count,), generator=generator)
    c = torch.randn(entries, generator=generator) if bias else None
    at = None if c is None else c.data_ptr()
    wide, loss = logits.float(), torch.empty(count)
    place, losses = wide.data_ptr(), loss.data_ptr()
    _native.softmax_loss(False, count, entries, entries, place, at, targets.data_ptr(), 0.25, losses)
    expected = wide.bfloat16()
    d_bias = torch.ones(entries)
    for row in expected:
        d_bias += row.float()
    for threads in (1, 2, 3):
        found, own, sums = logits.clone(), torch.empty(count), torch.ones(entries)
        with using_threads(threads):
            place, losses = found.data_ptr(), own.data_ptr()
            numbers = targets.data_ptr(), 0.25, losses, sums.data_ptr()
            _native.rounded_softmax_loss(count, entries, place, at, *numbers)
        assert torch.equal(own, loss)
        assert torch.equal(found, expected)
        assert torch.equal(sums, d_bias)
