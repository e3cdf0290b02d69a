"""Records of a part of what a model computes: chosen gates, layers, steps and units, in memory or on disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.edits import Target
from glassgate.errors import GlassgateError
from glassgate.folder.files import replacing, reporting_disk_errors
from glassgate.trace import NAMES, Chunk, LayerTrace, Trace

__all__ = ["Keep", "Recorded", "Recording"]

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Keep:
    """What a record keeps; None: all, as it comes, in memory. `glassgate.record` explains the fields."""

    gates: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    steps: slice | None = None
    units: Sequence[int] | None = None
    dtype: str | None = None
    to: Path | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.gates, str) or isinstance(self.layers, str):
            raise GlassgateError("record: gates and layers must be lists of names, got one string")
        if self.steps is not None and not isinstance(self.steps, slice):
            raise GlassgateError(f"record: steps must be a slice, got {self.steps!r}")
        if self.dtype is not None:
            object.__setattr__(self, "dtype", self.dtype.removeprefix("torch."))
            known = [name for name in _BYTES if self.to is None or name != "bfloat16"]  # .npy has no bfloat16
            if self.dtype not in known:
                raise GlassgateError(f"record: dtype must be one of {', '.join(known)}, got {self.dtype}")

    @property
    def everything(self) -> bool:
        """Whether nothing of a kept layer is to be dropped, changed or written."""
        return self == Keep(layers=self.layers)

    def of(self, cell: str) -> tuple[str, ...]:
        """Return which gates and states of a cell are kept."""
        return tuple(gate for gate in NAMES[cell] if self.gates is None or gate in self.gates)


class Recorded(NamedTuple):
    """A layer that a record may keep."""

    target: Target
    bytes: int  #: of a number
    is_cell: bool  #: takes one step a call


class Recording(Trace):
    """The traces of a model's layers while they are recorded, and after.

    A record is often opened for a call of a small layer, so what few ask for is found out when they do.

    Parameters
    ----------
    cells : mapping of str to {"lstm", "gru"}
        The layers' cells by the layers' names.
    about
        Tells more of each.
    keep
        What is kept; None: everything, as it comes.

    Raises
    ------
    GlassgateError
        A layer, gate or unit is not there.
    """

    def __init__(
        self, cells: Mapping[str, str], about: Callable[[], Mapping[str, Recorded]], keep: Keep | None = None
    ) -> None:
        self._keep = keep
        self._about: Callable[[], Mapping[str, Recorded]] | Mapping[str, Recorded] = about
        self._files: _Files | None = None
        if keep is None:
            super().__init__({name: LayerTrace(name, cell) for name, cell in cells.items()})
            return
        names = list(cells if keep.layers is None else keep.layers)
        if unknown := [name for name in names if name not in cells]:
            raise GlassgateError(f"record: the layers are {', '.join(cells)}, got {unknown[0]!r}")
        known = dict.fromkeys(gate for name in names for gate in NAMES[cells[name]])
        if unknown := [gate for gate in keep.gates or () if gate not in known]:
            raise GlassgateError(f"record: the gates and states are {', '.join(known)}, got {unknown[0]!r}")
        self._files = None if keep.to is None else _Files(Path(keep.to))
        if keep.everything:
            super().__init__({name: LayerTrace(name, cells[name]) for name in names})
            return
        layers: dict[str, LayerTrace] = {}
        for name in names:
            found, gates = about()[name], keep.of(cells[name])
            for gate in gates:
                _count(keep.units, found, gate, name)
            if gates:
                layers[name] = _Part(name, cells[name], gates, keep, found.is_cell, self._files)
        super().__init__(layers)

    def size(self, steps: int, sequences: int) -> int:
        """Return how many bytes are kept of a call with so many steps and sequences."""
        keep, about = self._keep or Keep(), self._known()
        width = 0  # bytes of one step of one sequence
        for name in self:
            found = about[name]
            units = sum(_count(keep.units, found, gate, name) for gate in keep.of(found.target.cell))
            width += units * (found.bytes if keep.dtype is None else _BYTES[keep.dtype])
        return len(range(*(keep.steps or slice(None)).indices(steps))) * sequences * width

    def _known(self) -> Mapping[str, Recorded]:
        return self._about() if callable(self._about) else self._about

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_about": self._known()}  # a copy holds no model

    def end(self, well: bool) -> None:
        """Close the files, if there are any: whole, or, where not all went well, not at all."""
        if self._files is None:
            return
        if well:
            self._files.close()
        else:
            self._files.drop()


def _count(units: Sequence[int] | None, layer: Recorded, gate: str, name: str) -> int:
    """Return how many units of a gate are kept."""
    count = layer.target.hidden if gate == "hidden" else layer.target.units
    if units is None:
        return count
    wrong = [unit for unit in units if isinstance(unit, bool) or unit not in range(count)]
    if wrong:
        raise GlassgateError(f"record: units must be from 0 to {count - 1} in {name}, got {wrong[0]}")
    return len(units)


class _Kept(NamedTuple):
    values: dict[str, Any]  # [T, N, units] by gate; empty where they are on disk
    steps: int
    sequences: int
    active: Any  # as in Chunk


class _Part(LayerTrace):
    """A layer's trace that keeps a part of what each call left."""

    def __init__(
        self, name: str, cell: str, gates: tuple[str, ...], keep: Keep, is_cell: bool, files: "_Files | None"
    ) -> None:
        super().__init__(name, cell)
        self._gates, self._keep, self._is_cell, self._files = gates, keep, is_cell, files
        self._calls = 0

    @property
    def names(self) -> tuple[str, ...]:
        return self._gates

    def add(self, chunk: Chunk) -> None:
        steps = self._steps()
        self._calls += 1
        values = {name: self._cut(super(_Part, self)._one(chunk, name), steps) for name in self._gates}
        active = chunk.active if chunk.active is None else chunk.active[steps]
        T, N = values[self._gates[0]].shape[:2]
        kept = _Kept(values, T, N, active)
        if self._files is not None:
            for name, part in values.items():
                self._files.append(f"{self._name}.{name}.npy", part)
            kept = kept._replace(values={})
        self._chunks.append(kept)  # type: ignore[arg-type]

    def _steps(self) -> slice:
        steps = self._keep.steps or slice(None)
        if not self._is_cell:
            return steps
        if min(steps.start or 0, steps.stop or 0) < 0:
            raise GlassgateError(f"record: steps: the calls of {self._name} have no end to count from")
        wanted = range(
            steps.start or 0, self._calls + 1 if steps.stop is None else steps.stop, steps.step or 1
        )
        return slice(None) if self._calls in wanted else slice(0)

    def _cut(self, values: Any, steps: slice) -> Any:
        keep = self._keep
        values = values[steps]
        if keep.units is not None:
            values = values[:, :, list(keep.units)]
        if type(values).__module__.startswith("numpy"):
            return values.astype(keep.dtype or values.dtype)
        import torch

        values = values.to(values.dtype if keep.dtype is None else getattr(torch, keep.dtype))
        if self._files is not None:
            return values.detach().cpu().numpy()
        return values.clone()  # else it would hold all that the call left

    def _sequences(self, chunk: Any) -> int:
        return int(chunk.sequences)

    def _one(self, chunk: Any, name: str) -> Any:
        return chunk.values[name]

    def _whole(self, name: str) -> Any:
        return super()._whole(name) if self._files is None else self._files.read(f"{self._name}.{name}.npy")

    def rows(self, name: str) -> Any:
        if self._files is None:
            return super().rows(name)
        self._check(name)
        values = self._whole(name)
        flat = values.reshape(-1, values.shape[2])
        marks: list[Any] = [chunk.active for chunk in self._chunks]
        if all(mark is None for mark in marks):
            return flat
        shapes: list[tuple[int, int]] = [(chunk.steps, chunk.sequences) for chunk in self._chunks]  # type: ignore[attr-defined]
        whole = [
            np.ones(shape, bool) if mark is None else np.asarray(mark)
            for mark, shape in zip(marks, shapes, strict=True)
        ]
        return flat[np.concatenate(whole).ravel()]


