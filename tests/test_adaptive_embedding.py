"""The adaptive embedding, and the adaptive softmax tied to it, against the matrix they stand for."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from glassgate import GlassgateError
from glassgate.layers import AdaptiveEmbedding, AdaptiveSoftmax, track
from glassgate.layers.output import Reduction

EPS = np.finfo(np.float64).eps
WORDS, WIDTH, ROWS = 50, 16, 23
# Numbers are at most 1 and h at most 3. A row of V adds at most 16 products of them, so it is at most 16; a
# logit adds at most 16 products of at most 16 x 3, whichever way it is bracketed. Either sum errs by at
# most 17 eps of its terms' sum: 2 x 17 x 16 x 16 x 3 eps, about 26,000 eps; the softmax and its logarithm
# add a few.
TOLERANCE = 30_000 * EPS
BANDS = [([10, 30], [30], 4.0), ([10, 30], [10, 30], 2.0), ([1, 2, 25, 49], [2, 49], 3.0), ([10], [10], 1.0)]


def pair(
    cutoffs: list[int], narrow: list[int], div_value: float, bias: bool = True, **options: Any
) -> tuple[AdaptiveEmbedding, AdaptiveSoftmax]:
    """Return an embedding and an output tied to it, in float64, all numbers drawn from -1 to 1."""
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(WORDS, WIDTH, narrow, div_value)
    output = AdaptiveSoftmax(WIDTH, WORDS, cutoffs, bias, embedding=embedding, **options)
    with torch.no_grad():
        for parameter in output.parameters():
            parameter.uniform_(-1, 1)
    return embedding.double(), output.double()


def plain(output: AdaptiveSoftmax, embedding: AdaptiveEmbedding, cutoffs: list[int]) -> AdaptiveSoftmax:
    """Return the softmax over one matrix of full width that is the same function."""
    same = AdaptiveSoftmax(WIDTH, WORDS, cutoffs, output.bias is not None).double()
    same.weight = torch.nn.Parameter(embedding.matrix().detach())
    same.clusters.load_state_dict(output.clusters.state_dict())
    if same.bias is not None and output.bias is not None:
        same.bias.data.copy_(output.bias)
    return same


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator).clamp(-3, 3)
    return h, torch.randint(0, WORDS, (ROWS,), generator=generator)


@pytest.mark.parametrize(("cutoffs", "narrow", "div_value"), BANDS)
def test_a_vector_is_that_of_its_band_widened(
    cutoffs: list[int], narrow: list[int], div_value: float
) -> None:
    embedding, _ = pair(cutoffs, narrow, div_value)
    tables = [table.weight.detach().numpy() for table in embedding.tables]  # type: ignore[union-attr, operator]
    expected = [tables[0]]
    for table, projection in zip(tables[1:], embedding.projections, strict=True):
        expected.append(np.einsum("wj,dj->wd", table, projection.weight.detach().numpy()))  # type: ignore[union-attr, operator]
    words = torch.tensor([[49, 0, 30], [29, 9, 10], [0, 31, 2]])
    whole = np.concatenate(expected)
    np.testing.assert_allclose(embedding.matrix().detach(), whole, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embedding(words).detach(), whole[words.numpy()], rtol=0, atol=TOLERANCE)
    widths = [int(WIDTH // div_value**band) for band in range(len(tables))]
    assert [table.shape[1] for table in tables] == widths
    assert embedding(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, WIDTH)


@pytest.mark.parametrize(("cutoffs", "narrow", "div_value"), BANDS)
@pytest.mark.parametrize("tracked", [False, True])
def test_gradients_of_an_embedding_are_those_through_its_matrix(
    cutoffs: list[int], narrow: list[int], div_value: float, tracked: bool
) -> None:
    """Also gathered by rows; words that stand twice count twice."""
    embedding, _ = pair(cutoffs, narrow, div_value)
    words, weights = torch.tensor([49, 3, 30, 3, 12]), torch.randn(5, WIDTH, dtype=torch.float64).clamp(-3, 3)
    parameters = list(embedding.parameters())
    expected = torch.autograd.grad((embedding.matrix()[words] * weights).sum(), parameters)
    gradients = [track(table.weight) if tracked else None for table in embedding.tables]  # type: ignore[arg-type]
    (embedding(words) * weights).sum().backward()
    for parameter, gradient, wanted in zip(
        parameters, [*gradients, *[None] * len(parameters)], expected, strict=False
    ):
        if gradient is None:
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        else:
            assert parameter.grad is None
            found = torch.where(gradient.in_play[:, None] == 1, gradient.values, 0.0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("cutoffs", "narrow", "div_value"), BANDS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_tied_output_is_that_of_the_matrix(
    cutoffs: list[int], narrow: list[int], div_value: float, bias: bool
) -> None:
    embedding, output = pair(cutoffs, narrow, div_value, bias)
    same = plain(output, embedding, cutoffs)
    h, targets = rows()
    for ours, theirs in (
        (output.log_probabilities(h), same.log_probabilities(h)),
        (output.log_probabilities(h[0]), same.log_probabilities(h[0])),
        (output.loss(h, targets), same.loss(h, targets)),
        (output.loss(h, targets, "sum") / ROWS, same.loss(h, targets).mean()),
    ):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("cutoffs", "narrow", "div_value"), BANDS)
@pytest.mark.parametrize("present", ["drawn", "frequent", "rarest"])
def test_the_fused_loss_has_the_gradients_of_the_definition(
    cutoffs: list[int], narrow: list[int], div_value: float, present: str
) -> None:
    """Of h and of every parameter, tables and projections too, also where bands have no target."""
    _, output = pair(cutoffs, narrow, div_value)
    h, targets = rows()
    if present != "drawn":
        targets = torch.full_like(targets, 0 if present == "frequent" else WORDS - 1)
    ways: tuple[Reduction, ...] = ("none", "mean")
    found = []
    for way in ways:
        h = h.detach().requires_grad_()
        loss = output.loss(h, targets).mean() if way == "none" else output.loss(h, targets, way)
        wanted = [h, *output.parameters()]
        got = torch.autograd.grad(3 * loss, wanted, allow_unused=True, materialize_grads=True)
        found.append([loss.detach(), *got])
    for expected, ours in zip(*found, strict=True):
        # A gradient adds 23 rows of products of a probability by 1 / 23, with the error of the loss, and of
        # numbers of at most 16 and 3.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3 * 16 * TOLERANCE)
    assert sum(bool(gradient.abs().max() > 1e-6) for gradient in found[1]) >= 4


def test_gradcheck_of_both_uses() -> None:
    embedding, output = pair([10, 30], [30], 4.0)
    words, targets = torch.tensor([3, 14, 45, 9, 26, 45]), torch.tensor([49, 0, 31, 12, 3, 31])

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = output

        def forward(self) -> Tensor:
            assert self.output.embedding is not None
            return self.output.loss(self.output.embedding(words), targets, "mean")

    tied = Tied()
    parameters = dict(tied.named_parameters())

    def loss(*values: Tensor) -> Any:
        return torch.func.functional_call(tied, dict(zip(parameters, values, strict=True)), ())

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(loss, values)
    assert {id(p) for p in embedding.parameters()} <= {id(p) for p in output.parameters()}


def test_tracked_tables_get_the_gradient_of_both_uses() -> None:
    words, targets = torch.tensor([3, 14, 45, 9, 26, 45]), torch.tensor([49, 0, 31, 2, 3, 31])
    embedding, output = pair([10, 30], [30], 4.0)
    output.loss(embedding(words), targets, "mean").backward()
    expected = [table.weight.grad for table in embedding.tables]
    embedding, output = pair([10, 30], [30], 4.0)
    gradients = [track(table.weight) for table in embedding.tables]  # type: ignore[arg-type]
    output.loss(embedding(words), targets, "mean").backward()
    for gradient, wanted in zip(gradients, expected, strict=True):
        found = torch.where(gradient.in_play[:, None] == 1, gradient.values, 0.0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3 * 16 * TOLERANCE)  # type: ignore[arg-type]
    # The head, and two words that were read of a cluster where no target lies; then a whole cluster.
    assert gradients[0].in_play.nonzero().squeeze(1).tolist() == [*range(10), 14, 26]
    assert gradients[1].rows() is None


def test_equals_torch_with_narrowed_tails() -> None:
    """torch's own adaptive softmax projects h for each cluster: by Q_b transposed."""
    cutoffs = [10, 30]
    embedding, output = pair(cutoffs, cutoffs, 4.0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(WIDTH, WORDS, cutoffs, div_value=4, head_bias=True)
    theirs.double()
    with torch.no_grad():
        assert output.bias is not None
        output.bias[cutoffs[0] :] = 0.0  # torch's clusters have none
        theirs.head.weight.copy_(torch.cat([output.weight, output.clusters.weight]))
        theirs.head.bias.copy_(torch.cat([output.bias[: cutoffs[0]], output.clusters.bias]))
        for tail, table, Q in zip(theirs.tail, [*embedding.tables][1:], embedding.projections, strict=True):
            tail[0].weight.copy_(Q.weight.t())
            tail[1].weight.copy_(table.weight)
    h, targets = rows()
    ours = output.log_probabilities(h).detach()
    np.testing.assert_allclose(ours, theirs.log_prob(h).detach(), rtol=0, atol=TOLERANCE)
    loss = output.loss(h, targets, "mean").detach()
    np.testing.assert_allclose(loss, theirs(h, targets).loss.detach(), rtol=0, atol=TOLERANCE)


def test_autocast_rounds_the_head_alone() -> None:
    """The bits of ``precision="bf16"``; the bands, which have few rows, stay float32."""
    h, targets = (part.float() if part.is_floating_point() else part for part in rows())
    h = h.bfloat16().float()
    found = []
    for precision, active in (("bf16", False), ("fp32", True)):
        _, output = pair([10, 30], [30], 4.0, precision=precision)
        with torch.autocast("cpu", torch.bfloat16, enabled=active):
            loss = output.float().loss(h, targets, "mean")
        found.append([loss.detach(), *torch.autograd.grad(loss, list(output.parameters()))])
    _, output = pair([10, 30], [30], 4.0)
    exact = output.loss(h.double(), targets, "mean").detach()
    assert abs(float(found[0][0] - exact)) > 0
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_an_output_starts_at_the_frequencies() -> None:
    counts = torch.arange(WORDS, 0, -1)
    output = AdaptiveSoftmax(WIDTH, WORDS, [10, 30], embedding=AdaptiveEmbedding(WORDS, WIDTH, [30]))
    output.start_at(counts)
    expected = (counts + 1).double() / (counts + 1).sum()
    found = output.log_probabilities(torch.zeros(2, WIDTH)).exp()
    # A few roundings of logs below 8 in float32, and of their exponentials.
    torch.testing.assert_close(found.double(), expected.expand(2, WORDS), rtol=3e-6, atol=0)


def test_bands_start_with_the_same_variance() -> None:
    """Of 200 x 64 numbers or more; those of a narrow band share 4 factors, so theirs spreads the most.

    x = sum over 4 of Q e. The variance of a row is |Q-row|^2 on average, and its mean over 64 rows of Q of
    4 squares each has a relative standard deviation of sqrt(2 / 256) = 0.09; that of e over 600 x 4 numbers
    0.03. Five of both together: 0.5.
    """
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(1_000, 64, [200, 400])
    for start, stop in pairwise(embedding.bounds):
        assert abs(float(embedding.matrix()[start:stop].detach().var()) - 1) < 0.5


def test_it_starts_as_close_to_given_vectors_as_its_widths_allow() -> None:
    """Within a band nothing is lost of what has its rank, and of the rest no more than must be."""
    generator = torch.Generator().manual_seed(5)
    embedding = AdaptiveEmbedding(WORDS, WIDTH, [10, 30], 4.0).double()
    low = torch.randn(20, 4, dtype=torch.float64, generator=generator)
    axes = torch.randn(4, WIDTH, dtype=torch.float64, generator=generator)
    some = torch.randn(45, WIDTH, dtype=torch.float64, generator=generator)
    some[10:30] = low @ axes
    embedding.start_at(some)
    found = embedding.matrix().detach()
    assert torch.equal(found[:10], some[:10])
    # R^T R has numbers below 1,000 and its axes err by eps of that; sums of 16 products below 10.
    torch.testing.assert_close(found[10:30], some[10:30], rtol=0, atol=1_000 * 16 * 10 * EPS)
    lost = torch.linalg.svdvals(some[30:])[1:].square().sum().sqrt()
    torch.testing.assert_close((found[30:45] - some[30:]).norm(), lost, rtol=1_000 * 16 * 10 * EPS, atol=0)
    tables = [band.E.detach() for band in embedding.factors()]
    for Q in (band.Q for band in embedding.factors() if band.Q is not None):
        torch.testing.assert_close(Q.square().mean(), torch.tensor(1 / Q.shape[1]).double())
    embedding = AdaptiveEmbedding(WORDS, WIDTH, [10, 30], 4.0).double()
    embedding.start_at(some[:10])
    assert torch.equal(embedding.matrix()[:10], tables[0])
    rest = embedding.matrix()[10:].detach()
    embedding.start_at(some[:10])
    assert torch.equal(embedding.matrix()[10:], rest)


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(GlassgateError, match=r"^cutoffs: must rise from above 0 to below 50, got \[\]$"):
        AdaptiveEmbedding(WORDS, WIDTH, [])
    with pytest.raises(GlassgateError, match=r"^cutoffs: must rise .* got \[30, 10\]$"):
        AdaptiveEmbedding(WORDS, WIDTH, [30, 10])
    with pytest.raises(GlassgateError, match=r"^div_value: must be at least 1, got 0.5$"):
        AdaptiveEmbedding(WORDS, WIDTH, [10], 0.5)
    with pytest.raises(GlassgateError, match=r"^div_value: must leave a width .* 3 bands, got 5 for"):
        AdaptiveEmbedding(WORDS, WIDTH, [10, 20], 5)
    embedding = AdaptiveEmbedding(WORDS, WIDTH, [10])
    for width, words, cutoffs in ((WIDTH, WORDS, [20]), (8, WORDS, [10]), (WIDTH, 60, [10])):
        with pytest.raises(GlassgateError, match=r"^embedding: must have .* got 50 words, width 16 and"):
            AdaptiveSoftmax(width, words, cutoffs, embedding=embedding)
