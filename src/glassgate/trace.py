"""What a layer computed, by name: the record that both faces of the kernels fill, torch's and NumPy's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from glassgate.errors import GlassgateError

if TYPE_CHECKING:
    import anywidget

__all__ = ["NAMES", "Chunk", "LayerTrace", "Trace"]

_GATES = {
    "lstm": {"input": 0, "forget": 1, "candidate": 2, "output": 3},
    "gru": {"reset": 0, "update": 1, "candidate": 2},
}
_STATES = {"lstm": ("cell", "hidden"), "gru": ("hidden",)}

NAMES = {cell: (*gates, *_STATES[cell]) for cell, gates in _GATES.items()}
"""The gates and states of each cell, in the kernels' order."""


class UnknownNameError(GlassgateError, AttributeError):
    """A gate that the cell does not have; an AttributeError too, so that `hasattr` works."""


class Chunk(NamedTuple):
    """What one call of a layer left: arrays of torch or of NumPy."""

    hidden: Any  #: [T, N, H]
    gates: Any  #: [T, N, gates, H] in the kernels' order
    cell: Any  #: [T, N, H]; GRU: not read
    active: Any  #: [T, N], where a step counts; None: everywhere


class LayerTrace:
    """The gates and states of one layer in one direction, each [T, N, H], time first.

    LSTM: ``forget``, ``input``, ``output``, ``candidate``, ``cell``, ``hidden``. GRU: ``reset``, ``update``
    (the share of the NEW value), ``candidate``, ``hidden``. Steps past a sequence's length are zero. When the
    layer was called several times, the steps stand one after another in the order of the calls.

    Parameters
    ----------
    name
        The layer's name, for messages.
    cell : {"lstm", "gru"}
        Which gates there are.
    reset : {"before", "after"}, optional
        Where the reset gate of a GRU acts; None: not known.

    Raises
    ------
    GlassgateError
        On access: the layer was not called, a name is unknown, or the calls had batches of different sizes.
    """

    def __init__(self, name: str, cell: str, reset: str | None = None) -> None:
        self._name = name
        self._cell = cell
        self._reset = reset
        self._chunks: list[Chunk] = []

    @property
    def name(self) -> str:
        """The layer's name."""
        return self._name

    @property
    def cell_kind(self) -> str:
        """``"lstm"`` or ``"gru"``; ``cell`` is the LSTM's state."""
        return self._cell

    @property
    def reset_kind(self) -> str | None:
        """Where the reset gate of a GRU acts, ``"before"`` or ``"after"`` the product; None: not known."""
        return self._reset

    @property
    def names(self) -> tuple[str, ...]:
        """The gates and states that there are."""
        return NAMES[self._cell]

    def add(self, chunk: Chunk) -> None:
        """Take in what one call left."""
        self._chunks.append(chunk if self._cell == "lstm" else chunk._replace(cell=None))

    def rows(self, name: str) -> Any:
        """Return a gate or state at all steps that count, of all sequences and calls: [M, H]."""
        self._check(name)
        parts = []
        for chunk in self._chunks:
            values = self._one(chunk, name)
            flat = values.reshape(-1, values.shape[2])
            parts.append(flat if chunk.active is None else flat[chunk.active.reshape(-1)])
        return _join(parts)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._check(name)
        return self._whole(name)

    def _whole(self, name: str) -> Any:
        sizes = {self._sequences(chunk) for chunk in self._chunks}
        if len(sizes) > 1:
            raise GlassgateError(
                f"trace: {self._name} was called with batches of {', '.join(map(str, sorted(sizes)))}; "
                "record each call by itself"
            )
        return _join([self._one(chunk, name) for chunk in self._chunks])

    def _sequences(self, chunk: Chunk) -> int:
        return int(chunk.hidden.shape[1])

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise UnknownNameError(f"trace: {self._name} has {', '.join(self.names)}, got {name!r}")
        if not self._chunks:
            raise GlassgateError(f"trace: {self._name} was not called while it was recorded")

    def _one(self, chunk: Chunk, name: str) -> Any:
        if name in ("cell", "hidden"):
            return getattr(chunk, name)
        values = chunk.gates[:, :, _GATES[self._cell][name]]
        if name != "update":
            return values
        # The kernels keep z = 1 - u; past a sequence's end both are zero.
        update = 1 - values
        return update if chunk.active is None else update * chunk.active[:, :, None]

    def explore(self, words: Sequence[str] | None = None, sequence: int = 0) -> "anywidget.AnyWidget":
        """Return a heat map of this layer to explore in a notebook: see `Trace.explore`."""
        return Trace({self._name: self}).explore(words, sequence)

    def __repr__(self) -> str:
        return f"<trace of {self._name}: {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        return Trace({self._name: self})._repr_html_()


class Trace(Mapping[str, LayerTrace]):
    """The traces of a model's layers, by name: ``trace["encoder.rnn.l0"].forget``.

    With one layer alone its gates are here as well: ``trace.forget``.

    Parameters
    ----------
    layers
        The layers' traces by name.

    Raises
    ------
    GlassgateError
        On access: a layer is unknown, or a gate is asked for and there are several layers.
    """

    def __init__(self, layers: Mapping[str, LayerTrace]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, name: str) -> LayerTrace:
        if name not in self._layers:
            raise GlassgateError(f"trace: the layers are {', '.join(self._layers)}, got {name!r}")
        return self._layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if len(self._layers) > 1:
            first = next(iter(self._layers))
            raise UnknownNameError(
                f"trace: there are several layers ({', '.join(self._layers)}); name one, "
                f"as in trace[{first!r}].{name}"
            )
        return getattr(next(iter(self._layers.values())), name)

    def explore(self, words: Sequence[str] | None = None, sequence: int = 0) -> "anywidget.AnyWidget":
        """Return a heat map of every gate to explore in a notebook: point at a cell, and see how it arose.

        Parameters
        ----------
        words
            The T words; None: the steps' numbers.
        sequence
            Which of the batch.

        Returns
        -------
        anywidget.AnyWidget
            Shows itself as the last line of a notebook's cell. ``.cell`` is the cell that is chosen there;
            it can be set.

        Raises
        ------
        GlassgateError
            When anywidget is not installed (``pip install 'glassgate[notebook]'``), a layer was not called,
            there is no such sequence, or the words are not one for each step.
        """
        from glassgate.lens.explore import document, widget

        return widget(document(self, words, sequence=sequence))

    def __repr__(self) -> str:
        return f"<trace of {', '.join(self._layers)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a heat map for each gate."""
        from glassgate.lens.html import still

        return still(None, self)


def _join(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if type(parts[0]).__module__.startswith("numpy"):
        import numpy as np

        return np.concatenate(parts)
    import torch

    return torch.cat(parts)
