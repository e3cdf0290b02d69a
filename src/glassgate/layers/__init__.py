"""Torch layers: recurrent layers and output layers, usable alone."""

from glassgate.layers import batching, compiling, gradients
from glassgate.layers.adaptive_embedding import AdaptiveEmbedding
from glassgate.layers.cells import GRUCell, LSTMCell
from glassgate.layers.editing import edit
from glassgate.layers.gru import GRU
from glassgate.layers.lstm import LSTM
from glassgate.layers.output import AdaptiveSoftmax, FullSoftmax
from glassgate.layers.record import adopt, record
from glassgate.layers.recurrent import Recurrent
from glassgate.layers.rows import Embedding, RowGradient, track

__all__ = [
    "GRU",
    "LSTM",
    "AdaptiveEmbedding",
    "AdaptiveSoftmax",
    "Embedding",
    "FullSoftmax",
    "GRUCell",
    "LSTMCell",
    "RowGradient",
    "adopt",
    "edit",
    "record",
    "track",
]

gradients.register()
batching.register()
compiling.allow(Recurrent)
