"""Edits as the kernels take them: one table for each layer and call."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.edits import Edit, numbers
from glassgate.trace import NAMES

__all__ = ["Table", "chosen", "compile_edits", "drawn"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_NEUTRAL = np.array([1.0, 0.0, -np.inf, np.inf])[:, None]


class Table(NamedTuple):
    """The edits of one layer over a call: v -> min(max(scale v + add, low), high)."""

    rows: npt.NDArray[np.int32]  #: [T, N, gates + states] which row of `edits`, -1: none
    edits: Floats  #: [E, 4, H] scale, add, low, high


def chosen(
    edit: Edit, steps: int, batch: int, lengths: npt.ArrayLike | None = None, first: int | None = None
) -> npt.NDArray[np.bool_]:
    """Return at which steps of which sequences an edit is made: [T, N].

    Parameters
    ----------
    edit
        With its steps.
    steps, batch
        T and N of the call.
    lengths
        How many steps of each sequence count, [N].
    first
        The number of the call's first step in a stream that has no known end; None: the call is the whole
        sequence, and a negative step counts from its end.

    Raises
    ------
    GlassgateError
        A negative step in a stream, or a step for which ``replace`` has no values.
    """
    mask = np.zeros((steps, batch), bool)
    which = edit.steps or slice(None)
    if first is not None:
        if (which.start or 0) < 0 or (which.stop or 0) < 0:
            raise edit.error(f"steps: a stream has no end to count from, got {which}")
        at = np.arange(first, first + steps)
        stop = first + steps if which.stop is None else which.stop
        start = which.start or 0
        mask[(at >= start) & (at < stop) & ((at - start) % (which.step or 1) == 0)] = True
    elif lengths is None:
        mask[which] = True
    else:
        for n, length in enumerate(np.asarray(lengths).tolist()):
            mask[:length][which, n] = True
    if edit.replace is not None:
        have, wide = edit.replace.shape[:2]
        if wide not in (1, batch):
            raise edit.error(f"replace must have 1 or {batch} sequences, got {wide}")
        if mask[max(have - (first or 0), 0) :].any():
            raise edit.error(f"replace has {have} steps, fewer than the call: give steps=slice(0, {have})")
    return mask


def compile_edits(
    edits: Iterable[Edit],
    cell: str,
    steps: int,
    batch: int,
    units: int,
    dtype: npt.DTypeLike,
    lengths: npt.ArrayLike | None = None,
    first: int | None = None,
) -> Table | None:
    """Turn one layer's edits into a table for the kernels; None where they leave every bit as it is.

    A chain of set, scale, add and clamp is one affine function between two bounds, whatever its order:
    scaling and adding move the bounds along, and a bound on a bounded value bounds its bounds.

    Parameters
    ----------
    edits
        Of this layer, from `for_layers`, in order; none with a function.
    cell
        "lstm" or "gru".
    steps, batch, units, dtype
        T, N, H and the dtype of the call.
    lengths, first
        As for `chosen`.

    Raises
    ------
    GlassgateError
        As `chosen`; and for a function, which a table cannot hold.

    Examples
    --------
    >>> edits = [Edit("forget", scale=0.5), Edit("forget", clamp=(0.25, 1), steps=slice(1, None))]
    >>> table = compile_edits(edits, "lstm", steps=2, batch=1, units=1, dtype=np.float64)
    >>> table.rows[:, 0, 1], table.edits[:, :, 0]
    (array([0, 1], dtype=int32), array([[ 0.5 , -0.  , -inf,  inf],
           [ 0.5 , -0.  ,  0.25,  1.  ]]))
    """
    names, edits = NAMES[cell], list(edits)
    for edit in edits:
        if edit.function is not None:
            raise edit.error("a function is called by torch's layers only: glassgate.edit")
    rows = np.full((steps, batch, len(names)), -1, np.int32)
    tables: list[Floats] = []
    total = 0
    for k, name in enumerate(names):
        own = [edit for edit in edits if edit.gate == name]
        if not own:
            continue
        number, values = _composed(own, steps, batch, units, lengths, first)
        if not len(values):
            continue
        if name == "update":  # the kernels keep z = 1 - u
            scale, add, low, high = values.transpose(1, 0, 2)
            values = np.stack((scale, 1 - scale - add, 1 - high, 1 - low), 1)
        rows[..., k] = np.where(number < 0, -1, number + total)
        tables.append(values)
        total += len(values)
    if not total:
        return None
    table = np.concatenate(tables)
    table[:, 1][table[:, 1] == 0] = -0.0  # x + -0.0 is x for every x; -0.0 + 0.0 is not
    with np.errstate(over="ignore"):  # a bound beyond the largest float does not bind
        return Table(rows, np.ascontiguousarray(table, dtype))


def _composed(
    edits: Sequence[Edit],
    steps: int,
    batch: int,
    units: int,
    lengths: npt.ArrayLike | None,
    first: int | None,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return which row [T, N] the edits of one gate come to (-1: none), and the rows [E, 4, H]."""
    values = np.empty((1, 4, units))  # its first row: where no edit is made at certain steps only
    values[0] = _NEUTRAL
    number = np.zeros((steps, batch), np.int64)
    first_used = 1
    for edit in edits:
        columns = slice(None) if edit.units is None else list(edit.units)
        if edit.steps is None and edit.kind not in ("replace", "resample"):
            values[:, :, columns] = _followed(values[:, :, columns], edit, numbers(edit.value))
            first_used = 0
            continue
        mask = chosen(edit, steps, batch, lengths, first)
        if not mask.any():
            continue
        if edit.kind in ("replace", "resample"):
            before, inverse = number[mask], np.arange(mask.sum())
            value = drawn(edit, steps, batch, first)[mask][:, columns]
        else:
            before, inverse = np.zeros(1, np.int64), np.zeros(1, np.int64)
            if len(values) > 1:
                before, inverse = np.unique(number[mask], return_inverse=True)
            value = numbers(edit.value)
        new = values[before]
        new[:, :, columns] = _followed(new[:, :, columns], edit, value)
        number[mask] = len(values) + inverse
        values = np.concatenate([values, new])
    return number - first_used, values[first_used:]


def _followed(rows: Floats, edit: Edit, value: Floats) -> Floats:
    """Return rows [E, 4, units] with one more edit behind what they do."""
    scale, add, ends = rows[:, 0], rows[:, 1], rows[:, 2:]
    if edit.kind == "scale":
        with np.errstate(invalid="ignore"):  # infinity * 0, not used
            ends = np.where(value == 0, 0.0, ends * value)
        return np.stack((scale * value, add * value, ends.min(1), ends.max(1)), 1)
    if edit.kind == "add":
        return np.concatenate((scale[:, None], rows[:, 1:] + value), 1)
    if edit.kind == "clamp":
        return np.concatenate((rows[:, :2], np.clip(ends, value[0], value[1])), 1)
    filled = np.empty_like(rows)
    filled[:, 0] = 0
    filled[:, 1:] = value[..., None, :] if value.ndim else value
    return filled


def drawn(edit: Edit, steps: int, batch: int, first: int | None = None) -> Floats:
    """Return the values [T, N, H] of ``replace`` or ``resample`` for each step of a call, all units."""
    if edit.resample is not None:
        rows: Floats = edit.resample
        random = np.random.default_rng([edit.seed, first or 0])
        return np.asarray(rows[random.integers(len(rows), size=(steps, batch))], np.float64)
    given = numbers(edit.replace)[first or 0 :][:steps]
    full = np.zeros((steps, batch, given.shape[2]))
    full[: len(given)] = given
    return full
