"""Results are compared before anything is timed: a fast wrong answer is none."""

import math
from collections.abc import Mapping

from torch import Tensor

from glassgate.bench.works import Shape

__all__ = ["WrongResultError", "compare", "tolerance"]

_DEVIATIONS = 4  # of a sum of random roundings: passed once in some 10^4 sums
_CARRY = 2  # an error of one step goes on into the next through a half-open gate: 1 + 1/2 + 1/4 + ...
_UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-9}


class WrongResultError(Exception):
    """A result differs from the peer's by more than rounding explains. Nothing of it was timed."""


def tolerance(shape: Shape, sides: int = 2, bf16: bool = False) -> float:
    """Derive how far two right results may lie apart, as a share of the array's largest value.

    A sum of n terms with random signs in float32 has a random rounding error of about u sqrt(n) of its size,
    u = 2^-24; n is the longest sum here, I + H products in a gate or T N steps in a gradient on weights. Four
    times that is allowed for each side that is computed in float32, and twice for what a step hands to the
    next. Factors rounded to bfloat16, u = 2^-9, have errors that average out in a sum as its terms do: two
    roundings in each product, and n does not count.

    Parameters
    ----------
    shape
        The sizes.
    sides
        How many of the two results are computed in float32; 1 where the other is in float64.
    bf16
        Whether ours rounds what enters its products to bfloat16.

    References
    ----------
    Higham and Mary 2019, A new approach to probabilistic rounding error analysis.

    Examples
    --------
    >>> f"{tolerance(Shape(35, 1, 10, 20)):.1e} {tolerance(Shape(35, 1, 10, 20), bf16=True):.1e}"
    '5.6e-06 3.1e-02'
    """
    if bf16:
        return _DEVIATIONS * _CARRY * 2 * _UNIT["bfloat16"]
    longest = max(shape.I + shape.H, shape.T * shape.N)
    return _DEVIATIONS * _CARRY * sides * _UNIT["float32"] * math.sqrt(longest)


def compare(got: Mapping[str, Tensor], want: Mapping[str, Tensor], allowed: float) -> float:
    """Compare results by name; return the largest difference as a share of the array's largest value.

    Parameters
    ----------
    got, want
        Ours and the peer's, under the same names.
    allowed
        From `tolerance`.

    Raises
    ------
    WrongResultError
        A difference is larger, or not a number, or something is missing.

    Examples
    --------
    >>> import torch
    >>> compare({"h": torch.ones(2)}, {"h": torch.tensor([1.0, 1.25])}, 0.5)
    0.2
    """
    if got.keys() != want.keys():
        raise WrongResultError(f"expected {', '.join(want)}; got {', '.join(got)}")
    worst = 0.0
    for name, value in want.items():
        ours = got[name]
        if ours.shape != value.shape:
            raise WrongResultError(f"{name}: expected shape {list(value.shape)}, got {list(ours.shape)}")
        scale = float(value.abs().max()) or 1.0
        error = float((ours.to(value.dtype) - value).abs().max()) / scale
        if not error <= allowed:
            raise WrongResultError(
                f"{name}: differs by {error:.1e} of its largest value, allowed {allowed:.1e}"
            )
        worst = max(worst, error)
    return worst
