"""Matrices in fewer bits: bf16, and int8 with a scale for each row."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError

__all__ = ["SCALES", "Compact", "Stored", "packed"]

Compact = Literal["bf16", "int8"]
SCALES = ".scales"  # behind the name of a matrix in int8: the name of its scales
LARGEST_INT8 = 127

Array = npt.NDArray[np.float32]


class Stored(NamedTuple):
    """A tensor as it is stored: float32 (or float64, in memory), bf16 as uint16, or int8 with scales.

    Examples
    --------
    >>> Stored(np.array([[0x3F80, 0xBF00]], np.uint16)).unpacked()
    array([[ 1. , -0.5]], dtype=float32)
    """

    values: npt.NDArray[Any]
    scales: Array | None = None  #: of each row of int8

    def unpacked(self) -> npt.NDArray[Any]:
        """Return the tensor in floating point; the values themselves where they are that already."""
        if self.scales is not None:
            return self.values * self.scales.reshape(-1, *[1] * (self.values.ndim - 1))
        if self.values.dtype == np.uint16:
            bits = self.values.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        return self.values

    def finite(self) -> bool:
        """Tell whether every number is finite."""
        if not self.values.size:
            return True
        if self.scales is not None:
            largest = np.finfo(np.float32).max / np.float32(LARGEST_INT8 + 1)
            return bool((np.abs(self.scales) <= largest).all())
        if self.values.dtype == np.uint16:
            return bool((self.values & 0x7FFF).max() < 0x7F80)  # the exponent of what is no number
        return bool(np.isfinite(self.values.min()) and np.isfinite(self.values.max()))


def packed(weights: Mapping[str, Array], dtype: Compact) -> dict[str, npt.NDArray[Any]]:
    """Store matrices in fewer bits; vectors, the biases, stay float32.

    ::

        bf16   the upper 16 bits of float32, rounded to the nearest, of equals to the even one
        int8   row[j] = scale * integer[j], |integer| <= 127, scale = max |row| / 127

    Parameters
    ----------
    weights
        Tensors by name.
    dtype
        ``"bf16"`` or ``"int8"``.

    Returns
    -------
    dict of str to array
        What is to be stored: uint16 for bf16; for int8 also each matrix's ``.scales``.

    Raises
    ------
    GlassgateError
        When a weight is so close to the largest float32 that rounding it gives no finite number.

    Examples
    --------
    >>> stored = packed({"V": np.array([[1.0, -0.5, 0.25]], np.float32)}, "int8")
    >>> stored["V"], stored["V.scales"].round(4)
    (array([[127, -64,  32]], dtype=int8), array([0.0079], dtype=float32))
    """
    stored: dict[str, npt.NDArray[Any]] = {}
    for name, values in weights.items():
        if values.ndim == 1:
            stored[name] = values
        elif dtype == "bf16":
            bits = np.ascontiguousarray(values).view(np.uint32)
            stored[name] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        else:
            scales = np.abs(values).max(1) / np.float32(LARGEST_INT8)
            some = np.where(scales > 0, scales, np.float32(1))  # a row of zeros, or next to it
            integers = np.clip(np.rint(values / some[:, None]), -LARGEST_INT8, LARGEST_INT8)
            stored[name], stored[name + SCALES] = integers.astype(np.int8), scales
        if not Stored(stored[name], stored.get(name + SCALES)).finite():
            largest = np.abs(values).max()
            raise GlassgateError(f"{name}: must stay finite when it is rounded to {dtype}, got {largest:.8g}")
    return stored
