"""Records of a part of what a model computes: chosen gates, layers, steps and units, in memory or on disk."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.edits import Target
from glassgate.errors import GlassgateError
from glassgate.folder.files import replacing, reporting_disk_errors
from glassgate.trace import NAMES, Chunk, LayerTrace, Trace

__all__ = ["Keep", "Recording"]

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
        """Whether nothing is to be dropped, changed or written."""
        return self == Keep(layers=self.layers)


class Recording(Trace):
    """The traces of a model's layers while they are recorded, and after.

    Parameters
    ----------
    keep
        What is kept.
    targets
        The layers by name.
    sizes
        How many bytes a number takes in each.
    cells
        Those which take one step a call.

    Raises
    ------
    GlassgateError
        A layer, gate or unit is not there.
    """

    def __init__(
        self,
        keep: Keep,
        targets: Mapping[str, Target],
        sizes: Mapping[str, int],
        cells: Collection[str] = (),
    ) -> None:
        names = list(targets if keep.layers is None else keep.layers)
        if unknown := [name for name in names if name not in targets]:
            raise GlassgateError(f"record: the layers are {', '.join(targets)}, got {unknown[0]!r}")
        known = dict.fromkeys(gate for name in names for gate in NAMES[targets[name].cell])
        if unknown := [gate for gate in keep.gates or () if gate not in known]:
            raise GlassgateError(f"record: the gates and states are {', '.join(known)}, got {unknown[0]!r}")
        self._keep = keep
        self._files = None if keep.to is None else _Files(Path(keep.to))
        self._widths: dict[str, int] = {}  # bytes of one step of one sequence
        layers: dict[str, LayerTrace] = {}
        for name in names:
            target = targets[name]
            gates = [gate for gate in NAMES[target.cell] if keep.gates is None or gate in keep.gates]
            if not gates:
                continue
            counts = [
                _count(keep.units, target.hidden if gate == "hidden" else target.units, name)
                for gate in gates
            ]
            self._widths[name] = sum(counts) * (sizes[name] if keep.dtype is None else _BYTES[keep.dtype])
            if keep.everything:
                layers[name] = LayerTrace(name, target.cell)
            else:
                layers[name] = _Part(name, target.cell, tuple(gates), keep, name in cells, self._files)
        super().__init__(layers)

    def size(self, steps: int, sequences: int) -> int:
        """Return how many bytes are kept of a call with so many steps and sequences."""
        kept = len(range(*(self._keep.steps or slice(None)).indices(steps)))
        return kept * sequences * sum(self._widths.values())

    @contextmanager
    def written(self) -> Iterator[None]:
        """Open the files, if there are any, and close them: whole, or, after an exception, not at all."""
        if self._files is None:
            yield
            return
        try:
            yield
        except BaseException:
            self._files.drop()
            raise
        self._files.close()


def _count(units: Sequence[int] | None, count: int, name: str) -> int:
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
