"""Matrices as they are stored, in products with what is computed."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.folder.compact import Stored
from glassgate.runtime import _rows

__all__ = ["Array", "Matrix", "Numbers"]

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Numbers: TypeAlias = npt.NDArray[np.int64]

FORMS = {np.dtype("f4"): 0, np.dtype("f8"): 1, np.dtype("u2"): 2, np.dtype("i1"): 3}
UNPACKED = 2048  # rows that are unpacked at once: 2 MB of float32 at a width of 256


class Matrix:
    """A matrix that stays as it is stored and where it lies; nothing of it is copied.

    Parameters
    ----------
    stored
        Rows in float32, float64, bf16, or int8 with scales.

    Attributes
    ----------
    dtype
        Of what is computed with it: float64 for float64, else float32.

    Examples
    --------
    >>> V = Matrix(Stored(np.array([[127, 0], [-127, 127]], np.int8), np.array([1, 2], np.float32) / 127))
    >>> V.product(np.array([[0.5, 0.25]], np.float32), None)
    array([[ 0.5, -0.5]], dtype=float32)
    """

    def __init__(self, stored: Stored) -> None:
        self.stored = Stored(np.ascontiguousarray(stored.values), stored.scales)
        self.form = FORMS[self.stored.values.dtype]
        self.dtype = np.dtype(np.float64 if self.form == 1 else np.float32)

    def __len__(self) -> int:
        return len(self.stored.values)

    def part(self, start: int, stop: int) -> "Matrix":
        """Return the rows from ``start`` to ``stop``; nothing is copied."""
        values, scales = self.stored
        return Matrix(Stored(values[start:stop], None if scales is None else scales[start:stop]))

    def rows(self, numbers: npt.NDArray[np.integer[Any]]) -> Array:
        """Return rows by their numbers: an array of any shape gives one more axis, of the width."""
        values, scales = self.stored
        if self.form < 2:
            found: Array = values[numbers]
            return found
        flat = numbers.ravel()
        return (
            Stored(values[flat], None if scales is None else scales[flat])
            .unpacked()
            .reshape(*numbers.shape, values.shape[1])
        )

    def product(self, h: Array, bias: Array | None) -> Array:
        """Return V h + c for each row of h: [M, width] -> [M, rows].

        One h goes through a kernel that reads V once, in one thread; the sum of a row of V is the same
        bits in any part of V. Several go through NumPy's BLAS.
        """
        if len(h) == 1:
            return self.products(h, bias)
        rows = len(self)
        result = np.empty((len(h), rows), self.dtype)
        for start in range(0, rows, UNPACKED if self.form > 1 else rows):
            block = self.part(start, start + UNPACKED) if self.form > 1 else self
            np.matmul(h, block.stored.unpacked().T, out=result[:, start : start + len(block)])
        if bias is not None:
            result += bias
        return result

    def products(self, h: Array, bias: Array | None = None) -> Array:
        """Return V h + c for each row of h by that kernel, several too: the bits of each row alone."""
        rows, width = self.stored.values.shape
        result = np.empty((len(h), rows), self.dtype)
        _rows.product(self.form, rows, width, *self.stored, bias, len(h), np.ascontiguousarray(h), result)
        return result
