"""Torch layers: recurrent layers and output layers, usable alone."""

from glassgate.layers.gru import GRU
from glassgate.layers.output import AdaptiveSoftmax, FullSoftmax

__all__ = ["GRU", "AdaptiveSoftmax", "FullSoftmax"]
