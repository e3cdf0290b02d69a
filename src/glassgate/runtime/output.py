"""The output y = softmax(V h + c) on NumPy arrays, and its exact best words."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Array, Matrix, Numbers
from glassgate.runtime.sketch import Sketch

__all__ = ["QUIET", "Best", "Output"]

Best: TypeAlias = tuple[Numbers, npt.NDArray[np.float64]]
"""Word numbers, the most probable first, and their probabilities."""

# Weights of a damaged model may overflow: that is seen, and told, in the sum of the softmax.
QUIET = np.errstate(over="ignore", invalid="ignore")
NONE = np.iinfo(np.int64).max  # the number that stands where there is no word


class Output:
    """The full and the adaptive output of a model; rows of V are used where they lie, never copied.

    Parameters
    ----------
    config
        Of the model.
    V
        Its output matrix, [vocabulary, width].
    weights
        The others as model.safetensors holds them, unpacked.

    Notes
    -----
    The full output is an adaptive one whose head holds every word and which has no clusters:

    .. code-block:: text

        p(word) = p_head(word)                             a word below the first cutoff
        p(word) = p_head(cluster) * p_cluster(word)        one above it

    A word of a cluster is at most as probable as its cluster. So the best words are exact without
    visiting a cluster whose probability is below that of the k-th best word found so far; and of the
    others a sketch of V in a quarter of its bytes rules out most: see `Sketch`.

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=4, embedding=2, hidden=2, tied=False)
    >>> output = Output(config, Matrix(Stored(np.eye(4, 2))), {"output.bias": np.zeros(4)})
    >>> output.best(np.array([[np.log(2), 0.0]]), 2)
    [(array([0, 1]), array([0.4, 0.2]))]
    """

    def __init__(self, config: ModelConfig, V: Matrix, weights: Mapping[str, Array]) -> None:
        c = weights.get("output.bias")
        self.words = config.vocabulary
        bounds = list(pairwise((0, *config.cutoffs, config.vocabulary)))
        self.first = bounds[0][1]
        entries = weights.get("output.clusters.weight")
        self.entries = None if entries is None else Matrix(Stored(entries))
        self.entry_biases = weights.get("output.clusters.bias")
        self.parts = [
            (start, V.part(start, stop), None if c is None else c[start:stop]) for start, stop in bounds
        ]
        self.sketches = [Sketch() for _ in self.parts[1:]]

    @QUIET
    def log_probabilities(self, h: Array) -> Array:
        """Return log y for every word: h [M, width] -> [M, words], in nats."""
        result = np.empty((len(h), self.words), h.dtype)
        head, clusters = self._head(h)
        result[:, : self.first] = head
        for number, (start, V, c) in enumerate(self.parts[1:]):
            rows = _log_softmax(V.product(h, c))
            rows += clusters[:, number, None]
            result[:, start : start + len(V)] = rows
        return result

    @QUIET
    def log_probability(self, h: Array, targets: Numbers) -> npt.NDArray[np.float64]:
        """Return log y[target] of each row: h [M, width], targets [M] -> [M]; visits their clusters alone."""
        head, clusters = self._head(h)
        result = np.empty(len(h), np.float64)
        inside = targets < self.first
        result[inside] = head[inside, targets[inside]]
        for number, (start, V, c) in enumerate(self.parts[1:]):
            rows = np.flatnonzero((start <= targets) & (targets < start + len(V)))
            if rows.size:
                logs = _log_softmax(V.product(h[rows], c))
                within = logs[np.arange(rows.size), targets[rows] - start]
                result[rows] = within + clusters[rows, number]
        return result

    @QUIET
    def best(self, h: Array, k: int, allowed: Numbers | None = None, never: int | None = None) -> list[Best]:
        """Return the k most probable words of each row, exactly; of equals the lower number comes first.

        Parameters
        ----------
        h : array [M, width]
            What V multiplies.
        k
            How many words; fewer come where there are no more.
        allowed
            Word numbers in rising order: no other may come. None: all.
        never
            A word number that may not come.

        Returns
        -------
        list of (numbers, probabilities)
            For each row, the more probable first. Probabilities are shares of all words.
        """
        k = min(k, self.words)
        logits, clusters = self._head_logits(h)
        chosen, most, log_sum = _best(logits, self.first, k, 0, _span(allowed, 0, self.first), never)
        clusters = clusters - most - log_sum
        for number in np.flatnonzero((clusters >= chosen.logs[:, -1:]).any(0)).tolist():
            start, V, c = self.parts[number + 1]
            span = _span(allowed, start, start + len(V))
            if span is not None and not span.size:
                continue
            share, bar = clusters[:, number], chosen.logs[:, -1]
            rows = (share >= bar).nonzero()[0]
            if rows.size:
                highest = self.sketches[number].highest(V, c, h[rows])
                rows = rows[~(share[rows] + highest < bar[rows])]  # no number rules nothing out
            if rows.size:
                found, _, _ = _best(V.product(h[rows], c), len(V), k, start, span, never)
                np.add(found.logs, clusters[rows, number, None], out=found.logs)
                chosen.merge(rows, found)
        return chosen.rows()

    def _head(self, h: Array) -> tuple[Array, Array]:
        """Return log p of the words of the head [M, first] and of the clusters [M, clusters]."""
        logits, _ = self._head_logits(h)
        logs = _log_softmax(logits)
        return logs[:, : self.first], logs[:, self.first :]

    def _head_logits(self, h: Array) -> tuple[Array, Array]:
        """Return the logits of the head, [M, first + clusters], and the clusters' alone: a view."""
        _, V, c = self.parts[0]
        logits = V.product(h, c)
        if self.entries is not None:
            entries = self.entries.product(h, self.entry_biases)
            logits = np.concatenate((logits, entries), axis=1)
        return logits, logits[:, self.first :]


