"""The compiled product of a matrix, as it is stored, and a vector.

``form`` is 0 (float32), 1 (float64), 2 (bf16) or 3 (int8 with scales); a buffer is an object with a
C-contiguous buffer of the right number of bytes.
"""

from typing import TypeAlias

Buffer: TypeAlias = object

def product(
    form: int,
    rows: int,
    width: int,
    V: Buffer,
    scales: Buffer | None,
    c: Buffer | None,
    h: Buffer,
    y: Buffer,
) -> None: ...
