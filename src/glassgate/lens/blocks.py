"""Values to draw, and the colours of a value: the same on a terminal, in a picture and on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.edits import numbers
from glassgate.errors import GlassgateError
from glassgate.trace import LayerTrace

__all__ = ["DIVERGING", "SEQUENTIAL", "Block", "averaged", "blocks", "colours"]

# Dark to light in even steps of lightness, so that a print in grey still orders the values.
SEQUENTIAL = ((24, 16, 56), (62, 40, 120), (44, 106, 140), (60, 168, 120), (190, 210, 70), (252, 244, 170))
# Blue for below zero, red for above, and the more the stronger.
DIVERGING = ((33, 82, 160), (120, 165, 215), (236, 236, 236), (230, 150, 120), (170, 30, 45))

SHOWN = ("reset", "update", "forget", "input", "output", "candidate", "cell", "hidden")
_SIGNED = ("candidate", "cell", "hidden")


@dataclass(frozen=True)
class Block:
    """Values to draw side by side with others: one row for each word, one cell for each unit.

    Attributes
    ----------
    name
        Of the gate or state.
    values
        [T, units].
    signed
        Whether values lie in (-1, 1), as candidate and states do, and not in (0, 1).
    units
        What the units are called; None: by their numbers from 0 on.
    """

    name: str
    values: npt.NDArray[np.floating[Any]]
    signed: bool = False
    units: tuple[int | str, ...] | None = None


def blocks(
    layer: LayerTrace,
    gates: Sequence[str] | None = None,
    units: Sequence[int] | None = None,
    sequence: int = 0,
) -> list[Block]:
    """Return what a layer did as blocks to draw, in the notes' order.

    Parameters
    ----------
    layer
        From `glassgate.record` or `glassgate.runtime.Model.trace`.
    gates
        Names of gates and states; by default all.
    units
        Numbers of units; by default all.
    sequence
        Which sequence of the batch.

    Returns
    -------
    list of Block
        The values of each are [T, units].

    Raises
    ------
    GlassgateError
        The layer has no such gate, unit or sequence.

    Examples
    --------
    >>> import numpy as np
    >>> from glassgate.trace import Chunk
    >>> layer = LayerTrace("l0", "gru")
    >>> layer.add(Chunk(np.zeros((2, 1, 3)), np.full((2, 1, 3, 3), 0.25), None, None))
    >>> [(b.name, b.signed, b.values[0].tolist()) for b in blocks(layer, ["update", "hidden"], units=[2])]
    [('update', False, [0.75]), ('hidden', True, [0.0])]
    """
    found = []
    for name in gates or [name for name in SHOWN if name in layer.names]:
        values = numbers(getattr(layer, name))
        _, N, H = values.shape
        if not 0 <= sequence < N:
            raise GlassgateError(f"sequence: must be from 0 to {N - 1}, got {sequence}")
        wrong = [unit for unit in units or () if not 0 <= unit < H]
        if wrong:
            raise GlassgateError(f"units: must be from 0 to {H - 1}, got {wrong[0]}")
        own = values[:, sequence] if units is None else values[:, sequence, list(units)]
        found.append(Block(name, own, name in _SIGNED, None if units is None else tuple(units)))
    return found


def averaged(block: Block) -> Block:
    """Return a block with the mean over units as its only unit.

    Examples
    --------
    >>> averaged(Block("forget", np.array([[0.25, 0.75]]))).values
    array([[0.5]])
    """
    return Block(block.name, block.values.mean(axis=1, keepdims=True), block.signed, ("mean",))


def colours(values: npt.ArrayLike, signed: bool) -> npt.NDArray[np.uint8]:
    """Return the colour of each value as red, green and blue.

    Parameters
    ----------
    values : array of any shape
        From 0 to 1, or from -1 to 1; what lies outside has the colour of the nearest end.
    signed
        Which of the two.

    Returns
    -------
    array [..., 3] of uint8

    Examples
    --------
    >>> colours([0.0, 9.0], signed=False).tolist()
    [[24, 16, 56], [252, 244, 170]]
    """
    values = np.asarray(values, np.float64)
    share = np.clip((values + 1) / 2 if signed else values, 0, 1)
    stops = np.array(DIVERGING if signed else SEQUENTIAL, np.float64)
    place = share * (len(stops) - 1)
    lower = np.minimum(place.astype(np.int64), len(stops) - 2)
    part = (place - lower)[..., None]
    found: npt.NDArray[np.uint8] = np.round(stops[lower] + (stops[lower + 1] - stops[lower]) * part).astype(
        np.uint8
    )
    return found
