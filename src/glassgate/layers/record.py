"""Record what the gates do, and turn torch's layers into ours."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from glassgate.edits import Target
from glassgate.errors import GlassgateError
from glassgate.layers.cells import GRUCell, LSTMCell
from glassgate.layers.gru import GRU
from glassgate.layers.lstm import LSTM
from glassgate.layers.scanning import Scanning
from glassgate.recording import Keep, Recorded, Recording
from glassgate.trace import LayerTrace

if TYPE_CHECKING:
    import torch

__all__ = ["adopt", "named_layers", "record", "target"]

M = TypeVar("M", bound=nn.Module)
_Recorder: TypeAlias = dict[str, LayerTrace]  # by the names in the module

_OURS: dict[type, type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell}


def record(
    model: nn.Module,
    *,
    gates: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    steps: slice | None = None,
    units: Sequence[int] | None = None,
    dtype: "torch.dtype | str | None" = None,
    to: Path | str | None = None,
) -> AbstractContextManager[Recording]:
    """Record the gates and states of every glassgate layer inside a model.

    Where the kernels compute, results and gradients are the same to the bit as without a record: they keep
    the gates for the backward pass anyway, and seeing them costs a pointer. Where torch's own path computes
    without a record, plain torch operations compute with it, and the last bits differ.

    Gates are differentiable when gradients are on. A module at several places of the model has the name of
    the first; layers of torch's that were not adopted are not recorded. Inside a function that torch
    transforms (vmap, grad and the like) open the record there. Records may be nested; after the ``with``, and
    after an exception in it, nothing stays on the model.

    Parameters
    ----------
    model
        A layer, or any module with layers inside.
    gates, layers, steps, units
        What to keep, by default all; the rest is dropped after each call. Steps are those of each call by
        itself; an LSTMCell's or GRUCell's are its calls.
    dtype
        In which the values are kept: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``.
    to
        A folder: the values are written there, a file ``l0.forget.npy`` [T, N, H] for each gate, and
        memory holds none of them. When the ``with`` ends well the files are there, and the trace reads from
        them; when an exception leaves it they are not.

    Returns
    -------
    context manager of Recording
        LSTM: ``trace.forget``, ``.input``, ``.output``, ``.candidate``, ``.cell``, ``.hidden``; GRU:
        ``.reset``, ``.update``, ``.candidate``, ``.hidden``; each [T, N, H], time first in any case.
        In a stack by layer: ``trace["l0"].forget``, ``trace["l1_reverse"]``, ``trace["encoder.rnn.l0"]``;
        an LSTMCell or GRUCell by its own name. ``trace.size(T, N)`` tells how many bytes a call will take.

    Raises
    ------
    GlassgateError
        There is no glassgate layer in the model, or what is to be kept is not there; with ``to``, later: a
        call has another batch than the one before, or the disk refuses.

    Examples
    --------
    >>> import torch
    >>> lstm = LSTM(4, 3)
    >>> with record(lstm) as trace:
    ...     y, (h, c) = lstm(torch.randn(5, 2, 4))
    >>> tuple(trace.forget.shape), torch.equal(trace.cell[-1], c[0]), torch.equal(trace.hidden, y)
    ((5, 2, 3), True, True)
    >>> with record(lstm, gates=["forget"], units=[0, 2], dtype="float16") as trace:
    ...     trace.size(5, 2)  # bytes
    ...     y, _ = lstm(torch.randn(5, 2, 4))
    40
    """
    keep = None
    part = gates is not None or steps is not None or units is not None or dtype is not None or to is not None
    if part or layers is not None:
        keep = Keep(gates, layers, steps, units, None if dtype is None else str(dtype), to)
    return _Record(model, keep)


class _Record:
    """What `record` opens. A class and few calls: a generator would cost a small layer a tenth of it."""

    def __init__(self, model: nn.Module, keep: Keep | None) -> None:
        self._model, self._keep = model, keep
        self._open: list[tuple[Recording, dict[Scanning, _Recorder]]] = []

    def __enter__(self) -> Recording:
        found = named_layers(self._model, "record")
        cells = {full: module._trace_cell for module, _, full in found}
        trace = Recording(cells, partial(_about, found), self._keep)
        recorders: dict[Scanning, _Recorder] = {}
        kept = trace._layers
        for module, name, full in found:
            if full in kept:
                recorders.setdefault(module, {})[name] = kept[full]
        for module, own in recorders.items():
            module.__dict__["_recorders"] = (*module._recorders, own)
        self._open.append((trace, recorders))
        return trace

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        trace, recorders = self._open.pop()
        for module, own in recorders.items():
            if len(module._recorders) > 1:
                left = tuple(recorder for recorder in module._recorders if recorder is not own)
                module.__dict__["_recorders"] = left
            else:
                module.__dict__.pop("_recorders", None)
        trace.end(well=error is None)


def _about(found: "list[tuple[Scanning, str, str]]") -> dict[str, Recorded]:
    about = {}
    for module, _, full in found:
        size = next(iter(module.parameters())).element_size()
        about[full] = Recorded(target(module), size, isinstance(module, nn.RNNCellBase))
    return about


def target(module: Scanning) -> Target:
    """Return what an edit or a record must know of a module's layers."""
    units: Any = module.hidden_size
    return Target(module._trace_cell, units, getattr(module, "proj_size", 0) or units)


def named_layers(model: nn.Module, where: str) -> list[tuple[Scanning, str, str]]:
    """Return each layer and direction: its module, its name there, and its name in the model.

    Raises
    ------
    GlassgateError
        There is none; ``where`` begins the message.
    """
    modules = model.named_modules() if model._modules else (("", model),)  # a single layer is soon found
    found = [
        (module, name, f"{path}.{name}" if path and name else path or name or "cell")
        for path, module in modules
        if isinstance(module, Scanning)
        for name in module._trace_names()
    ]
    if not found:
        raise GlassgateError(
            f"{where}: {type(model).__name__} has no glassgate layer; glassgate.adopt(model) makes its "
            "torch.nn.LSTM and torch.nn.GRU ours"
        )
    return found


def adopt(model: M) -> M:
    """Turn every ``torch.nn.LSTM``, ``GRU``, ``LSTMCell`` and ``GRUCell`` inside a model into ours, in place.

    The modules stay the same objects with the same parameters, hooks and names; only who computes changes.
    Subclasses are left alone, but for the classes that torch makes for parametrised modules.

    Parameters
    ----------
    model
        A layer, or any module with layers inside.

    Returns
    -------
    nn.Module
        The model itself.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.ModuleDict({"encoder": nn.LSTM(4, 3)})
    >>> adopt(model)["encoder"].__class__ is LSTM
    True
    """
    for module in model.modules():
        own = type(module)
        if own in _OURS:
            module.__class__ = _OURS[own]
        elif parametrize.is_parametrized(module) and own.__bases__[0] in _OURS:
            # Copies of the module share the class that torch made for it: theirs stays as it is.
            contents = {name: v for name, v in vars(own).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(own.__name__, (_OURS[own.__bases__[0]],), contents)
    return model
