"""The compiled loops of the output layer: products with V as it is stored, the best of a softmax, a bound.

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
def best(
    rows: int,
    entries: int,
    words: int,
    k: int,
    never: int,
    doubles: bool,
    allowed: Buffer | None,
    logits: Buffer,
    most: Buffer,
    log_sum: Buffer,
    values: Buffer,
    places: Buffer,
) -> None: ...
def highest(
    rows: int,
    width: int,
    count: int,
    integers: Buffer,
    scales: Buffer,
    errors: Buffer,
    lengths: Buffer,
    c: Buffer | None,
    h: Buffer,
    result: Buffer,
) -> None: ...
