"""How probable the words of a cluster can be at most, from a quarter of its bytes."""

import numpy as np
import numpy.typing as npt

from glassgate.folder.compact import Stored, packed
from glassgate.runtime import _rows
from glassgate.runtime.matrix import Array, Matrix

__all__ = ["Sketch"]

BLOCK = 2048  # rows that are packed at once
ROOM = 1.0 + 1e-5  # for what the norms round


class Sketch:
    """Rows of V in int8, each with the length of what that leaves out; made when asked for again.

    Notes
    -----
    With v a row of V, s q its sketch, and z = v h + c its logit (Cauchy and Schwarz):

    .. code-block:: text

        |z - (s q h + c)|  <=  |v - s q| |h|  =  e
        log max y          <=  max (s q h + c + e) - log(sum exp(s q h + c - e))

    with y the softmax of z over the cluster, before its own share. A bound, not an estimate: what it rules
    out cannot be among the best words, so that those stay exact.

    Examples
    --------
    >>> V = Matrix(Stored(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)))
    >>> sketch, h = Sketch(), np.array([[2.0, 1.0]], np.float32)
    >>> sketch.highest(V, None, h)  # the first time: nothing is known, a share is at most 1
    array([0.], dtype=float32)
    >>> sketch.highest(V, None, h).round(2)  # log(1 / (1 + 1/e)) = -0.3133
    array([-0.31], dtype=float32)
    """

    def __init__(self) -> None:
        self._asked = False
        self._made: tuple[npt.NDArray[np.int8], Array, Array, Array] | None = None

    def highest(self, V: Matrix, c: Array | None, h: Array) -> Array:
        """Return for each h a number that log y of no word of the cluster exceeds, float32 [M].

        Parameters
        ----------
        V, c
            Rows and biases of the cluster: the same at each call.
        h : array [M, width]
            What V multiplies.
        """
        if not self._asked:  # one prediction costs less than the sketch
            self._asked = True
            return np.zeros(len(h), np.float32)
        if self._made is None:
            self._made = _sketched(V)
        bias = None if c is None else c.astype(np.float32, copy=False)
        x = np.ascontiguousarray(h, np.float32)
        result = np.empty(len(h), np.float32)
        rows, width = V.stored.values.shape
        _rows.highest(rows, width, len(h), *self._made, bias, x, result)
        return result


def _sketched(V: Matrix) -> tuple[npt.NDArray[np.int8], Array, Array, Array]:
    """Return rows in int8, their scales, the lengths of what they leave out, and the rows' own."""
    rows, width = V.stored.values.shape
    integers, scales = V.stored
    if scales is None:
        integers, scales = np.empty((rows, width), np.int8), np.empty(rows, np.float32)
    errors, lengths = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for start in range(0, rows, BLOCK):
        part = slice(start, min(start + BLOCK, rows))
        exact = V.part(part.start, part.stop).stored.unpacked()
        if integers is not V.stored.values:
            integers[part], scales[part] = packed(
                {"V": exact.astype(np.float32, copy=False)}, "int8"
            ).values()
        near = Stored(integers[part], scales[part]).unpacked()
        errors[part] = ROOM * np.linalg.norm(exact - near, axis=1)
        lengths[part] = ROOM * np.maximum(np.linalg.norm(exact, axis=1), np.linalg.norm(near, axis=1))
    return integers, scales, errors, lengths