class _Files:
    """Arrays that grow along their first axis, each a .npy file that is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with reporting_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._open: dict[str, tuple[BinaryIO, npt.NDArray[Any]]] = {}  # with the last part
        self._steps: dict[str, int] = {}
        self._done = False

    def append(self, name: str, part: npt.NDArray[Any]) -> None:
        path = self.folder / name
        with reporting_disk_errors(path):
            if name not in self._open:
                temporary = self._stack.enter_context(replacing(path))
                opened: BinaryIO = self._stack.enter_context(temporary.open("wb"))
                self._open[name], self._steps[name] = (opened, part), 0
                self._head(name)
            file, last = self._open[name]
            if part.shape[1:] != last.shape[1:]:
                came = f"{last.shape[1]}, then {part.shape[1]}"
                raise GlassgateError(f"record: {name}: calls of one batch size expected, got {came}")
            file.write(np.ascontiguousarray(part).data)
            self._steps[name] += len(part)

    def _head(self, name: str) -> None:
        # NumPy leaves room in it for a larger first axis: it can be written again in place.
        file, part = self._open[name]
        head = {
            "descr": np.lib.format.dtype_to_descr(part.dtype),
            "fortran_order": False,
            "shape": (self._steps[name], *part.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, head)

    def close(self) -> None:
        for name, (file, _) in self._open.items():
            with reporting_disk_errors(self.folder / name):
                file.seek(0)
                self._head(name)
        self._stack.close()
        self._done = True

    def drop(self) -> None:
        with suppress(_GivenUpError):
            self._stack.__exit__(_GivenUpError, _GivenUpError(), None)

    def read(self, name: str) -> npt.NDArray[Any]:
        if not self._done:
            raise GlassgateError(f"record: {name} is read after the with, when it is written")
        path = self.folder / name
        empty = self._steps[name] == 0  # cannot be mapped
        found: npt.NDArray[Any] = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
        return found


class _GivenUpError(Exception):
    """Makes the open files go away."""
