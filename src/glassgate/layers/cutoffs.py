"""Where an adaptive softmax should cut its vocabulary: what a training step costs, and the least of it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError

__all__ = ["choose_cutoffs", "rows_per_word"]

CALLS = 9_000_000  # multiply-adds in the time that three products of next to no size take, 0.12 ms
MOST_CLUSTERS = 10  # or one for so many words, if that is more:
WORDS_A_CLUSTER = 1 << 14
LEAST_HEAD = 500
FINENESS = 1.04  # from one place where a cut is considered to the next


def rows_per_word(counts: npt.ArrayLike, cutoffs: Sequence[int]) -> float:
    r"""Return how many rows of V a word to be predicted takes part in a product with, on average.

    .. code-block:: text

        rows = first + clusters + sum over the clusters of P(cluster) x size(cluster)

    The full softmax has as many as there are words. Each row stands for three multiply-adds by the
    width: the logit, the gradient on h, that on V.

    Parameters
    ----------
    counts : array of int [words]
        How often each word is met.
    cutoffs
        Where the head ends and each further cluster begins; none for the full softmax.

    Returns
    -------
    float
        Rows of V and of the head's entries for clusters.

    Examples
    --------
    >>> rows_per_word([4, 3, 2, 1], [])
    4.0
    >>> rows_per_word([4, 3, 2, 1], [2])  # 2 and an entry; 3 of 10 words need 2 more
    3.6
    """
    total = _shares(counts)
    bounds = [*cutoffs, len(total) - 1]
    inside = sum(float(total[end] - total[start]) * (end - start) for start, end in pairwise(bounds))
    return float(bounds[0] + len(cutoffs) + inside)


def choose_cutoffs(counts: npt.ArrayLike, width: int, rows: int) -> tuple[int, ...]:
    r"""Choose the cutoffs of `AdaptiveSoftmax` by what a training step costs.

    .. code-block:: text

        cost = rows x width x 3 x rows_per_word + clusters x 9,000,000     multiply-adds

    The second part is what the products of a cluster cost however small they are: 0.12 ms on two cores
    that do 75 billion multiply-adds a second. The least is found exactly, by dynamic programming, among
    cuts 4 % apart, with at most 10 clusters (one for each 16,384 words, if that is more) and at least 500
    words in the head (or half of a vocabulary of fewer than 1,000): beyond these the cost falls on, but
    what the model learns in a step has not been measured.

    Parameters
    ----------
    counts : array of int [words]
        How often each word is met in training; words numbered from the most frequent down.
    width, rows
        Of h: the width, and how many words a training step predicts.

    Returns
    -------
    tuple of int
        Rising, above 0 and below the number of words; at least one.

    Raises
    ------
    GlassgateError
        There are fewer than two words.

    References
    ----------
    Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv:1609.04309, section 4.

    Examples
    --------
    >>> counts = 1e7 / np.arange(1, 33_279)
    >>> cutoffs = choose_cutoffs(counts, width=256, rows=2_800)
    >>> cutoffs[0], len(cutoffs), round(rows_per_word(counts, cutoffs) / 33_278, 2)
    (500, 10, 0.04)
    """
    total = _shares(counts)
    words = len(total) - 1
    if words < 2:
        raise GlassgateError(f"cutoffs: an adaptive softmax needs at least two words, got {words}")
    first = max(1, min(LEAST_HEAD, words // 2))
    places = [first]
    while (place := max(places[-1] + 1, round(places[-1] * FINENESS))) < words:
        places.append(place)
    cuts = np.array([*places, words])
    # What the cluster between each two places costs, in rows of V; those that do not rise are shut out.
    size = cuts - cuts[:, None]
    cost = (total[cuts] - total[cuts][:, None]) * size + 1 + CALLS / (3.0 * width * rows)
    cost[size <= 0] = np.inf
    best = np.full(len(cuts), np.inf)  # from each place to the end, with so many clusters
    best[-1] = 0.0
    found: list[tuple[float, int, int]] = []
    following = []
    for clusters in range(1, max(MOST_CLUSTERS, words // WORDS_A_CLUSTER) + 1):
        through = cost + best
        following.append(through.argmin(1))
        best = through.min(1)
        start = int((cuts + best).argmin())
        found.append((float(cuts[start] + best[start]), clusters, start))
    _, clusters, place_number = min(found)
    chosen = []
    for number in range(clusters - 1, -1, -1):
        chosen.append(int(cuts[place_number]))
        place_number = int(following[number][place_number])
    return tuple(chosen)


def _shares(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the share of the words below each number: [words + 1], from 0 to 1."""
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim != 1 or not (np.isfinite(array).all() and (array >= 0).all() and array.sum() > 0):
        raise GlassgateError("cutoffs: counts must be numbers from 0 up, not all 0, one for each word")
    return np.concatenate([[0.0], np.cumsum(array) / array.sum()])
