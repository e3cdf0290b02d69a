"""The recurrences on NumPy arrays: LSTM and GRU, forward, backward and step by step, in compiled code.

Arrays are time-major: T steps, N sequences, I inputs, H hidden units, G gates; float32 or float64, all alike.
The order of the gates is torch's: LSTM input, forget, candidate, output; GRU reset, z, candidate, where
z = 1 - update is the share of the OLD state (``glassgate.equations`` says it once, with the equations).

Results are the same bits for any number of threads, for a sequence at once or step by step, for a padded
batch with ``lengths`` or each sequence alone, and from run to run. ``docs/kernels.md`` says how, and what may
be relied on.

The environment variable ``GLASSGATE_ISA`` forces an instruction set: baseline, avx2, avx512, avx512bf16, amx.
"""

from glassgate.kernels._calls import Gradients
from glassgate.kernels._packed import PackedGRU, PackedLSTM
from glassgate.kernels._sequence import (
    GRUForward,
    LSTMForward,
    gru_backward,
    gru_forward,
    lstm_backward,
    lstm_forward,
)
from glassgate.kernels._settings import isa, num_threads, set_num_threads, using_threads

__all__ = [
    "GRUForward",
    "Gradients",
    "LSTMForward",
    "PackedGRU",
    "PackedLSTM",
    "gru_backward",
    "gru_forward",
    "isa",
    "lstm_backward",
    "lstm_forward",
    "num_threads",
    "set_num_threads",
    "using_threads",
]
