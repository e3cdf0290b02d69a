"""Record what the gates do, and turn torch's layers into ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from glassgate.errors import GlassgateError
from glassgate.layers.cells import GRUCell, LSTMCell
from glassgate.layers.gru import GRU
from glassgate.layers.lstm import LSTM
from glassgate.layers.scanning import Scanning
from glassgate.trace import LayerTrace, Trace

__all__ = ["adopt", "named_layers", "record"]

M = TypeVar("M", bound=nn.Module)

_OURS: dict[type, type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell}


@contextmanager
def record(model: nn.Module) -> Iterator[Trace]:
    """Record the gates and states of every glassgate layer inside a model.

    Results and gradients are the same to the bit as without a record: the kernels keep the gates for the
    backward pass anyway, and seeing them costs a pointer. Gates are differentiable when gradients are on.
    Records may be nested; after the ``with``, and after an exception in it, nothing stays on the model.

    Parameters
    ----------
    model
        A layer, or any module with layers inside.

    Returns
    -------
    Trace
        LSTM: ``trace.forget``, ``.input``, ``.output``, ``.candidate``, ``.cell``, ``.hidden``; GRU:
        ``.reset``, ``.update``, ``.candidate``, ``.hidden``; each [T, N, H], time first in any case.
        In a stack by layer: ``trace["l0"].forget``, ``trace["l1_reverse"]``, ``trace["encoder.rnn.l0"]``;
        an LSTMCell or GRUCell by its own name.

    Raises
    ------
    GlassgateError
        There is no glassgate layer in the model.

    Examples
    --------
    >>> import torch
    >>> lstm = LSTM(4, 3)
    >>> with record(lstm) as trace:
    ...     y, (h, c) = lstm(torch.randn(5, 2, 4))
    >>> tuple(trace.forget.shape), torch.equal(trace.cell[-1], c[0]), torch.equal(trace.hidden, y)
    ((5, 2, 3), True, True)
    """
    layers: dict[str, LayerTrace] = {}
    recorders: dict[Scanning, dict[str, LayerTrace]] = {}
    for module, name, full in named_layers(model, "record"):
        kind = "lstm" if isinstance(module, nn.LSTM | nn.LSTMCell) else "gru"
        layers[full] = LayerTrace(full, kind)
        recorders.setdefault(module, {})[name] = layers[full]
    try:
        for module, own in recorders.items():
            module._recorders = (*module._recorders, own)
        yield Trace(layers)
    finally:
        for module, own in recorders.items():
            left = tuple(recorder for recorder in module._recorders if recorder is not own)
            if left:
                module._recorders = left
            else:
                module.__dict__.pop("_recorders", None)


def named_layers(model: nn.Module, where: str) -> list[tuple[Scanning, str, str]]:
    """Return each layer and direction: its module, its name there, and its name in the model.

    Raises
    ------
    GlassgateError
        There is none; ``where`` begins the message.
    """
    found = [
        (module, name, ".".join(part for part in (path, name) if part) or "cell")
        for path, module in model.named_modules()
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
    Subclasses with a forward of their own are left alone.

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
            own.__bases__ = (_OURS[own.__bases__[0]],)  # a class that torch made for this one module
    return model
