"""Torch layers: recurrent layers and output layers, usable alone."""

from glassgate.layers import batching, compiling, gradients
from glassgate.layers.cells import GRUCell, LSTMCell
from glassgate.layers.gru import GRU
from glassgate.layers.lstm import LSTM
from glassgate.layers.output import AdaptiveSoftmax, FullSoftmax
from glassgate.layers.record import adopt, record
from glassgate.layers.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "AdaptiveSoftmax", "FullSoftmax", "GRUCell", "LSTMCell", "adopt", "record"]

gradients.register()
batching.register()
compiling.allow(Recurrent)
