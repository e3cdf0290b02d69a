"""Which units are on over a span of a text, and where else in a corpus they are: after LSTMVis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.edits import numbers
from glassgate.errors import GlassgateError
from glassgate.lens.index import Index
from glassgate.runtime import Traced

__all__ = ["Match", "find_spans", "state_of", "units_on"]


@dataclass(frozen=True)
class Match:
    """A span of the corpus.

    Attributes
    ----------
    start, stop
        The steps, as those of `glassgate.lens.index.Index.words`.
    score
        1 where every unit is on over the whole span and off just before and after it; less by the share that
        is not.
    """

    start: int
    stop: int
    score: float


def state_of(traced: Traced, index: Index) -> npt.NDArray[np.floating[Any]]:
    """Return of a text what an index holds of its corpus: [T, units], one layer after another.

    Parameters
    ----------
    traced
        From `glassgate.runtime.Model.trace`, of the model that read the corpus.
    index
        Says which gate or state.

    Raises
    ------
    GlassgateError
        The layers are not those of the index.
    """
    if list(traced.layers) != list(index.layers):
        raise GlassgateError(
            f"search: the index is of {', '.join(index.layers)}, got {', '.join(traced.layers)}"
        )
    parts = [numbers(getattr(layer, index.quantity)[:, 0]) for layer in traced.layers.values()]
    values = np.concatenate(parts, axis=1)
    if values.shape[1] != index.units:
        raise GlassgateError(f"search: the index has {index.units} units, got {values.shape[1]}")
    return np.tanh(values) if index.quantity == "cell" else values


def units_on(
    values: npt.ArrayLike, start: int, stop: int, threshold: float = 0.3, exact: bool = True
) -> list[int]:
    """Return the units that are on over exactly a span of a text.

    A unit is on where its value is at least the threshold.

    Parameters
    ----------
    values : array [T, units]
        From `state_of`, or any.
    start, stop
        The span: the words from ``start`` to before ``stop``.
    threshold
        From which value on a unit is on.
    exact
        Whether it must be off at the word before the span and at the word after it, where there are such.

    Returns
    -------
    list of int

    Raises
    ------
    GlassgateError
        The span does not lie in the text.

    References
    ----------
    Strobelt, Gehrmann, Pfister and Rush, LSTMVis, 2018.

    Examples
    --------
    >>> values = np.array([[0.9, 0.9, 0.0], [0.9, 0.9, 0.9], [0.0, 0.9, 0.9], [0.0, 0.9, 0.0]])
    >>> units_on(values, 1, 3), units_on(values, 1, 3, exact=False)
    ([2], [1, 2])
    """
    on = np.asarray(values) >= threshold
    if on.ndim != 2 or not 0 <= start < stop <= len(on):
        raise GlassgateError(f"search: a span in a text of {len(on)} words expected, got {start} to {stop}")
    chosen = on[start:stop].all(axis=0)
    if exact and start > 0:
        chosen &= ~on[start - 1]
    if exact and stop < len(on):
        chosen &= ~on[stop]
    return np.flatnonzero(chosen).tolist()


def find_spans(
    index: Index,
    units: Sequence[int],
    threshold: float = 0.3,
    *,
    length: int | None = None,
    share: float = 1.0,
    k: int = 50,
) -> list[Match]:
    """Find where in a corpus units are on together.

    A match is a longest span at each word of which at least a share of the units is on. With c[t] the number
    of the U units that are on at word t, its score is ::

        mean of c over the span / U  -  (c[start - 1] + c[stop]) / (2 U)

    Parameters
    ----------
    index
        From `glassgate.lens.index.open_index`.
    units
        Numbers in the index, as `units_on` gives them.
    threshold
        From which value on a unit is on.
    length
        How long the span was that was selected: of equal scores those of nearly this length come first.
    share
        Of the units, above 0 and at most 1.
    k
        How many matches.

    Returns
    -------
    list of Match
        The best first; of equals the earlier.

    Raises
    ------
    GlassgateError
        There is no unit, one is not in the index, or a bound is broken.
    """
    chosen = list(dict.fromkeys(units))
    if not chosen or not all(0 <= unit < index.units for unit in chosen):
        raise GlassgateError(f"search: units from 0 to {index.units - 1} expected, got {chosen or 'none'}")
    if not 0 < share <= 1 or k < 1:
        raise GlassgateError(f"search: share must be in (0, 1] and k at least 1, got {share} and {k}")
    level = index.level(threshold)
    counts = np.zeros(len(index) + 2, np.int32)  # a step without any unit before the first and after the last
    for unit in chosen:
        counts[1:-1] += index.raw(unit) >= level
    inside = counts >= max(1, int(np.ceil(share * len(chosen) - 1e-9)))
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]  # as steps: the extra one before the first takes one off
    sums = np.concatenate([[0], np.cumsum(counts)])
    within = (sums[stops + 1] - sums[starts + 1]) / np.maximum(stops - starts, 1)
    scores = (within - (counts[starts] + counts[stops + 1]) / 2) / len(chosen)
    apart = np.zeros(len(starts)) if length is None else np.abs(stops - starts - length)
    order = np.lexsort((starts, apart, -scores))[:k]
    return [Match(int(starts[n]), int(stops[n]), float(scores[n])) for n in order]
