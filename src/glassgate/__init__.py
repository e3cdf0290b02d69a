"""Gated recurrent networks, LSTM and GRU, with every gate in glass.

``import glassgate`` costs no torch: what needs it is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from glassgate.errors import GlassgateError

if TYPE_CHECKING:
    from glassgate.edits import Edit
    from glassgate.layers import GRU, LSTM, GRUCell, LSTMCell, adopt, edit, record
    from glassgate.runtime import load

__all__ = [
    "GRU",
    "LSTM",
    "Edit",
    "GRUCell",
    "GlassgateError",
    "LSTMCell",
    "__version__",
    "adopt",
    "edit",
    "load",
    "record",
]

__version__ = "0.1.0"

_LAYERS = ("GRU", "GRUCell", "LSTM", "LSTMCell", "adopt", "edit", "record")


def __getattr__(name: str) -> Any:
    if name == "load":
        from glassgate.runtime import load

        return load
    if name == "Edit":
        from glassgate.edits import Edit

        return Edit
    if name not in _LAYERS:
        raise AttributeError(f"module 'glassgate' has no attribute {name!r}")
    from glassgate import layers

    return getattr(layers, name)


def __dir__() -> list[str]:
    return __all__
