"""Output layers: y = softmax(V h + c) and its exact, cheaper relative for large vocabularies."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from glassgate.errors import GlassgateError

__all__ = ["AdaptiveSoftmax", "FullSoftmax"]


class FullSoftmax(nn.Module):
    """The notes' output: y = softmax(V h + c).

    Parameters
    ----------
    width
        The width of h.
    words
        The size of the vocabulary.
    bias
        Whether there is a c.

    Attributes
    ----------
    weight : Parameter [words, width]
        V. To tie it to an embedding, assign the embedding's weight.
    bias : Parameter [words] or None
        c.

    Examples
    --------
    >>> output = FullSoftmax(20, 100)
    >>> y = output.log_probabilities(torch.zeros(3, 20)).exp()
    >>> torch.allclose(y.sum(-1), torch.ones(3))
    True
    """

    def __init__(self, width: int, words: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(words, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(words)) if bias else None

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """Return -log y[target] for each row: h [M, width], targets [M] -> [M], in nats."""
        return functional.cross_entropy(
            functional.linear(h, self.weight, self.bias), targets, reduction="none"
        )

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Return log y for every word: h [..., width] -> [..., words]."""
        return functional.log_softmax(functional.linear(h, self.weight, self.bias), -1)


class AdaptiveSoftmax(nn.Module):
    r"""An exact softmax in two steps for words numbered from the most frequent down.

    The head is a softmax over the words below the first cutoff and one entry for each cluster of
    rarer words; within a cluster stands a softmax over its words:

    .. code-block:: text

        p(word) = p_head(word)                             a frequent word
        p(word) = p_head(cluster) * p_cluster(word)        a rare one

    Probabilities are exact and sum to one. In training a rare cluster is computed for the rows
    alone whose target lies in it. All words share one matrix V of full width, so that it can be tied
    to an embedding; tails are not narrowed.

    Parameters
    ----------
    width
        The width of h.
    words
        The size of the vocabulary.
    cutoffs
        Where the head ends and each further cluster begins, rising, above 0 and below ``words``.
    bias
        Whether there are biases.

    Raises
    ------
    GlassgateError
        When the cutoffs do not rise from above 0 to below ``words``.

    References
    ----------
    Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv:1609.04309.

    Examples
    --------
    >>> output = AdaptiveSoftmax(8, 50, [10, 30])
    >>> h = torch.randn(3, 8)
    >>> y = output.log_probabilities(h).exp()
    >>> torch.allclose(y.sum(-1), torch.ones(3))
    True
    """

    def __init__(self, width: int, words: int, cutoffs: Sequence[int], bias: bool = True) -> None:
        super().__init__()
        bounds = [0, *cutoffs, words]
        sizes = [end - start for start, end in pairwise(bounds)]
        if len(sizes) < 2 or min(sizes) < 1:
            raise GlassgateError(f"cutoffs: must rise from above 0 to below {words}, got {list(cutoffs)}")
        self.sizes = sizes
        self.bounds = bounds
        self.weight = nn.Parameter(torch.empty(words, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(words)) if bias else None
        self.clusters = nn.Linear(width, len(cutoffs), bias)

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """Return -log p(target) for each row: h [M, width], targets [M] -> [M], in nats."""
        # One split has one backward pass; slices would each fill a gradient of the whole matrix.
        weights, biases = self._split()
        first = self.bounds[1]
        clusters = torch.bucketize(
            targets, torch.tensor(self.bounds[1:-1], device=targets.device), right=True
        )
        entries = torch.where(clusters == 0, targets, first + clusters - 1)
        loss = functional.cross_entropy(self._head(h, weights[0], biases[0]), entries, reduction="none")
        for number in range(1, len(self.sizes)):
            rows = (clusters == number).nonzero().squeeze(1)
            if len(rows):
                logits = functional.linear(h[rows], weights[number], biases[number])
                inner = targets[rows] - self.bounds[number]
                loss = loss.index_add(0, rows, functional.cross_entropy(logits, inner, reduction="none"))
        return loss

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Return log p for every word: h [..., width] -> [..., words]."""
        weights, biases = self._split()
        head = functional.log_softmax(self._head(h, weights[0], biases[0]), -1)
        parts = [head[..., : self.bounds[1]]]
        for number in range(1, len(self.sizes)):
            logits = functional.linear(h, weights[number], biases[number])
            entry = self.bounds[1] + number - 1
            parts.append(functional.log_softmax(logits, -1) + head[..., entry : entry + 1])
        return torch.cat(parts, -1)

    def _split(self) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        biases = [None] * len(self.sizes) if self.bias is None else torch.split(self.bias, self.sizes)
        return torch.split(self.weight, self.sizes), biases

    def _head(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        entries = torch.cat([weight, self.clusters.weight])
        return functional.linear(h, entries, None if bias is None else torch.cat([bias, self.clusters.bias]))
