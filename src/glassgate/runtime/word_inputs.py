"""What the first layer adds up of a word alone, kept for the words that come most often."""

from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.kernels import PackedGRU, PackedLSTM
from glassgate.runtime.matrix import Array
from glassgate.runtime.word_matrix import WordMatrix

__all__ = ["WORTH", "WordInputs"]

MOST_BYTES = 1 << 22  # that are kept
WORTH = 1 << 18  # bytes of input weights: fewer stay in a core's own cache


class WordInputs:
    """W_ih x + b of words, each computed when it is first read; those of the most frequent words are kept.

    A step waits for its weights to come from memory, and those of its input need not be read for a word
    whose sums are known. Words are numbered from the most frequent down: 4 MB hold those of 512 words for an
    LSTM of 512, which are two thirds of WikiText-2.

    Parameters
    ----------
    layer
        The first layer.
    embedding
        Its inputs, by word number.
    threads
        As `Network` has it.

    Examples
    --------
    >>> from glassgate.folder.compact import Stored
    >>> from glassgate.runtime.matrix import Matrix
    >>> from glassgate.runtime.word_matrix import Piece
    >>> E = WordMatrix([Piece(0, Matrix(Stored(np.array([[1.0], [2.0]]))))])
    >>> layer = PackedGRU(np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1)))
    >>> sums = WordInputs(layer, E).of(np.array([1, 0, 1]))
    >>> sorted(set(sums[0].tolist())), (sums[0] == sums[2]).all()
    ([0.0, 2.0, 4.0, 6.0], np.True_)
    """

    def __init__(self, layer: PackedLSTM | PackedGRU, embedding: WordMatrix, threads: int = 0) -> None:
        self._layer, self._embedding, self._threads = layer, embedding, threads
        size = layer.input_sums(embedding.rows(np.zeros(0, np.int64))).shape[1]
        self._kept = min(len(embedding), MOST_BYTES // (size * embedding.dtype.itemsize))
        self._sums = np.empty((self._kept, size), embedding.dtype)  # a row takes memory when it is written
        self._known = np.zeros(self._kept, np.bool_)

    def of(self, words: npt.NDArray[np.integer[Any]]) -> Array:
        """Return the sums of words [N], [N, size] as the layer's ``step`` takes them."""
        if len(words) == 1 and words[0] < self._kept and self._known[words[0]]:
            return self._sums[words[0] : words[0] + 1]
        inside = words < self._kept
        often = words[inside]
        new = np.unique(often[~self._known[often]])
        if new.size:
            self._sums[new] = self._computed(new)
            self._known[new] = True  # behind its sums: another thread may read them
        if often.size == words.size:
            known: Array = self._sums[words]
            return known
        found = np.empty((len(words), self._sums.shape[1]), self._sums.dtype)
        found[inside] = self._sums[often]
        found[~inside] = self._computed(words[~inside])
        return found

    def _computed(self, words: npt.NDArray[np.integer[Any]]) -> Array:
        return self._layer.input_sums(self._embedding.rows(words), threads=self._threads)
