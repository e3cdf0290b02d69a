"""A store of states in 8 or 16 bits, memory-mapped: a corpus of a million words is searched in seconds."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.files import replacing, reporting_disk_errors, write_atomically
from glassgate.lens.reading import read
from glassgate.runtime import Model

__all__ = ["Index", "IndexWriter", "build_index", "open_index"]

Bits: TypeAlias = Literal[8, 16]

CHUNK = 1 << 14  # words whose states lie together, a unit's in one piece: what is written, and read, at once
FORMAT = 1
LARGEST = {8: 127, 16: 32767}
FILES = ("states.bin", "words.bin", "index.json")
QUANTITIES = ("hidden", "cell", "candidate", "input", "forget", "output", "reset", "update")


@dataclass(frozen=True)
class Index:
    """The states of a corpus on disk; by `build_index` or `open_index`.

    Attributes
    ----------
    words : array [steps] of uint32
        The words that were read, by number.
    units
        How many units there are: those of all layers that were stored, one layer after another.
    layers : dict
        Where the units of each layer start.
    quantity
        Which gate or state was stored; of a cell its tanh.
    bits
        8 or 16: a stored value is off by at most 1/254 or 1/65,534.
    """

    words: npt.NDArray[np.uint32]
    units: int
    layers: dict[str, int]
    quantity: str
    bits: int
    _chunks: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.words)

    def level(self, value: float) -> int:
        """Return the smallest stored number of a value that is at least ``value``."""
        return int(np.ceil(np.clip(value, -2, 2) * LARGEST[self.bits] - 1e-9))

    def raw(self, unit: int) -> npt.NDArray[np.signedinteger[Any]]:
        """Return a unit's values over the corpus as they are stored, [steps]."""
        return np.concatenate([chunk[unit] for chunk in self._chunks])[: len(self)]

    def values(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the values of all units from one step to another, [stop - start, units]."""
        start, stop = max(start, 0), min(stop, len(self))
        parts = [
            self._chunks[n][:, max(start - n * CHUNK, 0) : min(stop - n * CHUNK, CHUNK)]
            for n in range(start // CHUNK, -(-stop // CHUNK))
        ]
        joined = np.concatenate(parts, axis=1) if parts else np.zeros((self.units, 0))
        return joined.T.astype(np.float32) / np.float32(LARGEST[self.bits])

    def unit(self, layer: str, number: int) -> int:
        """Return the number in this index of a unit of a layer.

        Raises
        ------
        GlassgateError
            The layer or the unit is not there.
        """
        if layer not in self.layers:
            raise GlassgateError(f"index: the layers are {', '.join(self.layers)}, got {layer!r}")
        bounds = [*self.layers.values(), self.units]
        count = next(stop - start for start, stop in pairwise(bounds) if start == self.layers[layer])
        if not 0 <= number < count:
            raise GlassgateError(f"index: units must be from 0 to {count - 1} in {layer}, got {number}")
        return self.layers[layer] + number


class IndexWriter:
    """Writes an index as the states come, in constant memory: 16,384 steps of them.

    Parameters
    ----------
    folder
        What to make; files of an index that lie there are replaced when all are whole.
    layers
        For each layer how many units it has.
    quantity
        Which gate or state it will be.
    bits
        8 or 16.

    Raises
    ------
    GlassgateError
        The quantity or the bits are unknown, or the disk refuses.
    """

    def __init__(self, folder: Path, layers: dict[str, int], quantity: str, bits: Bits) -> None:
        if quantity not in QUANTITIES:
            raise GlassgateError(
                f"index: the quantity must be one of {', '.join(QUANTITIES)}, got {quantity!r}"
            )
        if bits not in LARGEST:
            raise GlassgateError(f"index: bits must be 8 or 16, got {bits!r}")
        self.folder, self.layers, self.quantity, self.bits = folder, layers, quantity, bits
        self.units, self.steps = sum(layers.values()), 0
        self._buffer = np.zeros((self.units, CHUNK), f"<i{bits // 8}")

    def write(
        self, blocks: Iterable[tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.floating[Any]]]]
    ) -> None:
        """Write blocks of words [T] and their values [T, units], in (-1, 1), and finish the index."""
        with reporting_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "index.json").unlink(missing_ok=True)  # until all is there, there is no index
        states, words = (self.folder / name for name in FILES[:2])
        with (
            replacing(states) as own_states,
            replacing(words) as own_words,
            own_states.open("wb") as state_file,
            own_words.open("wb") as word_file,
        ):
            for block_words, values in blocks:
                word_file.write(block_words.astype("<u4").data)
                self._add(values, state_file)
            if self.steps % CHUNK:
                self._buffer[:, self.steps % CHUNK :] = 0
                state_file.write(self._buffer.data)
        description = {
            "index": "glassgate states",
            "format": FORMAT,
            "steps": self.steps,
            "layers": self.layers,
            "quantity": self.quantity,
            "bits": self.bits,
        }
        write_atomically(self.folder / "index.json", json.dumps(description, indent=2) + "\n")

    def _add(self, values: npt.NDArray[np.floating[Any]], file: Any) -> None:
        stored = np.rint(np.clip(values, -1, 1) * LARGEST[self.bits]).astype(self._buffer.dtype)
        while len(stored):
            place = self.steps % CHUNK
            part = stored[: CHUNK - place]
            self._buffer[:, place : place + len(part)] = part.T
            self.steps += len(part)
            stored = stored[len(part) :]
            if self.steps % CHUNK == 0:
                file.write(self._buffer.data)


def build_index(
    model: Model,
    pieces: Iterable[npt.NDArray[np.integer[Any]]],
    folder: Path | str,
    *,
    quantity: str = "hidden",
    bits: Bits = 8,
    report: Callable[[int], None] | None = None,
) -> Index:
    """Read a corpus and store a gate or state of every unit at every word.

    Parameters
    ----------
    model
        From `glassgate.load`.
    pieces
        Word numbers, as `glassgate.lens.reading.tokens` gives them; read as one stream.
    folder
        Where the index is written: a byte, or two, for each unit and word.
    quantity
        Which gate or state; of ``cell`` its tanh is stored.
    bits
        8 or 16.
    report
        Called after each block with the number of words so far.

    Returns
    -------
    Index

    Raises
    ------
    GlassgateError
        The cell has no such quantity, or the disk refuses.
    """
    folder = Path(folder)
    layers = {name: target.units for name, target in model.network.targets.items()}
    writer = IndexWriter(folder, layers, quantity, bits)

    def blocks() -> Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]]:
        for block in read(model, pieces):
            own = [getattr(layer, quantity)[:, 0] for layer in block.layers.values()]
            values = own[0] if len(own) == 1 else np.concatenate(own, axis=1)
            yield block.numbers, np.tanh(values) if quantity == "cell" else values
            if report is not None:
                report(writer.steps)

    writer.write(blocks())
    return open_index(folder)


def open_index(folder: Path | str) -> Index:
    """Map an index; its states stay on disk.

    Parameters
    ----------
    folder
        As `build_index` wrote it.

    Returns
    -------
    Index

    Raises
    ------
    GlassgateError
        A file is missing, damaged or foreign.

    Examples
    --------
    >>> open_index("no-such-folder")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such index
    """
    folder = Path(folder)
    path = folder / "index.json"
    if not path.is_file():
        raise GlassgateError(f"{folder}: no such index")
    try:
        if path.stat().st_size > 1 << 20:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("index") != "glassgate states" or found.pop("format") != FORMAT:
            raise ValueError(f"an index of format {FORMAT} expected")
        steps, layers, bits = found["steps"], found["layers"], found["bits"]
        whole = [steps, *layers.values()]
        if not all(type(value) is int and 0 <= value < 1 << 40 for value in whole) or bits not in LARGEST:
            raise ValueError("sizes must be whole numbers")
        if found["quantity"] not in QUANTITIES or not layers or min(layers.values()) < 1:
            raise ValueError("a quantity and layers with units expected")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GlassgateError(f"{path}: is damaged: {error}") from error
    units, chunks = sum(layers.values()), -(-steps // CHUNK)
    states = _mapped(folder / FILES[0], f"<i{bits // 8}", (chunks, units, CHUNK))
    starts = [0, *np.cumsum(list(layers.values())).tolist()]
    return Index(
        words=_mapped(folder / FILES[1], "<u4", (steps,)),
        units=units,
        layers=dict(zip(layers, starts, strict=False)),
        quantity=found["quantity"],
        bits=bits,
        _chunks=states,
    )


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        came = os.stat(path).st_size
        if came != expected:
            raise GlassgateError(f"{path}: is damaged: expected {expected:,} bytes, got {came:,}")
        return np.memmap(path, dtype, "r", shape=shape) if expected else np.zeros(shape, dtype)
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
