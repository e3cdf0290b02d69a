"""Figures as several measurements compute them."""

from math import exp, inf

__all__ = ["exponential"]


def exponential(nats: float) -> float:
    """Return exp(nats), infinite where that is beyond the largest float.

    Examples
    --------
    >>> exponential(0.0), exponential(1000.0)
    (1.0, inf)
    """
    try:
        return exp(nats)
    except OverflowError:
        return inf
