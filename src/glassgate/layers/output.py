"""Output layers: y = softmax(V h + c) and its exact, cheaper relative for large vocabularies."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from glassgate.errors import GlassgateError
from glassgate.layers.fused import Layout, fused_loss, has_kernel
from glassgate.layers.recurrent import Precision

__all__ = ["AdaptiveSoftmax", "FullSoftmax", "Reduction"]

Reduction: TypeAlias = Literal["none", "mean", "sum"]


def _autocast(weight: Tensor) -> bool:
    """Tell whether an autocast asks for products of bfloat16, where the fused path computes."""
    active = weight.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return active and torch.get_autocast_dtype("cpu") == torch.bfloat16 and weight.dtype == torch.float32


class _Output(nn.Module):
    """What both have in common: V, c, and how a loss is asked for."""

    def __init__(
        self, width: int, words: int, cutoffs: Sequence[int], bias: bool, precision: Precision
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise GlassgateError(f"precision: must be fp32 or bf16, got {precision!r}")
        self.weight = nn.Parameter(torch.empty(words, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(words)) if bias else None
        self.layout = Layout((0, *cutoffs, words), bf16=precision == "bf16")
        self.clusters: nn.Linear | None = None

    def loss(self, h: Tensor, targets: Tensor, reduction: Reduction = "none") -> Tensor:
        """Return -log y[target] in nats.

        ``"mean"`` and ``"sum"`` over the rows are what training wants: linear layer, softmax and
        cross-entropy are one function there, which holds the logits of a few rows at a time and has
        the gradients when it returns; it can be differentiated once. ``"none"``, a loss for each row,
        is made of plain torch operations: it holds all logits, takes any gradient on the rows, and can
        be differentiated as often as one likes. So are the others on another device than the CPU.

        Parameters
        ----------
        h : Tensor [M, width]
            What V multiplies.
        targets : Tensor of int64 [M]
            Word numbers.
        reduction
            ``"none"``, ``"mean"`` or ``"sum"``.

        Returns
        -------
        Tensor
            [M] with ``"none"``, else a scalar.

        Raises
        ------
        GlassgateError
            Shapes or dtypes do not fit, or a target is no word's number.
        """
        words, width = self.weight.shape
        if h.dim() != 2 or h.shape[1] != width or targets.shape != h.shape[:1]:
            raise GlassgateError(
                f"loss: h must have shape [M, {width}] and targets [M], got {list(h.shape)} and "
                f"{list(targets.shape)}"
            )
        if targets.dtype != torch.int64:
            raise GlassgateError(f"loss: targets must be of torch.int64, got {targets.dtype}")
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < words:
            raise GlassgateError(
                f"loss: targets must be from 0 to {words - 1}, "
                f"got {int(targets.min())} to {int(targets.max())}"
            )
        if reduction not in get_args(Reduction):
            raise GlassgateError(f"loss: reduction must be none, mean or sum, got {reduction!r}")
        layout = self.layout
        if _autocast(self.weight):
            layout, h = layout._replace(bf16=True), h.float()
        if reduction == "none" or not has_kernel(h, self.weight):
            losses = self._losses(h, targets)
            return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
        clusters = (None, None) if self.clusters is None else (self.clusters.weight, self.clusters.bias)
        return fused_loss(h, self.weight, self.bias, targets, layout, reduction == "mean", *clusters)

    def start_at(self, counts: Tensor) -> None:
        """Set c so that words have their frequencies in a text where V h is 0, as in a new network.

        c = log p, p = (count + 1) / sum of (count + 1); in an adaptive softmax c of a cluster is the log of
        its words' share, and c within it the log of a word's share in the cluster. Training need not learn
        then which words are frequent.

        Parameters
        ----------
        counts : Tensor of int [words]
            How often each word stands in the text.

        Raises
        ------
        GlassgateError
            There is no c, or not one count for each word.

        Examples
        --------
        >>> output = FullSoftmax(4, 3)
        >>> output.start_at(torch.tensor([5, 1, 0]))
        >>> output.bias.exp()
        tensor([0.6667, 0.2222, 0.1111], grad_fn=<ExpBackward0>)
        """
        if self.bias is None or counts.shape != self.bias.shape:
            came = "no bias" if self.bias is None else f"{list(counts.shape)} for {len(self.bias)} words"
            raise GlassgateError(f"start_at: needs a bias and a count for each word, got {came}")
        bounds, logs = self.layout.bounds, (counts.double() + 1).log()
        shares = [part.logsumexp(0) for part in torch.split(logs, [b - a for a, b in pairwise(bounds)])]
        with torch.no_grad():
            for (start, stop), share in zip(pairwise(bounds), shares, strict=True):
                self.bias[start:stop] = logs[start:stop] - (
                    share if start else torch.stack(shares).logsumexp(0)
                )
            if self.clusters is not None:
                self.clusters.bias.copy_(torch.stack(shares[1:]) - torch.stack(shares).logsumexp(0))

    def _losses(self, h: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError


class FullSoftmax(_Output):
    """The notes' output: y = softmax(V h + c).

    Parameters
    ----------
    width
        The width of h.
    words
        The size of the vocabulary.
    bias
        Whether there is a c.
    precision
        ``"bf16"`` rounds the factors and the results of the products in ``loss(..., "mean")`` and
        ``"sum"`` to bfloat16; weights, softmax and sums stay float32. So does ``torch.autocast("cpu")``.

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

    def __init__(self, width: int, words: int, bias: bool = True, *, precision: Precision = "fp32") -> None:
        super().__init__(width, words, (), bias, precision)

    def _losses(self, h: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            functional.linear(h, self.weight, self.bias), targets, reduction="none"
        )

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Return log y for every word: h [..., width] -> [..., words]."""
        return functional.log_softmax(functional.linear(h, self.weight, self.bias), -1)


class AdaptiveSoftmax(_Output):
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
    precision
        As for `FullSoftmax`, but for the products of the rare clusters, which have few rows.

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

    def __init__(
        self,
        width: int,
        words: int,
        cutoffs: Sequence[int],
        bias: bool = True,
        *,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(width, words, cutoffs, bias, precision)
        bounds = [0, *cutoffs, words]
        sizes = [end - start for start, end in pairwise(bounds)]
        if len(sizes) < 2 or min(sizes) < 1:
            raise GlassgateError(f"cutoffs: must rise from above 0 to below {words}, got {list(cutoffs)}")
        self.sizes = sizes
        self.bounds = bounds
        self.clusters: nn.Linear = nn.Linear(width, len(cutoffs), bias)

    def _losses(self, h: Tensor, targets: Tensor) -> Tensor:
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
