"""A network on the kernels: word numbers in, hidden states out. It knows no words and no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.edit_tables import compile_edits
from glassgate.edits import Edit, Target
from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.kernels import LSTMForward, PackedGRU, PackedLSTM
from glassgate.runtime.matrix import Array, Matrix, Numbers
from glassgate.runtime.output import QUIET, Output
from glassgate.runtime.word_inputs import WORTH, WordInputs
from glassgate.runtime.word_matrix import Piece, WordMatrix
from glassgate.trace import Chunk, LayerTrace

__all__ = ["Network", "State"]

State: TypeAlias = tuple[Array, ...]
"""What runs through time: (h, C) of an LSTM, (h,) of a GRU, each [layers, N, hidden]."""


class Network:
    """Embedding, stack of LSTM or GRU layers, projection and output.

    The recurrent weights are packed once, here. The embedding and V are used where they lie: in a
    mapped file their memory is the system's, which all processes share.

    Parameters
    ----------
    config
        Sizes and forms.
    weights
        As model.safetensors holds them; or arrays, all float32 or all float64.
    threads
        That a step may use; 0: as many as `glassgate.kernels.num_threads` says.

    Attributes
    ----------
    output : Output
        What follows `step` and `run`.

    Examples
    --------
    >>> config = ModelConfig(cell="lstm", vocabulary=8, embedding=3, hidden=2, bias=False, tied=False)
    >>> weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    >>> network = Network(config, weights)
    >>> state = network.initial_state(1)
    >>> network.step(np.array([3]), state)
    >>> network.output.log_probabilities(network.features(state[0][-1])).round(4)[0, :2]
    array([-2.0794, -2.0794], dtype=float32)
    """

    def __init__(
        self, config: ModelConfig, weights: "Mapping[str, Stored | Array]", threads: int = 1
    ) -> None:
        self.config = config
        self.threads = threads
        stored = {name: w if isinstance(w, Stored) else Stored(w) for name, w in weights.items()}
        self.embedding = V = WordMatrix.embedding(config, stored)
        if not config.tied:
            V = WordMatrix([Piece(0, Matrix(stored.pop("output.weight")))])
        projection = stored.pop("projection.weight", None)
        others = {
            name: tensor.unpacked() for name, tensor in stored.items() if not name.startswith("embedding.")
        }
        self.projection = None if projection is None else Matrix(projection)
        self.output = Output(config, V, others, threads, self.projection)
        self.layers = [_layer(config, others, number) for number in range(config.layers)]
        large = others["rnn.weight_ih_l0"].nbytes > WORTH
        self._inputs = WordInputs(self.layers[0], self.embedding, threads) if large else None

    def initial_state(self, sequences: int) -> State:
        """Return the state before the first word: zeros."""
        shape = (self.config.layers, sequences, self.config.hidden)
        count = 2 if self.config.cell == "lstm" else 1
        return tuple(np.zeros(shape, self.embedding.dtype) for _ in range(count))

    def checked_state(self, state: Sequence[npt.ArrayLike]) -> State:
        """Return a copy of the state of one sequence, each part [layers, hidden], with an axis for sequences.

        Raises
        ------
        GlassgateError
            When it has other parts, or what is no finite number.
        """
        own = self.initial_state(1)
        shape = own[0][:, 0].shape
        try:
            parts = [np.asarray(part) for part in state]
        except (TypeError, ValueError) as error:
            raise GlassgateError(
                f"the state: must be {len(own)} of {shape}, got no arrays: {error}"
            ) from error
        came = [part.shape for part in parts]
        if came != [shape] * len(own):
            raise GlassgateError(f"the state: must be {len(own)} of {shape}, got {came}")
        for part, values in zip(own, parts, strict=True):
            if values.dtype.kind not in "fiu":
                raise GlassgateError(f"the state: must be real numbers, got {values.dtype}")
            with np.errstate(over="ignore"):  # too large for float32: told as what it becomes there
                part[:, 0] = values
            if not np.isfinite(part).all():
                wrong = values[~np.isfinite(part[:, 0])][0]
                raise GlassgateError(f"the state: must be finite in {part.dtype}, got {wrong}")
        return own

    def step(self, words: npt.NDArray[np.integer[Any]], state: State) -> None:
        """Read one word of each sequence: words [N]; the state goes on in place."""
        summed = self._inputs is not None
        x = self.embedding.rows(words) if self._inputs is None else self._inputs.of(words)
        for layer, own in zip(self.layers, zip(*state, strict=True), strict=True):
            layer.step(x, *own, summed=summed, threads=self.threads)
            x, summed = own[0], False

    @property
    def targets(self) -> dict[str, Target]:
        """What edits must know of the layers, by their names: l0, l1, ..."""
        config = self.config
        return {
            f"l{number}": Target(config.cell, config.hidden, config.hidden) for number in range(config.layers)
        }

    def run(
        self,
        words: Numbers,
        state: State,
        edits: Mapping[str, Sequence[Edit]] | None = None,
        first: int | None = None,
        traces: Mapping[str, LayerTrace] | None = None,
    ) -> Array:
        """Read words [T, N] and return what V multiplies, [T, N, width]; the state goes on in place.

        Parameters
        ----------
        words, state
            What is read, and from where.
        edits
            For each layer its edits, as `glassgate.edits.for_layers` sorts them by `targets`.
        first
            The number of the first step, where the words are a part of a stream; see
            `glassgate.edit_tables.chosen`.
        traces
            Where each layer's gates and states are recorded.

        Raises
        ------
        GlassgateError
            An edit does not fit the words.
        """
        x = self.embedding.rows(words)
        for name, layer, own in zip(self.targets, self.layers, zip(*state, strict=True), strict=True):
            cell, table = self.config.cell, None
            if edits and name in edits:
                T, N = words.shape
                table = compile_edits(edits[name], cell, T, N, self.config.hidden, x.dtype, first=first)
            result = layer.forward(x, *own, save=traces is not None, edits=table)
            x = result.hidden
            last = (result.h_n, result.c_n) if isinstance(result, LSTMForward) else (result.h_n,)
            if traces is not None:
                cells = result.cell if isinstance(result, LSTMForward) else None
                traces[name].add(Chunk(x, result.gates, cells, None))
            for part, values in zip(own, last, strict=True):
                part[:] = values
        return self._many_features(x)

    @QUIET
    def features(self, h: Array) -> Array:
        """Return what V multiplies, from the last layer's hidden states [N, H]: those, or P h [N, width].

        Those of a sequence have the same bits whatever others are there.
        """
        return h if self.projection is None else self.projection.products(h)

    @QUIET
    def _many_features(self, h: Array) -> Array:
        """Return the same of a whole text [T, N, H], by a BLAS."""
        if self.projection is None:
            return h
        return self.projection.product(h.reshape(-1, h.shape[-1]), None).reshape(*h.shape[:-1], -1)


def _layer(config: ModelConfig, weights: Mapping[str, Array], number: int) -> PackedLSTM | PackedGRU:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_ih, w_hh, b_ih, b_hh = (weights.get(f"rnn.{name}_l{number}") for name in names)
    assert w_ih is not None
    assert w_hh is not None
    if config.cell == "lstm":
        return PackedLSTM(w_ih, w_hh, b_ih, b_hh)
    return PackedGRU(w_ih, w_hh, b_ih, b_hh, reset=config.reset)
