"""Gated recurrent networks, LSTM and GRU, with every gate in glass.

``import glassgate`` costs no torch: what needs it is imported when it is first used.
"""

from glassgate.errors import GlassgateError

__all__ = ["GlassgateError", "__version__"]

__version__ = "0.1.0"
