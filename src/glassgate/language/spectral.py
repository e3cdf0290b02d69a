"""An embedding to begin with: words that stand among the same words start close to each other."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from glassgate.language.corpus import TokenArray

__all__ = ["spectral_embedding"]

OFFSETS = (-2, -1, 1, 2)  # where a neighbour stands; before and after tell different things of a word
NEIGHBOURS = 2_048  # the most frequent words alone are counted as neighbours
MOST_ROWS = 131_072  # words that get a row; rarer ones are hardly seen
MOST_TOKENS = 8_000_000  # that are counted, in evenly spread blocks: memory and time stay bounded
BLOCKS = 64
SMOOTHING = 0.75  # power of the neighbours' shares, so that rare ones do not stand out
SIZE = 0.12  # root mean square of the rows; random numbers of half that size begin other trainings
SPARE, ROUNDS = 32, 2  # columns and rounds of the subspace iteration beyond what is wanted

Numbers = npt.NDArray[np.int64]


def spectral_embedding(tokens: TokenArray, words: int, width: int, seed: int) -> Tensor | None:
    r"""Return rows for the embedding from which words stand beside which, seconds of work.

    .. code-block:: text

        M[w, (o, c)] = max(0, log(p(w, o, c) / (p(w) q(o, c))))     c stands o places after w;
                                                                    q ~ p(o, c)^0.75
        M ~ U S W^T,  E = U sqrt(S)                                 the largest `width` singular values

    Parameters
    ----------
    tokens : array [tokens]
        Word numbers, the most frequent words first.
    words, width
        The shape of the embedding.
    seed
        Of the iteration's first guess.

    Returns
    -------
    Tensor [rows, width] or None
        float32, a root mean square of 0.12 in all; rows = min(words, 131,072), of the most frequent words. A
        word without counted neighbours has zeros. None where fewer words than four times the width have any:
        there are no `width` singular values worth their name.

    References
    ----------
    Positive pointwise mutual information and its factors: Levy and Goldberg 2014, "Neural word embedding as
    implicit matrix factorization"; the smoothing, U sqrt(S), and neighbours by place: Levy, Goldberg and
    Dagan 2015, "Improving distributional similarity with lessons learned from word embeddings"; the
    iteration: Halko, Martinsson and Tropp 2011, arXiv:0909.4061.

    Examples
    --------
    >>> draw = np.random.default_rng(1).integers
    >>> tokens = np.concatenate((draw(0, 4, 2_000), draw(4, 8, 2_000)))  # two subjects, four words each
    >>> rows = spectral_embedding(tokens.astype(np.uint16), words=8, width=2, seed=1)
    >>> bool((rows[0] - rows[3]).norm() < 0.1 * (rows[0] - rows[4]).norm())
    True
    """
    rows = min(words, MOST_ROWS)
    columns = len(OFFSETS) * min(rows, NEIGHBOURS)
    pairs = _counted(tokens, rows, columns)
    if len(np.unique(pairs[0])) < 4 * width:
        return None
    at, column, value = _information(*pairs, rows, columns)
    generator = torch.Generator().manual_seed(seed)
    product, transposed = _sparse(at, column, value, rows), _sparse(column, at, value, columns)
    wanted = min(width + SPARE, columns)
    Y = product(torch.randn(columns, wanted, generator=generator))
    for _ in range(ROUNDS):
        Z = torch.linalg.qr(transposed(torch.linalg.qr(Y)[0]))[0]
        Y = product(Z)
    Q, R = torch.linalg.qr(Y)  # M ~ Y Z^T = Q R Z^T
    U, S, _ = torch.linalg.svd(R)
    E: Tensor = (Q @ U)[:, :width] * S[:width].sqrt()
    return E * (SIZE / E.square().mean().sqrt())


def _counted(tokens: TokenArray, rows: int, columns: int) -> tuple[Numbers, Numbers, npt.NDArray[np.float64]]:
    """Return the pairs (row, column) that occur, in the order of rows, and how often each does."""
    neighbours = columns // len(OFFSETS)
    blocks = BLOCKS if len(tokens) > MOST_TOKENS else 1
    length = min(len(tokens), MOST_TOKENS) // blocks
    pairs = []
    for start in np.linspace(0, len(tokens) - length, blocks).astype(int):
        block = tokens[start : start + length].astype(np.int64)
        for place, offset in enumerate(OFFSETS):
            near, far = block[: -abs(offset)], block[abs(offset) :]
            word, other = (near, far) if offset > 0 else (far, near)
            kept = (word < rows) & (other < neighbours)
            pairs.append(word[kept] * columns + place * neighbours + other[kept])
    found, counts = np.unique(np.concatenate(pairs), return_counts=True)
    return found // columns, found % columns, counts.astype(np.float64)


def _information(
    at: Numbers, column: Numbers, counts: npt.NDArray[np.float64], rows: int, columns: int
) -> tuple[Numbers, Numbers, npt.NDArray[np.float32]]:
    """Return the entries of M that are above 0."""
    of_words = np.bincount(at, counts, rows)
    of_neighbours = np.bincount(column, counts, columns) ** SMOOTHING
    of_neighbours /= of_neighbours.sum()
    value = np.log(counts / (of_words[at] * of_neighbours[column]))
    kept = value > 0
    return at[kept], column[kept], value[kept].astype(np.float32)


def _sparse(
    at: Numbers, column: Numbers, value: npt.NDArray[np.float32], rows: int
) -> Callable[[Tensor], Tensor]:
    """Return what multiplies a dense matrix by the sparse one with these entries, rows of them in all."""
    order = np.argsort(at, kind="stable")
    starts = torch.from_numpy(np.searchsorted(at[order], np.arange(rows)))
    columns, values = torch.from_numpy(column[order]), torch.from_numpy(value[order])

    def product(dense: Tensor) -> Tensor:
        dense = dense.contiguous()  # a Q of torch's is not, and read by rows thirty times as slowly
        return functional.embedding_bag(columns, dense, starts, mode="sum", per_sample_weights=values)

    return product
