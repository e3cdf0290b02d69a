"""A row for each word, as embedding and as V; rows of rare words may be kept narrow."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.runtime.matrix import Array, Matrix

__all__ = ["Piece", "WordMatrix"]


class Piece(NamedTuple):
    """Words that follow each other: row = E[word - start], or Q E[word - start] where there is a Q."""

    start: int
    E: Matrix
    Q: Array | None = None


class WordMatrix:
    r"""A matrix of a row for each word, in pieces that are equally wide.

    .. code-block:: text

        row    = Q E[word - start]
        row h  = E[word - start] (Q^T h)

    Parameters
    ----------
    pieces
        In the order of their words, the first without a Q.

    Examples
    --------
    >>> narrow = Piece(2, Matrix(Stored(np.array([[3.0]]))), np.array([[1.0], [2.0]]))
    >>> V = WordMatrix([Piece(0, Matrix(Stored(np.eye(2)))), narrow])
    >>> V.rows(np.array([2, 0]))
    array([[3., 6.],
           [1., 0.]])
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)
        self.starts = np.array([piece.start for piece in pieces])
        self.dtype = pieces[0].E.dtype
        self._widening = [None if Q is None else Matrix(Stored(Q)) for _, _, Q in pieces]
        self._narrowing = [None if Q is None else Matrix(Stored(Q.T)) for _, _, Q in pieces]

    @classmethod
    def embedding(cls, config: ModelConfig, stored: Mapping[str, Stored]) -> "WordMatrix":
        """Return a model's embedding, from its tensors by name; tables are not copied."""
        return cls(
            [
                Piece(start, Matrix(stored[E]), None if Q is None else stored[Q].unpacked())
                for start, _, _, E, Q in config.bands
            ]
        )

    def __len__(self) -> int:
        return self.pieces[-1].start + len(self.pieces[-1].E)

    def part(self, start: int, stop: int) -> tuple[Matrix, int]:
        """Return the rows from ``start`` to ``stop``, as narrow as they are kept, and their piece's number.

        They must lie in one piece; nothing is copied.
        """
        number = int(np.searchsorted(self.starts, start, side="right")) - 1
        first, E, _ = self.pieces[number]
        return E.part(start - first, stop - first), number

    def rows(self, words: npt.NDArray[np.integer[Any]]) -> Array:
        """Return the rows of words, as wide as they are meant: [...] -> [..., width].

        A row has the same bits whatever other rows are asked for.
        """
        if len(self.pieces) == 1:
            return self.pieces[0].E.rows(words)
        numbers = np.searchsorted(self.starts, words, side="right") - 1
        result = np.empty((*words.shape, self.pieces[0].E.stored.values.shape[1]), self.dtype)
        for number, (start, E, _) in enumerate(self.pieces):
            at = numbers == number
            if at.any():
                rows, widening = E.rows(words[at] - start), self._widening[number]
                result[at] = rows if widening is None else widening.products(rows)
        return result

    def narrowed(self, h: Array) -> list[Array]:
        """Return for each piece what its rows multiply: h itself, or Q^T h: [M, width] -> [M, that of E]."""
        own = np.ascontiguousarray(h, self.dtype)
        return [own if narrowing is None else narrowing.products(own) for narrowing in self._narrowing]
