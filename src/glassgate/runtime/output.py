"""The output y = softmax(V h + c) on NumPy arrays, and its exact best words."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.runtime.matrix import Array, Matrix, Numbers

__all__ = ["QUIET", "Best", "Output"]

Best: TypeAlias = tuple[Numbers, npt.NDArray[np.float64]]
"""Word numbers, the most probable first, and their probabilities."""

# Weights of a damaged model may overflow: that is seen, and told, in the sum of the softmax.
QUIET = np.errstate(over="ignore", invalid="ignore")
GROUP = 64  # logits of which one maximum is taken, to find the best without sorting them

FEW = 16  # logits that are sorted as they are


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
    visiting a cluster whose probability is below that of the k-th best word found so far.

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
        head, clusters = self._head(h)
        spans = [_span(allowed, start, start + len(V)) for start, V, _ in self.parts]
        hidden = [_inside(never, start, start + len(V)) for start, V, _ in self.parts]
        if spans[0] is None:
            found = _select_rows(head, k, hidden[0])
        else:
            found = [_select(row, k, 0, spans[0], hidden[0]) for row in head]
        # Of each row the clusters, the most probable first: where one cannot win, no later one can.
        order = np.argsort(-clusters, axis=1, kind="stable")
        going = list(range(len(h)))
        for place in range(clusters.shape[1]):
            going = [m for m in going if _may_win(clusters[m, order[m, place]], found[m][1], k)]
            if not going:
                break
            for number in set(order[going, place].tolist()):
                start, V, c = self.parts[number + 1]
                span = spans[number + 1]
                if span is not None and not span.size:
                    continue
                rows = [m for m in going if order[m, place] == number]
                logs = _log_softmax(V.product(h[rows], c))
                logs += clusters[rows, number, None]
                for m, row in zip(rows, logs, strict=True):
                    found[m] = _merge(found[m], _select(row, k, start, span, hidden[number + 1]), k)
        return [(numbers, np.exp(logs.astype(np.float64))) for numbers, logs in found]

    def _head(self, h: Array) -> tuple[Array, Array]:
        """Return log p of the words of the head [M, first] and of the clusters [M, clusters]."""
        _, V, c = self.parts[0]
        logits = V.product(h, c)
        if self.entries is None:
            return _log_softmax(logits), logits[:, :0]
        entries = self.entries.product(h, self.entry_biases)
        logs = _log_softmax(np.concatenate((logits, entries), axis=1))
        return logs[:, : self.first], logs[:, self.first :]


def _log_softmax(logits: Array) -> Array:
    """Log of the softmax of each row, in place."""
    logits -= logits.max(1, keepdims=True)
    sums = np.log(np.exp(logits).sum(1, keepdims=True))
    if not np.isfinite(sums).all():
        raise GlassgateError("the model: its probabilities are no numbers: it is damaged, or of no use")
    logits -= sums
    return logits


def _span(allowed: Numbers | None, start: int, stop: int) -> Numbers | None:
    """Return the allowed words of a part, from its start on; None: all."""
    if allowed is None:
        return None
    return allowed[np.searchsorted(allowed, start) : np.searchsorted(allowed, stop)] - start


def _inside(word: int | None, start: int, stop: int) -> int | None:
    return word - start if word is not None and start <= word < stop else None


def _select(
    logs: Array, k: int, start: int, span: Numbers | None, never: int | None
) -> tuple[Numbers, Array]:
    """Return the k best of one row of a part: numbers and logs, the better first."""
    if never is not None:
        logs = logs.copy()
        logs[never] = -np.inf
    if span is not None:
        places, values = span, logs[span]
    else:
        places = np.flatnonzero(logs >= _bound(logs[None], k)[0])
        values = logs[places]
    order = np.argsort(-values, kind="stable")[:k]
    places, values = places[order], values[order]
    if never is not None:
        kept = places != never
        places, values = places[kept], values[kept]
    return places + start, values


def _select_rows(logs: Array, k: int, never: int | None) -> list[tuple[Numbers, Array]]:
    """Do what `_select` does for each row, in calls that the rows share: a few cost little more than one.

    The logs themselves lose the word that may not come.
    """
    if never is not None:
        logs[:, never] = -np.inf
    rows, places = np.nonzero(logs >= _bound(logs, k)[:, None])
    values = logs[rows, places]
    order = np.lexsort((-values, rows))  # stable: of equals the lower number stays first
    places, values = places[order], values[order]
    found, start = [], 0
    for count in np.bincount(rows, minlength=len(logs)).tolist():
        stop = start + min(k, count)
        numbers, own = places[start:stop], values[start:stop]
        if never is not None and own[-1] == -np.inf:
            numbers, own = numbers[numbers != never], own[numbers != never]
        found.append((numbers, own))
        start += count
    return found


def _bound(logs: Array, k: int) -> Array:
    """Return for each row a value that at least k of its logs reach, and few others do."""
    groups = logs.shape[1] // GROUP
    if groups > k:
        peaks = logs[:, : groups * GROUP].reshape(len(logs), groups, GROUP).max(2)
    elif logs.shape[1] > max(k, FEW):
        groups, peaks = logs.shape[1], logs
    else:
        return np.full(len(logs), -np.inf, logs.dtype)
    bound: Array = np.partition(peaks, groups - k, axis=1)[:, groups - k]
    return bound


def _may_win(cluster: Any, logs: Array, k: int) -> bool:
    """Tell whether a word of a cluster could be among the k best, or equal to the last of them."""
    return len(logs) < k or bool(cluster >= logs[-1])


def _merge(one: tuple[Numbers, Array], other: tuple[Numbers, Array], k: int) -> tuple[Numbers, Array]:
    numbers, logs = np.concatenate((one[0], other[0])), np.concatenate((one[1], other[1]))
    order = np.lexsort((numbers, -logs))[:k]
    return numbers[order], logs[order]
