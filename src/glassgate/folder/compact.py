"""Matrices in fewer bits: bf16, and int8 with a scale for each row."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["SCALES", "Compact", "packed", "unpacked"]

Compact = Literal["bf16", "int8"]
SCALES = ".scales"  # behind the name of a matrix in int8: the name of its scales
LARGEST_INT8 = 127

Array = npt.NDArray[np.float32]


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
    return stored


def unpacked(values: npt.NDArray[Any], scales: npt.NDArray[Any] | None = None) -> Array:
    """Return as float32 what `packed` stored; what is float32 already is returned as it is.

    Examples
    --------
    >>> unpacked(np.array([[0x3F80, 0xBF00]], np.uint16))
    array([[ 1. , -0.5]], dtype=float32)
    """
    if scales is not None:
        product: Array = values * scales[:, None]
        return product
    if values.dtype == np.uint16:
        bits = values.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return values
