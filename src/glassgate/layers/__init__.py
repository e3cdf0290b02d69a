"""Torch layers: recurrent layers and output layers, usable alone."""

from glassgate.layers.gru import GRU
from glassgate.layers.lstm import LSTM
from glassgate.layers.output import AdaptiveSoftmax, FullSoftmax
from glassgate.layers.record import adopt, record

__all__ = ["GRU", "LSTM", "AdaptiveSoftmax", "FullSoftmax", "adopt", "record"]
