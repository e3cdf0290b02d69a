"""The output y = softmax(V h + c) on NumPy arrays, and its exact best words."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.kernels import num_threads
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Array, Matrix, Numbers
from glassgate.runtime.turning import find_turn
from glassgate.runtime.word_matrix import WordMatrix

__all__ = ["QUIET", "Best", "Output"]

Best: TypeAlias = tuple[Numbers, npt.NDArray[np.float64]]
"""Word numbers, the most probable first, and their probabilities."""

# Weights of a damaged model may overflow: that is seen, and told, in the sum of the softmax.
QUIET = np.errstate(over="ignore", invalid="ignore")


class _Part(NamedTuple):
    """The words of the head or of a cluster: the first of them, their rows, the rows' piece, their biases."""

    start: int
    V: Matrix
    piece: int
    c: Array | None


class Output:
    """The full and the adaptive output of a model; rows of V are used where they lie, never copied.

    Parameters
    ----------
    config
        Of the model.
    V
        Its output matrix, [vocabulary, width]; no part of the vocabulary lies in two of its pieces.
    weights
        The others as model.safetensors holds them, unpacked.
    threads
        That `best` may use for several rows; 0: as many as `glassgate.kernels.num_threads` says.
    projection
        The matrix P of h = P s, where a hidden state s is projected down.

    Notes
    -----
    The full output is an adaptive one whose head holds every word and which has no clusters:

    .. code-block:: text

        p(word) = p_head(word)                             a word below the first cutoff
        p(word) = p_head(cluster) * p_cluster(word)        one above it

    A word of a cluster is at most as probable as its cluster. So the best words are exact without
    visiting a cluster whose probability is below that of the k-th best word found so far, and the
    clusters come from the most probable down. Of those that are left a sketch rules out most: their rows
    in int8, each with the length of what that leaves out. With v a row of V, s q its sketch, and
    z = v h + c its logit (Cauchy and Schwarz):

    .. code-block:: text

        |z - (s q h + c)|  <=  |v - s q| |h|  =  e
        log max y          <=  max (s q h + c + e) - log(sum exp(s q h + c - e))

    with y the softmax of z over the cluster, before its own share. Where that leaves a cluster in the race,
    the exact z of the few rows whose bound could win take the place of the maximum. Bounds, not estimates:
    what they rule out cannot be among the best words, so that those stay exact. The sketch of a cluster is
    made when it is asked for a second time. Where the cluster is not too probable a coarser one is asked
    before it: the first half of the numbers that the rows have along axes of their own
    (`glassgate.runtime.turning`), with |v| |h| of the other half as a further error.

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=4, embedding=2, hidden=2, tied=False)
    >>> from glassgate.runtime.word_matrix import Piece
    >>> V = WordMatrix([Piece(0, Matrix(Stored(np.eye(4, 2))))])
    >>> output = Output(config, V, {"output.bias": np.zeros(4)})
    >>> output.best(np.array([[np.log(2), 0.0]]), 2)
    [(array([0, 1]), array([0.4, 0.2]))]
    """

    def __init__(
        self,
        config: ModelConfig,
        V: WordMatrix,
        weights: Mapping[str, Array],
        threads: int = 1,
        projection: Matrix | None = None,
    ) -> None:
        c = weights.get("output.bias")
        self.words = config.vocabulary
        bounds = list(pairwise((0, *config.cutoffs, config.vocabulary)))
        self.first = bounds[0][1]
        entries = weights.get("output.clusters.weight")
        self.entries = None if entries is None else Matrix(Stored(entries))
        self.entry_biases = weights.get("output.clusters.bias")
        self.V = V
        self.parts = [
            _Part(start, *V.part(start, stop), None if c is None else c[start:stop]) for start, stop in bounds
        ]
        self.threads = threads
        starts = np.array([start for start, _ in bounds] + [self.words], np.int64)
        pieces = [(E.form, *E.stored.values.shape, *E.stored) for _, E, _ in V.pieces]
        self._best = _rows.Output(starts, pieces, c, entries, self.entry_biases)
        self._projection, self._asked = projection, 0

    @QUIET
    def log_probabilities(self, h: Array) -> Array:
        """Return log y for every word: h [M, width] -> [M, words], in nats."""
        result = np.empty((len(h), self.words), h.dtype)
        head, clusters = self._head(h)
        result[:, : self.first] = head
        narrowed = self.V.narrowed(h)
        for number, (start, V, piece, c) in enumerate(self.parts[1:]):
            rows = _log_softmax(V.product(narrowed[piece], c))
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
        narrowed = self.V.narrowed(h)
        for number, (start, V, piece, c) in enumerate(self.parts[1:]):
            rows = np.flatnonzero((start <= targets) & (targets < start + len(V)))
            if rows.size:
                logs = _log_softmax(V.product(narrowed[piece][rows], c))
                within = logs[np.arange(rows.size), targets[rows] - start]
                result[rows] = within + clusters[rows, number]
        return result

    def best(self, h: Array, k: int, allowed: Numbers | None = None, never: int | None = None) -> list[Best]:
        """Return the k most probable words of each row, exactly; of equals the lower number comes first.

        What is compared is log y as `log_probabilities` has it, rounded: words are equal where that is.

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
        count, k = len(h), min(k, self.words)
        numbers, logs = np.empty((count, k), np.int64), np.empty((count, k), np.float64)
        if not count:
            return []
        self._asked = asked = self._asked + 1
        if asked == 2 and self.entries is not None:  # the first sketches will be made
            self._turn()
        x = self.V.narrowed(h)
        threads = 1 if count == 1 else self.threads or num_threads()
        found = self._best.best(count, k, -1 if never is None else never, threads, allowed, x, numbers, logs)
        if found < 0:
            raise _damaged()
        return list(zip(numbers[:, :found], np.exp(logs[:, :found]), strict=True))

    def _turn(self) -> None:
        P = None if self._projection is None else self._projection.stored.unpacked()
        for number, (_, E, Q) in enumerate(self.V.pieces):
            turn = find_turn(E, P if Q is None else Q.T if P is None else Q.T @ P)
            if turn is not None:
                self._best.turn(number, *turn)

    def _head(self, h: Array) -> tuple[Array, Array]:
        """Return log p of the words of the head [M, first] and of the clusters [M, clusters]."""
        first = self.parts[0]
        logits = first.V.product(h, first.c)
        if self.entries is not None:
            entries = self.entries.product(h, self.entry_biases)
            logits = np.concatenate((logits, entries), axis=1)
        logs = _log_softmax(logits)
        return logs[:, : self.first], logs[:, self.first :]


def _log_softmax(logits: Array) -> Array:
    """Log of the softmax of each row, in place."""
    rows, entries = logits.shape
    if not _rows.log_softmax(rows, entries, logits.dtype == np.float64, logits):
        raise _damaged()
    return logits


def _damaged() -> GlassgateError:
    return GlassgateError("the model: its probabilities are no numbers: it is damaged, or of no use")
