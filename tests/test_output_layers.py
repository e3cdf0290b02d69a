"""FullSoftmax and AdaptiveSoftmax against the equations, against torch and against themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glassgate import GlassgateError, equations
from glassgate.layers import AdaptiveSoftmax, FullSoftmax

EPS = np.finfo(np.float64).eps
# A logit here adds at most 32 products of numbers of at most 3 and 1: an error of at most 33 x 3 x 32 eps
# in any order of summation, about 3,200 eps; the softmax and its logarithm add a few. Twice that.
TOLERANCE = 6_400 * EPS


def adaptive(width: int, words: int, cutoffs: list[int], bias: bool = True, seed: int = 0) -> AdaptiveSoftmax:
    """Return a layer in float64 with weights and biases drawn from -1 to 1."""
    layer = AdaptiveSoftmax(width, words, cutoffs, bias).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    return layer


def inputs(rows: int, width: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, dtype=torch.float64, generator=generator).clamp(-3, 3)


def all_targets(words: int) -> Tensor:
    return torch.arange(words)


SHAPES = [(8, 50, [10, 30]), (5, 20, [1]), (5, 20, [19]), (4, 9, [1, 2, 3]), (32, 300, [50, 100, 200])]


@st.composite
def cut(draw: st.DrawFn) -> tuple[int, int, list[int], bool, int]:
    words = draw(st.integers(2, 60))
    cutoffs = draw(st.lists(st.integers(1, words - 1), min_size=1, max_size=4, unique=True))
    return draw(st.integers(1, 32)), words, sorted(cutoffs), draw(st.booleans()), draw(st.integers(0, 999))


@settings(max_examples=40, deadline=None)
@given(cut())
def test_probabilities_sum_to_one(drawn: tuple[int, int, list[int], bool, int]) -> None:
    width, words, cutoffs, bias, seed = drawn
    layer = adaptive(width, words, cutoffs, bias, seed)
    y = layer.log_probabilities(inputs(5, width, seed)).exp()
    assert y.shape == (5, words)
    assert bool((y > 0).all())
    np.testing.assert_allclose(y.sum(-1).detach(), 1.0, rtol=0, atol=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(cut())
def test_an_adaptive_probability_is_that_of_its_cluster_times_that_within(
    drawn: tuple[int, int, list[int], bool, int],
) -> None:
    """Each softmax of the definition is equations.output, of the head and of each cluster."""
    width, words, cutoffs, bias, seed = drawn
    layer = adaptive(width, words, cutoffs, bias, seed)
    h = inputs(3, width, seed).numpy()
    V = layer.weight.detach().numpy()
    c = np.zeros(words) if layer.bias is None else layer.bias.detach().numpy()
    clusters = layer.clusters.weight.detach().numpy()
    c_clusters = np.zeros(len(clusters)) if layer.bias is None else layer.clusters.bias.detach().numpy()
    first = cutoffs[0]
    head = equations.output(h, np.concatenate([V[:first], clusters]), np.concatenate([c[:first], c_clusters]))
    expected = [head[:, :first]]
    for number, (start, stop) in enumerate(zip(cutoffs, [*cutoffs[1:], words], strict=True)):
        within = equations.output(h, V[start:stop], c[start:stop])
        expected.append(head[:, first + number, None] * within)
    found = layer.log_probabilities(torch.from_numpy(h)).exp().detach().numpy()
    # Relative to a probability the error of its logarithm counts, that of two softmaxes: twice.
    np.testing.assert_allclose(found, np.concatenate(expected, -1), rtol=2 * TOLERANCE, atol=0)


@pytest.mark.parametrize(("width", "words", "cutoffs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_loss_is_minus_the_log_probability_of_the_target(
    width: int, words: int, cutoffs: list[int], bias: bool
) -> None:
    layer, h, targets = adaptive(width, words, cutoffs, bias), inputs(words, width), all_targets(words)
    expected = -layer.log_probabilities(h)[targets, targets]
    np.testing.assert_allclose(layer.loss(h, targets).detach(), expected.detach(), rtol=0, atol=2 * TOLERANCE)


@pytest.mark.parametrize(("width", "words", "cutoffs"), SHAPES)
@pytest.mark.parametrize("present", ["all", "frequent", "rarest"])
def test_gradients_of_the_loss_are_those_through_log_probabilities(
    width: int, words: int, cutoffs: list[int], present: str
) -> None:
    """Of h and of every parameter, also where no target lies in some of the clusters.

    A gradient sums over at most 300 rows products of a probability, with the error of the loss, and a
    number of at most 3.
    """
    layer = adaptive(width, words, cutoffs)
    targets = {
        "all": all_targets(words).flip(0),
        "frequent": torch.zeros(7, dtype=torch.int64),
        "rarest": torch.full((7,), words - 1),
    }[present]
    scale = torch.linspace(0.5, 1.5, len(targets), dtype=torch.float64)  # rows must not be mixed up
    gradients = []
    for through_loss in (True, False):
        h = inputs(len(targets), width).requires_grad_()
        if through_loss:
            losses = layer.loss(h, targets)
        else:
            losses = -layer.log_probabilities(h).gather(1, targets[:, None]).squeeze(1)
        gradients.append(torch.autograd.grad((losses * scale).sum(), [h, *layer.parameters()]))
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=300 * 3 * TOLERANCE)
        assert bool(expected.abs().max() > 1e-6)


@pytest.mark.parametrize(("width", "words", "cutoffs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch_with_tails_of_full_width(
    width: int, words: int, cutoffs: list[int], bias: bool
) -> None:
    """torch projects each cluster's input first; with the identity there both are the same function."""
    layer = adaptive(width, words, cutoffs, bias)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(width, words, cutoffs, div_value=1, head_bias=bias).double()
    bounds = [*cutoffs, words]
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat([layer.weight[: cutoffs[0]], layer.clusters.weight]))
        if layer.bias is not None:
            layer.bias[cutoffs[0] :] = 0.0  # torch's clusters have none
            theirs.head.bias.copy_(torch.cat([layer.bias[: cutoffs[0]], layer.clusters.bias]))
        for tail, start, stop in zip(theirs.tail, bounds, bounds[1:], strict=False):
            tail[0].weight.copy_(torch.eye(width))
            tail[1].weight.copy_(layer.weight[start:stop])
    h, targets = inputs(words, width), all_targets(words)
    np.testing.assert_allclose(
        layer.log_probabilities(h).detach(), theirs.log_prob(h).detach(), rtol=0, atol=2 * TOLERANCE
    )
    np.testing.assert_allclose(
        layer.loss(h, targets).detach(), -theirs(h, targets).output.detach(), rtol=0, atol=2 * TOLERANCE
    )