class _Chosen(NamedTuple):
    """The k best words of each row so far: numbers and log y, [M, k]; -inf where there are fewer."""

    numbers: Numbers
    logs: Array

    def merge(self, rows: Numbers, other: "_Chosen") -> None:
        """Let other words of some rows in; their numbers are higher than those that are there."""
        numbers = np.concatenate((self.numbers[rows], other.numbers), axis=1)
        logs = np.concatenate((self.logs[rows], other.logs), axis=1)
        # Stable: of equals the lower number, which stands first, stays first.
        order = np.argsort(-logs, axis=1, kind="stable")[:, : self.logs.shape[1]]
        each = np.arange(len(rows))[:, None]
        self.numbers[rows], self.logs[rows] = numbers[each, order], logs[each, order]

    def rows(self) -> list[Best]:
        """Return the words of each row with their probabilities."""
        y = np.exp(self.logs.astype(np.float64))
        there = self.numbers != NONE
        return [(n[kept], row[kept]) for n, row, kept in zip(self.numbers, y, there, strict=True)]


def _best(
    logits: Array, words: int, k: int, start: int, span: Numbers | None, never: int | None
) -> tuple[_Chosen, Array, Array]:
    """Return the k best of the first words of a part with their logs, and the two parts of log sum exp."""
    rows, doubles = len(logits), logits.dtype == np.float64
    numbers, logs = np.empty((rows, k), np.int64), np.empty((rows, k), logits.dtype)
    most, log_sum = np.empty((rows, 1), logits.dtype), np.empty((rows, 1), logits.dtype)
    barred = never - start if never is not None and start <= never < start + words else -1
    found = (most, log_sum, logs, numbers)
    _rows.best(rows, logits.shape[1], words, k, barred, doubles, span, logits, *found)
    if not np.isfinite(log_sum).all():
        raise GlassgateError("the model: its probabilities are no numbers: it is damaged, or of no use")
    numbers[numbers != NONE] += start
    logs -= most
    logs -= log_sum
    return _Chosen(numbers, logs), most, log_sum


def _log_softmax(logits: Array) -> Array:
    """Log of the softmax of each row, in place."""
    _, most, log_sum = _best(logits, 0, 1, 0, None, None)
    logits -= most
    logits -= log_sum
    return logits


def _span(allowed: Numbers | None, start: int, stop: int) -> Numbers | None:
    """Return the allowed words of a part, from its start on; None: all."""
    if allowed is None:
        return None
    return allowed[np.searchsorted(allowed, start) : np.searchsorted(allowed, stop)] - start
