"""model.safetensors: read only where it is exactly what the configuration says. Never a pickle."""

import json
import math
import os
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.compact import SCALES, Stored
from glassgate.folder.files import replacing

__all__ = ["load_weights", "map_weights", "read_header", "save_weights"]

LARGEST_HEADER = 1 << 20  # bytes: some ten thousand tensors
ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
VECTOR, MATRIX = ("F32",), ("F32", "BF16", "I8")  # in which a tensor may be stored
DTYPES = {"F32": "<f4", "BF16": "<u2", "I8": "i1"}
ITEM_BYTES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}


def read_header(path: Path) -> dict[str, Any]:
    """Read and check the header of a safetensors file; no tensor is loaded.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        For each tensor ``{"dtype": ..., "shape": [...], "data_offsets": [...]}``, and where the
        file has it ``"__metadata__"``.

    Raises
    ------
    GlassgateError
        When the file is missing, cut short, or not in safetensors form. A name that occurs twice is
        refused too: readers differ on which of the two counts.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_weights(path, {"b": np.zeros(3, np.float32)})
    >>> read_header(path)["b"]["shape"]
    [3]
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise GlassgateError(f"{path}: is damaged or no safetensors file: its header does not fit")
            header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise GlassgateError(f"{path}: is damaged or no safetensors file: {error}") from error
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise GlassgateError(f"{path}: is damaged or no safetensors file: its header is no table")
    _check_layout(path, [e for name, e in header.items() if name != "__metadata__"], size - 8 - length)
    return header


def load_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]]:
    """Load exactly the tensors that are expected, as float32, into memory that may be written to.

    Parameters
    ----------
    path, shapes
        As for `map_weights`.

    Returns
    -------
    dict of str to array
        The tensors, copied out of the file.

    Raises
    ------
    GlassgateError
        As `map_weights`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_weights(path, {"b": np.ones(3, np.float32)})
    >>> load_weights(path, {"b": (3,)})["b"]
    array([1., 1., 1.], dtype=float32)
    """
    stored = map_weights(path, shapes)
    return {name: np.array(tensor.unpacked()) for name, tensor in stored.items()}


def map_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
    """Map exactly the tensors that are expected, as they are stored: read-only, and not copied.

    Every value is read once, to see that it is a finite number. Processes that map one file share its
    memory. The map stays valid when the file is replaced or removed, as `save_weights` does it.

    Parameters
    ----------
    path
        The safetensors file.
    shapes
        The expected names and shapes; a tensor more, one less or another shape is refused before
        any is looked at.

    Returns
    -------
    dict of str to Stored
        The tensors, where they lie in the file.

    Raises
    ------
    GlassgateError
        When the file is damaged, does not fit, or holds a value that is no finite number.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_weights(path, {"b": np.ones(3, np.float32)})
    >>> map_weights(path, {"b": (3,)})["b"].values.flags.writeable
    False
    """
    header = read_header(path)
    header.pop("__metadata__", None)
    scales = {name + SCALES for name in shapes if header.get(name, {}).get("dtype") == "I8"}
    if header.keys() != shapes.keys() | scales:
        names = ", ".join(map(repr, sorted(header.keys() ^ (shapes.keys() | scales))[:5]))
        raise GlassgateError(f"{path}: must hold the tensors that config.json tells; at odds: {names}")
    for name, shape in {**shapes, **{name: shapes[name.removesuffix(SCALES)][:1] for name in scales}}.items():
        entry, forms = header[name], MATRIX if len(shape) > 1 else VECTOR
        if entry["shape"] != list(shape) or entry["dtype"] not in forms:
            raise GlassgateError(
                f"{path}: {name} must be {' or '.join(forms)} {list(shape)}, "
                f"got {entry['dtype']} {entry['shape']}"
            )
    data = _map(path)
    begin = 8 + int.from_bytes(data[:8], "little")
    if begin + max(entry["data_offsets"][1] for entry in header.values()) > len(data):  # another by now
        raise GlassgateError(f"{path}: was changed while it was read")

    def raw(name: str) -> npt.NDArray[Any]:
        entry = header[name]
        count, start = math.prod(entry["shape"]), begin + entry["data_offsets"][0]
        return np.frombuffer(data, DTYPES[entry["dtype"]], count, start).reshape(entry["shape"])

    weights = {}
    for name in shapes:
        stored = Stored(raw(name), raw(name + SCALES) if name + SCALES in scales else None)
        if not stored.finite():
            raise GlassgateError(f"{path}: {name} holds a value that is no finite number")
        weights[name] = stored
    return weights


def save_weights(
    path: Path, weights: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, whole or not at all.

    Parameters
    ----------
    path
        The safetensors file to write or replace.
    weights
        Arrays by name; they are written C-contiguous, and uint16 as bf16: the upper halves of float32.
    metadata
        Strings to keep in the header.

    Raises
    ------
    GlassgateError
        When the file system refuses.

    Examples
    --------
    >>> import tempfile
    >>> save_weights(Path(tempfile.mkdtemp()) / "model.safetensors", {"b": np.zeros(3, np.float32)})
    """
    from safetensors import SafetensorError, TensorSpec, serialize_file

    arrays = {name: np.ascontiguousarray(values) for name, values in weights.items()}
    specs = {
        name: TensorSpec(
            dtype="bfloat16" if values.dtype == np.uint16 else values.dtype.name,
            shape=values.shape,
            data_ptr=values.ctypes.data,
            data_len=values.nbytes,
        )
        for name, values in arrays.items()
    }
    with replacing(path) as temporary:
        try:
            serialize_file(specs, temporary, dict(metadata) if metadata else None)
        except SafetensorError as error:  # the library's own word for a disk that is full
            raise OSError(None, str(error)) from error


def _map(path: Path) -> mmap:
    try:
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # it is empty by now
        raise GlassgateError(f"{path}: was changed while it was read") from error


def _check_layout(path: Path, entries: list[dict[str, Any]], size: int) -> None:
    """Check that tensors have the bytes of their shapes, lie one behind the other, and fill the file."""
    end = 0
    try:
        for entry in sorted(entries, key=lambda entry: entry["data_offsets"]):
            start, stop = entry["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (start, stop, *entry["shape"])) or start != end:
                raise ValueError
            if stop - start != ITEM_BYTES[entry["dtype"]] * math.prod(entry["shape"]):
                raise ValueError
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        raise GlassgateError(f"{path}: is damaged: its header tells of no layout that could be") from error
    if end != size:
        raise GlassgateError(f"{path}: is damaged: expected {end:,} bytes of weights, got {size:,}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return table
