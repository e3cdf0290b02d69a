"""Other axes for V and h, in which few numbers of a row say nearly all of a logit."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.runtime.matrix import Array, Matrix

__all__ = ["Turn", "find_turn"]

NARROW = 64  # numbers of a row below which half of them save nothing
SEEN = 8192  # rows that stand for all


class Turn(NamedTuple):
    """V h = (V T) (T^-1 h), of which the first `kept` numbers say the most."""

    kept: int
    T: npt.NDArray[np.float32]
    inverse: npt.NDArray[np.float32]


def find_turn(V: Matrix, projection: Array | None) -> Turn | None:
    """Find the axes in which V and h are both short beyond the first half of their numbers.

    With h = P s and nothing known of s but that its numbers are alike, V h = V P s, and the best few numbers
    are those of the largest singular values of V P, shared between both sides. In what they leave out the
    rows of V and the h are short at once, where the axes of V alone leave long h.

    Parameters
    ----------
    V
        Rows for words.
    projection : array [width, hidden]
        P; None: h itself has numbers that are alike.

    Returns
    -------
    Turn or None
        None for narrow rows, and for rows that span less than their width.

    Examples
    --------
    >>> from glassgate.folder.compact import Stored
    >>> V = Matrix(Stored(np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)))
    >>> turn = find_turn(V, None)
    >>> turn.kept, bool(abs(turn.T @ turn.inverse - np.eye(64)).max() < 1e-4)
    (32, True)
    """
    count, width = V.stored.values.shape
    if width < NARROW or count < width:
        return None
    rows = V.rows(np.arange(0, count, -(-count // SEEN))).astype(np.float64)
    try:
        root = np.linalg.cholesky(rows.T @ rows / len(rows))
        spread = np.eye(width) if projection is None else projection.astype(np.float64) @ projection.T
        sizes, axes = np.linalg.eigh(root.T @ spread @ root)
        if not sizes[0] > 1e-8 * sizes[-1]:
            return None
        inverse = (axes[:, ::-1] / sizes[::-1] ** 0.25).T @ root.T
        inverse = inverse.astype(np.float32)
        T = np.linalg.inv(inverse.astype(np.float64)).astype(np.float32)
    except np.linalg.LinAlgError:
        return None
    return Turn(width // 2, T, inverse)
