"""What every call checks before the compiled code sees an array."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from glassgate.edit_tables import Table
from glassgate.errors import GlassgateError

Array: TypeAlias = NDArray[np.floating[Any]]
Precision: TypeAlias = Literal["fp32", "bf16"]
Reset: TypeAlias = Literal["before", "after"]

LSTM, GRU_AFTER, GRU_BEFORE = 0, 1, 2

_DTYPES = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
_TWICE = np.dtype(np.float64)


def gru_cell(where: str, reset: str) -> int:
    """Give the number of the GRU with the reset ``"after"`` or ``"before"`` the product."""
    if reset not in ("before", "after"):
        raise GlassgateError(f"{where}: reset must be 'before' or 'after', got {reset!r}")
    return GRU_AFTER if reset == "after" else GRU_BEFORE


class Check:
    """Makes the arguments of a call C-contiguous arrays of one dtype, or says what is wrong in one line."""

    def __init__(
        self, where: str, x: object, precision: str, name: str = "x", shape: str = "[T, N, I]"
    ) -> None:
        self.where = where
        array = np.asarray(x)
        if array.ndim != shape.count(",") + 1:
            raise self.error(name, f"shape {shape} expected, got {array.shape}")
        self.dtype: np.dtype[Any] = array.dtype
        if self.dtype not in _DTYPES:
            raise self.error(name, f"float32 or float64 expected, got {self.dtype}")
        self.x: Array = np.ascontiguousarray(array)
        self.twice = self.dtype == _TWICE
        if precision not in ("fp32", "bf16"):
            raise self.error("precision", f"'fp32' or 'bf16' expected, got {precision!r}")
        self.bf16 = precision == "bf16"
        if self.bf16 and self.twice:
            raise self.error("precision", "'bf16' needs float32 arrays, got float64")

    def error(self, name: str, rule: str) -> GlassgateError:
        return GlassgateError(f"{self.where}: {name}: {rule}")

    def array(self, name: str, value: object, *shape: int) -> Array:
        """`value` as a C-contiguous array of this shape and of x's dtype."""
        array = np.asarray(value)
        if array.dtype != self.dtype:
            raise self.error(name, f"{self.dtype} expected, as x has, got {array.dtype}")
        if array.shape != shape:
            raise self.error(name, f"shape {shape} expected, got {array.shape}")
        return np.ascontiguousarray(array)

    def optional(self, name: str, value: object | None, *shape: int) -> Array | None:
        return None if value is None else self.array(name, value, *shape)

    def hidden_size(self, w_hh: object, gates: int) -> int:
        """H, from w_hh [G H, H]."""
        array = np.asarray(w_hh)
        if array.ndim != 2 or array.shape[0] != gates * array.shape[1]:
            raise self.error("w_hh", f"shape ({gates} * H, H) expected, got {array.shape}")
        return int(array.shape[1])

    def lengths(self, value: object | None, T: int, N: int) -> NDArray[np.int64] | None:
        if value is None:
            return None
        array = np.asarray(value)
        if array.shape != (N,) or not np.issubdtype(array.dtype, np.integer):
            raise self.error("lengths", f"{N} integers expected, got shape {array.shape} of {array.dtype}")
        if array.size and not (array.min() >= 0 and array.max() <= T):
            raise self.error("lengths", f"each from 0 to {T} expected, got {array.min()} to {array.max()}")
        return np.ascontiguousarray(array, dtype=np.int64)

    def resets(self, value: object | None, T: int, N: int) -> NDArray[np.bool_] | None:
        if value is None:
            return None
        array = np.asarray(value)
        if array.shape != (T, N) or array.dtype != np.bool_:
            raise self.error("resets", f"bool of shape {(T, N)} expected, got {array.dtype} of {array.shape}")
        return np.ascontiguousarray(array)

    def edits(self, table: Table, T: int, N: int, H: int) -> tuple[NDArray[np.int32], Array, int]:
        rows = np.ascontiguousarray(table.rows, np.int32)
        if rows.shape[:2] != (T, N):
            raise self.error("edits", f"a table of {T} steps and {N} sequences expected, got {rows.shape}")
        edits = self.array("edits", table.edits, len(table.edits), 4, H)
        return rows, edits, len(edits)

    def empty(self, *shape: int) -> Array:
        return np.empty(shape, self.dtype)
