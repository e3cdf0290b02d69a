"""An embedding that is narrower for rarer words."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from glassgate.errors import GlassgateError
from glassgate.layers.rows import Embedding

__all__ = ["AdaptiveEmbedding", "Factors", "bands"]


class Factors(NamedTuple):
    """A band: its words from start to stop, E_b and Q_b."""

    start: int
    stop: int
    E: nn.Parameter
    Q: Tensor | None

    def widened(self, rows: Tensor) -> Tensor:
        """Return what rows of E_b stand for."""
        return rows if self.Q is None else functional.linear(rows, self.Q)


class AdaptiveEmbedding(nn.Module):
    r"""Vectors of words numbered from the most frequent down, kept the narrower the rarer the words.

    .. code-block:: text

        x = E_0[word]                              a word below the first cutoff
        x = Q_b E_b[word - start of band b]        a rarer one

    E_b [words of b, width / div_value^b], Q_b [width, width / div_value^b]. A million words of width 256 are
    256 million weights; with cutoffs 20,000 and 100,000 and a div_value of 4 they are 25 million. An
    `AdaptiveSoftmax` can be tied to it. Each E_b can be tracked by itself (`glassgate.layers.track`).

    Parameters
    ----------
    num_embeddings, embedding_dim
        The number of words and the width of x, by torch's names.
    cutoffs
        Where each band of rarer words begins, rising, above 0 and below the number of words.
    div_value
        By how much each band is narrower than the one before, rounded down; by torch's name for it
        (`torch.nn.AdaptiveLogSoftmaxWithLoss`).

    Attributes
    ----------
    tables : torch.nn.ModuleList of Embedding
        E_0, E_1, ...: drawn from the normal distribution, as torch draws an embedding.
    projections : torch.nn.ModuleList of torch.nn.Linear
        Q_1, Q_2, ...: drawn so that x has the same variance in every band.
    bounds : list of int
        0, the cutoffs, and the number of words.

    Raises
    ------
    GlassgateError
        The cutoffs do not rise from above 0 to below the number of words, the div_value is below 1, or no
        width is left for a band.

    References
    ----------
    Baevski and Auli 2019, "Adaptive input representations for neural language modeling",
    arXiv:1809.10853; there the first band has a projection too.

    Examples
    --------
    >>> embedding = AdaptiveEmbedding(1_000, 64, [100, 400], div_value=4)
    >>> [tuple(table.weight.shape) for table in embedding.tables]
    [(100, 64), (300, 16), (600, 4)]
    >>> embedding(torch.tensor([[3, 250], [999, 42]])).shape
    torch.Size([2, 2, 64])
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, cutoffs: Sequence[int], div_value: float = 4.0
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.bounds = bands(num_embeddings, cutoffs)
        if not div_value >= 1:
            raise GlassgateError(f"div_value: must be at least 1, got {div_value}")
        widths = [int(embedding_dim // div_value**band) for band in range(len(self.bounds) - 1)]
        if widths[-1] < 1:
            raise GlassgateError(
                f"div_value: must leave a width of at least 1 to each of {len(widths)} bands, "
                f"got {div_value} for a width of {embedding_dim}"
            )
        sizes = [stop - start for start, stop in pairwise(self.bounds)]
        self.tables = nn.ModuleList(Embedding(size, width) for size, width in zip(sizes, widths, strict=True))
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim, bias=False) for width in widths[1:])
        for projection, width in zip(self.projections, widths[1:], strict=True):
            nn.init.normal_(cast(Tensor, projection.weight), std=width**-0.5)

    def forward(self, words: Tensor) -> Tensor:
        """Return the vectors of words: [...] -> [..., width]."""
        flat = words.flatten()
        cuts = torch.tensor(self.bounds[1:-1], device=flat.device)
        number = torch.bucketize(flat, cuts, right=True)
        order = torch.argsort(number, stable=True)
        counts = torch.bincount(number, minlength=len(self.tables)).tolist()
        # Bands without words too: so every Q has a gradient, be it zeros, and optimisers move it.
        parts = zip(torch.split(flat[order], counts), self.tables, self.factors(), strict=True)
        x = torch.cat([band.widened(table(part - band.start)) for part, table, band in parts])
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device)
        return x[places].view(*words.shape, self.embedding_dim)

    def factors(self) -> list[Factors]:
        """Return each band's words, E_b and Q_b; the first has no Q."""
        tables = [cast(nn.Parameter, table.weight) for table in self.tables]
        projections = [None, *(cast(Tensor, Q.weight) for Q in self.projections)]
        parts = zip(pairwise(self.bounds), tables, projections, strict=True)
        return [Factors(start, stop, E, Q) for (start, stop), E, Q in parts]

    @torch.no_grad()
    def start_at(self, rows: Tensor) -> None:
        """Come as close to given vectors of the first words as the bands' widths allow; the others stay.

        .. code-block:: text

            R = U S W^T,  Q = W_k s,  E = R W_k / s        W_k: the k axes along which R is largest;
                                                           s^2 = width / k, so that Q is as large as at first

        Parameters
        ----------
        rows : Tensor [n, width]
            n of at most the number of words. Where a band has some of them, so few that they leave an axis
            open, that axis is any.

        References
        ----------
        No matrix of rank k is closer: Eckart and Young 1936.

        Examples
        --------
        >>> embedding = AdaptiveEmbedding(6, 4, [2])
        >>> rows = torch.outer(torch.arange(6.0), torch.ones(4))  # of rank 1: nothing is lost
        >>> embedding.start_at(rows)
        >>> torch.allclose(embedding.matrix(), rows, atol=1e-6)
        True
        """
        for start, stop, E, Q in self.factors():
            R = rows[start:stop]
            if not len(R):
                break
            if Q is not None:
                k, scale = E.shape[1], sqrt(self.embedding_dim / E.shape[1])
                axes = torch.linalg.eigh((R.t() @ R).double())[1][:, -k:].to(R.dtype)  # the largest come last
                Q.copy_(axes * scale)
                R = R @ axes / scale
            E[: len(R)] = R

    def matrix(self) -> Tensor:
        """Return the vectors of all words, [words, width]: what a plain embedding would hold."""
        return torch.cat([band.widened(band.E) for band in self.factors()])


def bands(words: int, cutoffs: Sequence[int]) -> list[int]:
    """Return 0, the cutoffs, and the number of words.

    Raises
    ------
    GlassgateError
        There is no cutoff, or they do not rise from above 0 to below ``words``.
    """
    bounds = [0, *cutoffs, words]
    if len(bounds) < 3 or any(stop <= start for start, stop in pairwise(bounds)):
        raise GlassgateError(f"cutoffs: must rise from above 0 to below {words}, got {list(cutoffs)}")
    return bounds
