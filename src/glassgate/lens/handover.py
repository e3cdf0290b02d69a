"""Traces to and from files, and to labelled arrays and tables of other libraries."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.files import replacing
from glassgate.trace import NAMES, Chunk, LayerTrace, Trace

if TYPE_CHECKING:
    import anywidget

__all__ = ["Recorded", "load_trace", "save_trace", "to_frame", "to_labelled"]

FORMAT = "glassgate trace 1"
_STATES = ("cell", "hidden")
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Recorded:
    """A trace that was read from a file.

    Attributes
    ----------
    words
        The T words, or () where none were written.
    layers
        Each gate and state by layer, [T, N, H].
    """

    words: tuple[str, ...]
    layers: Trace

    def explore(self) -> "anywidget.AnyWidget":
        """Return a heat map of every gate to explore in a notebook: see `glassgate.trace.Trace.explore`."""
        return self.layers.explore(self.words or None)

    def _repr_html_(self) -> str:
        from glassgate.lens.html import still

        return still(self.words or None, self.layers)


def save_trace(path: Path | str, layers: Mapping[str, LayerTrace], words: Sequence[str] = ()) -> None:
    """Write a trace: ``.npz``, which NumPy reads, or ``.safetensors``, which every framework does.

    Arrays are named ``l0.forget``, each [T, N, H] in the dtype in which it was recorded; words and cells
    stand beside them.

    Parameters
    ----------
    path
        The file to write or replace, in one piece.
    layers
        A trace, as ``trace.layers`` or what `glassgate.record` gives.
    words
        The T words.

    Raises
    ------
    GlassgateError
        The name ends otherwise, there is not one word for each step, or the disk refuses.

    Examples
    --------
    >>> save_trace("trace.pkl", {})
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: trace.pkl: must end in .npz or .safetensors
    """
    path = Path(path)
    form = _form(path)
    arrays: Arrays = {}
    for layer, gate, values in _all(layers):
        if words and len(words) != len(values):
            raise GlassgateError(
                f"{path}: one word for each of {len(values)} steps expected, got {len(words)}"
            )
        arrays[f"{layer}.{gate}"] = np.ascontiguousarray(values)
    cells = {name: "lstm" if "forget" in layer.names else "gru" for name, layer in layers.items()}
    about = json.dumps({"format": FORMAT, "cells": cells, "words": list(words)}, ensure_ascii=False)
    with replacing(path) as temporary:
        if form == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, about=np.frombuffer(about.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        else:
            from safetensors.numpy import save_file

            save_file(arrays, temporary, {"about": about})


def load_trace(path: Path | str) -> Recorded:
    """Read a trace that `save_trace` wrote: the same words and the same bits.

    Parameters
    ----------
    path
        A ``.npz`` or ``.safetensors`` file. Nothing in it is run.

    Returns
    -------
    Recorded

    Raises
    ------
    GlassgateError
        The file is missing, damaged or no trace.

    Examples
    --------
    >>> load_trace("no-such-trace.npz")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-trace.npz: cannot be read: No such file or directory
    """
    path = Path(path)
    try:
        about, arrays = (_read_npz if _form(path) == ".npz" else _read_safetensors)(path)
        found = json.loads(about)
        if found["format"] != FORMAT:
            raise ValueError(f"{FORMAT!r} expected, got {found['format']!r}")
        words, cells = tuple(found["words"]), dict(found["cells"])
        if not all(isinstance(word, str) for word in words) or not set(cells.values()) <= set(NAMES):
            raise ValueError("words and cells expected")
        layers = {name: _layer(name, cell, arrays, words) for name, cell in cells.items()}
    except GlassgateError:
        raise
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a foreign file makes its reader raise
        raise GlassgateError(f"{path}: is damaged or no trace: {error}") from error
    return Recorded(words, Trace(layers))


def to_labelled(layers: Mapping[str, LayerTrace], words: Sequence[str] = ()) -> dict[str, Any]:
    """Return a trace as labelled arrays: what ``xarray.Dataset.from_dict`` takes, in plain dictionaries.

    Parameters
    ----------
    layers, words
        As for `save_trace`.

    Returns
    -------
    dict
        ``data_vars``: for each layer and gate an array, ``l0.forget``, over time, sequence and unit;
        ``coords``: steps, and the words on the time axis.

    Examples
    --------
    >>> layer = LayerTrace("l0", "gru")
    >>> layer.add(Chunk(np.zeros((2, 1, 3)), np.full((2, 1, 3, 3), 0.25), None, None))
    >>> found = to_labelled({"l0": layer}, ["a", "gate"])
    >>> found["data_vars"]["l0.update"]["dims"], found["coords"]["word"]
    (('time', 'sequence', 'l0.unit'), {'dims': ('time',), 'data': ['a', 'gate']})
    """
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for layer, gate, values in _all(layers):
        dims = ("time", "sequence", f"{layer}.unit")
        variables[f"{layer}.{gate}"] = {"dims": dims, "data": values}
        for dim, size in zip(dims, values.shape, strict=True):
            coords[dim] = {"dims": (dim,), "data": np.arange(size)}
    if words:
        coords["word"] = {"dims": ("time",), "data": list(words)}
    return {"coords": coords, "data_vars": variables, "attrs": {}}


def to_frame(layers: Mapping[str, LayerTrace], words: Sequence[str] = (), sequence: int = 0) -> Any:
    """Return a trace as a table of pandas: a row for each step and its word, a column for each unit.

    Parameters
    ----------
    layers, words
        As for `save_trace`.
    sequence
        Which sequence of the batch.

    Returns
    -------
    pandas.DataFrame
        Rows by (step, word), columns by (layer, gate, unit).

    Raises
    ------
    GlassgateError
        pandas is not installed.
    """
    from importlib import import_module

    try:
        pandas = import_module("pandas")
    except ModuleNotFoundError:
        raise GlassgateError("pandas is not installed: pip install pandas") from None
    columns = {
        (layer, gate, unit): values[:, sequence, unit]
        for layer, gate, values in _all(layers)
        for unit in range(values.shape[2])
    }
    steps = len(next(iter(columns.values())))
    rows = pandas.MultiIndex.from_arrays([range(steps), words or [""] * steps], names=["step", "word"])
    frame = pandas.DataFrame(columns)
    frame.columns = pandas.MultiIndex.from_tuples(list(columns), names=["layer", "gate", "unit"])
    frame.index = rows
    return frame


def _all(layers: Mapping[str, LayerTrace]) -> list[tuple[str, str, npt.NDArray[Any]]]:
    """Return (layer, gate, values [T, N, H]) in NumPy, in the dtype in which they were recorded."""
    found = []
    for name, layer in layers.items():
        for gate in layer.names:
            values = getattr(layer, gate)
            if hasattr(values, "detach"):
                values = values.detach().cpu()
                # NumPy has no bfloat16; float32 holds each of its numbers.
                values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
            found.append((name, gate, values))
    return found


def _form(path: Path) -> str:
    if path.suffix not in (".npz", ".safetensors"):
        raise GlassgateError(f"{path}: must end in .npz or .safetensors")
    return path.suffix


def _read_npz(path: Path) -> tuple[str, Arrays]:
    # Opened here, so that it is closed whatever the reader finds in it.
    with path.open("rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise ValueError("no archive of NumPy")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    return arrays.pop("about").tobytes().decode(), arrays


def _read_safetensors(path: Path) -> tuple[str, Arrays]:
    from safetensors import safe_open

    with path.open("rb"):  # what is missing is told as any other file is
        pass
    with safe_open(path, "np") as file:
        return (file.metadata() or {})["about"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _layer(name: str, cell: str, arrays: Arrays, words: Sequence[str]) -> LayerTrace:
    own = {gate: arrays[f"{name}.{gate}"] for gate in NAMES[cell]}
    shapes = {values.shape for gate, values in own.items() if gate != "hidden"}
    (shape,) = shapes if len(shapes) == 1 else [()]
    # The hidden state of a layer with a projection is narrower.
    if len(shape) != 3 or own["hidden"].shape[:2] != shape[:2] or (words and shape[0] != len(words)):
        raise ValueError(f"{name}: gates of one shape [T, N, H], a word for each step, expected")
    layer = LayerTrace(name, cell)
    gates = [1 - own[gate] if gate == "update" else own[gate] for gate in NAMES[cell] if gate not in _STATES]
    layer.add(Chunk(own["hidden"], np.stack(gates, axis=2), own.get("cell"), None))
    return layer
