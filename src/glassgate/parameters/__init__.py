r"""Which trainable weights a network has, matrix by matrix, and why.

The notes' exercise: an LSTM with 20 nodes on a 10-dimensional embedding, 100 words, no bias.

>>> exercise = count(Network(cell="lstm", input=10, hidden=20, vocabulary=100, bias="none"))
>>> exercise.cell, exercise.output, exercise.total, exercise.embedding
(2400, 2000, 4400, 1000)
>>> print(*exercise.reasoning, sep="\n")
layer 0: 4 gates x 20 x (10 + 20) = 2,400
output V: 100 words x 20 = 2,000
embedding: 100 words x 10 = 1,000

The embedding stands outside of the count, as in the notes: ``total`` is cell and output. Only the
standard library is needed. `glassgate.folder.counting` counts a model folder.
"""

from glassgate.parameters.counting import FORMATS, Count, Matrix, Reason, count
from glassgate.parameters.network import Bias, Cell, Network, Reset

__all__ = [
    "FORMATS",
    "Bias",
    "Cell",
    "Count",
    "Matrix",
    "Network",
    "Reason",
    "Reset",
    "count",
]