def test_leading_axes_are_a_batch() -> None:
    layer, h = adaptive(8, 50, [10, 30]), inputs(6, 8)
    for output in (layer, FullSoftmax(8, 50).double()):
        flat = output.log_probabilities(h)
        torch.testing.assert_close(
            output.log_probabilities(h.view(2, 3, 8)), flat.view(2, 3, 50), rtol=0, atol=TOLERANCE
        )
        torch.testing.assert_close(output.log_probabilities(h[0]), flat[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("bias", [True, False])
def test_full_softmax_is_the_equations_output(bias: bool) -> None:
    layer = FullSoftmax(8, 50, bias).double()
    assert (layer.bias is not None) == bias
    if layer.bias is not None:
        torch.nn.init.uniform_(layer.bias.data, -1, 1)
    h = inputs(50, 8)
    c = None if layer.bias is None else layer.bias.detach().numpy()
    expected = equations.output(h.numpy(), layer.weight.detach().numpy(), c)
    np.testing.assert_allclose(
        layer.log_probabilities(h).exp().detach(), expected, rtol=2 * TOLERANCE, atol=0
    )
    targets = all_targets(50)
    own = -np.log(expected[targets, targets])
    np.testing.assert_allclose(layer.loss(h, targets).detach(), own, rtol=0, atol=2 * TOLERANCE)


@pytest.mark.parametrize("full", [True, False])
def test_a_tied_matrix_gets_the_gradient_of_both_uses(full: bool) -> None:
    """As embedding and as V: the sum of what two separate matrices of the same values get."""

    def gradient(tied: bool) -> Tensor:
        torch.manual_seed(3)
        embedding = torch.nn.Embedding(50, 8).double()
        layer = FullSoftmax(8, 50).double() if full else adaptive(8, 50, [10, 30])
        if tied:
            layer.weight = embedding.weight
        else:
            layer.weight = torch.nn.Parameter(embedding.weight.detach().clone())
        words = torch.tensor([3, 14, 15, 9, 26, 5, 35, 49])
        layer.loss(embedding(words), words.flip(0)).sum().backward()  # type: ignore[no-untyped-call]
        assert embedding.weight.grad is not None
        assert layer.weight.grad is not None
        return embedding.weight.grad if tied else embedding.weight.grad + layer.weight.grad

    # 8 rows of products of a probability and a number of at most 4.
    np.testing.assert_allclose(gradient(tied=True), gradient(tied=False), rtol=0, atol=8 * 4 * TOLERANCE)


def test_without_bias_there_is_none_anywhere() -> None:
    assert {name for name, _ in AdaptiveSoftmax(8, 50, [10], bias=False).named_parameters()} == {
        "weight",
        "clusters.weight",
    }
    assert {name for name, _ in AdaptiveSoftmax(8, 50, [10]).named_parameters()} == {
        "weight",
        "bias",
        "clusters.weight",
        "clusters.bias",
    }


@pytest.mark.parametrize("cutoffs", [[], [0], [50], [60], [10, 10], [30, 10], [-1, 10], [10, 50]])
def test_cutoffs_that_do_not_rise_are_refused(cutoffs: list[int]) -> None:
    with pytest.raises(GlassgateError, match=r"^cutoffs: must rise from above 0 to below 50, got \["):
        AdaptiveSoftmax(8, 50, cutoffs)


@pytest.mark.parametrize("cutoffs", [(), (3,), (2, 5, 9)])
def test_an_output_starts_at_the_frequencies(cutoffs: tuple[int, ...]) -> None:
    counts = torch.tensor([40, 30, 20, 9, 9, 5, 3, 1, 0, 0, 0, 0])
    output = AdaptiveSoftmax(4, 12, cutoffs) if cutoffs else FullSoftmax(4, 12)
    output.start_at(counts)
    expected = (counts + 1).double() / (counts + 1).sum()
    found = output.log_probabilities(torch.zeros(2, 4)).exp()
    # A few roundings of logs below 5 in float32, and of their exponentials.
    torch.testing.assert_close(found.double(), expected.expand(2, 12), rtol=2e-6, atol=0)


def test_frequencies_must_fit() -> None:
    with pytest.raises(GlassgateError, match=r"^start_at: needs a bias .* got no bias$"):
        FullSoftmax(4, 12, bias=False).start_at(torch.ones(12))
    with pytest.raises(GlassgateError, match=r"^start_at: .* got \[11\] for 12 words$"):
        FullSoftmax(4, 12).start_at(torch.ones(11))
