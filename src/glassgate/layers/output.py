"""Output layers: y = softmax(V h + c) and its exact, cheaper relative for large vocabularies."""

from collections.abc import Sequence
from itertools import pairwise
from math import nan
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from glassgate.errors import GlassgateError
from glassgate.layers.adaptive_embedding import AdaptiveEmbedding, bands
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
        self,
        width: int,
        words: int,
        cutoffs: Sequence[int],
        bias: bool,
        precision: Precision,
        weight: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise GlassgateError(f"precision: must be fp32 or bf16, got {precision!r}")
        if weight is None:
            weight = nn.Parameter(torch.empty(words, width).uniform_(-(width**-0.5), width**-0.5))
        self.width, self.words = width, words
        self.weight = weight
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
        words = self.words
        if h.dim() != 2 or h.shape[1] != self.width or targets.shape != h.shape[:1]:
            raise GlassgateError(
                f"loss: h must have shape [M, {self.width}] and targets [M], got {list(h.shape)} and "
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
        scale = 1.0 if reduction == "sum" else 1 / len(h) if len(h) else nan
        with torch.autocast("cpu", enabled=False):  # it has had its way: the layout says what is rounded
            return self._fused(h, targets, layout, scale)

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

    def _fused(self, h: Tensor, targets: Tensor, layout: Layout, scale: float) -> Tensor:
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

    def _fused(self, h: Tensor, targets: Tensor, layout: Layout, scale: float) -> Tensor:
        return fused_loss(h, self.weight, self.bias, targets, layout, scale)

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
    alone whose target lies in it. All words share one matrix V of full width, which can be tied to an
    embedding; or V is the matrix of an `AdaptiveEmbedding`, narrower for rarer words:

    .. code-block:: text

        V h = E_b (Q_b^T h)                                the words of band b of the embedding

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
    embedding
        What to tie V to, if it is adaptive; its cutoffs must be among these. (To tie it to a plain one,
        assign that one's weight.)

    Attributes
    ----------
    weight : Parameter [words, width]
        V; tied to an adaptive embedding the part of its first band, its most frequent words.
    bias : Parameter [words] or None
        c.
    clusters : torch.nn.Linear
        The head's entries for the clusters.

    Raises
    ------
    GlassgateError
        When the cutoffs do not rise from above 0 to below ``words``, or the embedding does not fit.

    References
    ----------
    Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv:1609.04309; the adaptive
    embedding: Baevski and Auli 2019, arXiv:1809.10853.

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
        embedding: AdaptiveEmbedding | None = None,
    ) -> None:
        self.bounds = bands(words, cutoffs)
        if embedding is not None:
            came = (embedding.num_embeddings, embedding.embedding_dim)
            if came != (words, width) or not set(embedding.bounds) <= set(self.bounds):
                raise GlassgateError(
                    f"embedding: must have {words} words, width {width} and cutoffs among {list(cutoffs)}, "
                    f"got {came[0]} words, width {came[1]} and cutoffs {embedding.bounds[1:-1]}"
                )
        weight = None if embedding is None else embedding.factors()[0].E
        super().__init__(width, words, cutoffs, bias, precision, weight)
        self.embedding = embedding
        self.sizes = [end - start for start, end in pairwise(self.bounds)]
        self.clusters: nn.Linear = nn.Linear(width, len(cutoffs), bias)

    def _losses(self, h: Tensor, targets: Tensor) -> Tensor:
        parts = self._parts()
        first = self.bounds[1]
        clusters = torch.bucketize(
            targets, torch.tensor(self.bounds[1:-1], device=targets.device), right=True
        )
        entries = torch.where(clusters == 0, targets, first + clusters - 1)
        loss = functional.cross_entropy(self._head(h, parts[0]), entries, reduction="none")
        for number in range(1, len(self.sizes)):
            rows = (clusters == number).nonzero().squeeze(1)
            if len(rows):
                inner = targets[rows] - self.bounds[number]
                logits = parts[number].logits(h[rows])
                loss = loss.index_add(0, rows, functional.cross_entropy(logits, inner, reduction="none"))
        return loss

    def _fused(self, h: Tensor, targets: Tensor, layout: Layout, scale: float) -> Tensor:
        own, c = len(self.weight), self.bias
        c_own = c if c is None or own == self.words else c[:own]
        entries = self.clusters.weight, self.clusters.bias
        loss = fused_loss(h, self.weight, c_own, targets, layout, scale, *entries)
        if self.embedding is None:
            return loss
        for start, stop, E, Q in self.embedding.factors():
            rows = ((start <= targets) & (targets < stop)).nonzero().squeeze(1)
            if Q is None or not len(rows):  # the first band is what came before
                continue
            bounds = tuple(bound - start for bound in self.bounds if start <= bound <= stop)
            c_band = None if c is None else c[start:stop]
            narrow, inner = h[rows] @ Q, targets[rows] - start
            loss = loss + fused_loss(narrow, E, c_band, inner, Layout(bounds, layout.chunk), scale)
        return loss

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Return log p for every word: h [..., width] -> [..., words]."""
        parts = self._parts()
        head = functional.log_softmax(self._head(h, parts[0]), -1)
        logs = [head[..., : self.bounds[1]]]
        for number, part in enumerate(parts[1:]):
            entry = self.bounds[1] + number
            logs.append(functional.log_softmax(part.logits(h), -1) + head[..., entry : entry + 1])
        return torch.cat(logs, -1)

    def _parts(self) -> "list[_Part]":
        # One split has one backward pass; slices would each fill a gradient of the whole matrix.
        biases = [None] * len(self.sizes) if self.bias is None else torch.split(self.bias, self.sizes)
        if self.embedding is None:
            matrices: list[Tensor] = [*torch.split(self.weight, self.sizes)]
            return [_Part(V, c, None) for V, c in zip(matrices, biases, strict=True)]
        parts: list[_Part] = []
        for start, stop, E, Q in self.embedding.factors():
            sizes = [b - a for a, b in pairwise(self.bounds) if start <= a < stop]
            for V in torch.split(E, sizes):
                parts.append(_Part(V, biases[len(parts)], Q))
        return parts

    def _head(self, h: Tensor, part: "_Part") -> Tensor:
        V = torch.cat([part.V, self.clusters.weight])
        return functional.linear(h, V, None if part.c is None else torch.cat([part.c, self.clusters.bias]))


class _Part(NamedTuple):
    """The words of the head or of a cluster: their rows of V or of E_b, their biases, and Q_b."""

    V: Tensor
    c: Tensor | None
    Q: Tensor | None

    def logits(self, h: Tensor) -> Tensor:
        return functional.linear(h if self.Q is None else h @ self.Q, self.V, self.c)
