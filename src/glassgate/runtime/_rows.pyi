"""The compiled loops of the output layer: products with V as it is stored, softmax, the best words.

``form`` is 0 (float32), 1 (float64), 2 (bf16) or 3 (int8 with scales); a buffer is an object with a
C-contiguous buffer of the right number of bytes.
"""

from collections.abc import Sequence
from typing import TypeAlias

Buffer: TypeAlias = object

def product(
    form: int,
    rows: int,
    width: int,
    V: Buffer,
    scales: Buffer | None,
    c: Buffer | None,
    count: int,
    h: Buffer,
    y: Buffer,
) -> None: ...
def log_softmax(rows: int, entries: int, twice: bool, z: Buffer) -> bool: ...

class Output:
    def __init__(
        self,
        bounds: Buffer,
        pieces: Sequence[tuple[int, int, int, Buffer, Buffer | None]],
        c: Buffer | None,
        entries: Buffer | None,
        entry_biases: Buffer | None,
    ) -> None: ...
    def turn(self, piece: int, kept: int, T: Buffer, inverse: Buffer) -> None: ...
    def best(
        self,
        count: int,
        k: int,
        never: int,
        threads: int,
        allowed: Buffer | None,
        h: Sequence[Buffer],
        numbers: Buffer,
        logs: Buffer,
    ) -> int: ...
