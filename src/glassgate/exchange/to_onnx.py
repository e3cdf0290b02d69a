"""A model folder as one ONNX graph."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.files import write_atomically
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.weights import map_weights

__all__ = ["export_onnx", "onnx_model"]

# The order of the gates: ONNX has i o f c and z r h, a model folder i f g o and r z n, as torch.
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
OPSET, IR = 14, 8  # old enough for every runtime of the last years
LARGEST = 2_000_000_000  # bytes; a protobuf message holds 2 GiB
FLOAT, INT64 = 1, 7  # the numbers of these types in ONNX

Array = npt.NDArray[np.float32]


def export_onnx(folder: Path, file: Path, probabilities: bool = False) -> None:
    """Write the model of a folder as an ONNX file, with its states as inputs and outputs.

    ========================== ======= ========================== =========================================
    inputs                                                        word numbers and states
    ``words``                  int64   [time, batch]              as tokenizer.json numbers them
    ``h``, LSTM: and ``c``     float32 [layers, batch, hidden]    zeros before the first word
    outputs                                                       after each word
    ``log_probabilities``      float32 [time, batch, vocabulary]  of the word that comes next, in nats; or
                                                                  ``probabilities``
    ``h_next``, and ``c_next`` float32 [layers, batch, hidden]    the state after the last word
    ========================== ======= ========================== =========================================

    Time and batch are free in every call. Where the model knows ``<eos>``, a text begins with its number:
    the runtime reads it by itself, a caller of the graph feeds it.

    Parameters
    ----------
    folder
        A model folder.
    file
        The file to write or replace.
    probabilities
        Whether probabilities come out instead of their logs.

    Raises
    ------
    GlassgateError
        When the folder is damaged, the weights take more than 2 GB, or the file cannot be written.

    References
    ----------
    The operators LSTM and GRU of the ONNX specification; the reset before the product is its
    ``linear_before_reset = 0``, the reset after it 1.
    """
    config, _ = read_folder(folder)
    stored = map_weights(folder / WEIGHTS, config.tensors())
    weights = {name: tensor.unpacked() for name, tensor in stored.items()}
    if sum(values.nbytes for values in weights.values()) > LARGEST:
        raise GlassgateError(f"{folder}: is too large for one ONNX file: its weights take more than 2 GB")
    write_atomically(file, onnx_model(config, weights, probabilities).SerializeToString())


def onnx_model(config: ModelConfig, weights: Mapping[str, Array], probabilities: bool = False) -> Any:
    """Return the graph that `export_onnx` writes, as an ``onnx.ModelProto``.

    Parameters
    ----------
    config, weights
        As a model folder holds them.
    probabilities
        As for `export_onnx`.

    Examples
    --------
    >>> config = ModelConfig(cell="gru", vocabulary=8, embedding=3, hidden=2)
    >>> weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    >>> [output.name for output in onnx_model(config, weights).graph.output]
    ['log_probabilities', 'h_next']
    """
    graph = _Graph(config, weights)
    states = ["h", "c"] if config.cell == "lstm" else ["h"]
    hidden = graph.layers(states)
    logs = graph.log_softmaxes(hidden)
    name = "probabilities" if probabilities else "log_probabilities"
    graph.node("Concat", ["shape", graph.whole("words_count", [config.vocabulary])], "out_shape", axis=0)
    graph.node("Reshape", [logs, "out_shape"], "logs" if probabilities else name)
    if probabilities:
        graph.node("Exp", ["logs"], name)

    helper = graph.helper
    state = ["layers", "batch", "hidden"]
    sizes: dict[str, Any] = {"layers": config.layers, "hidden": config.hidden}
    shape = [sizes.get(part, part) for part in state]
    inputs = [helper.make_tensor_value_info("words", INT64, ["time", "batch"])]
    inputs += [helper.make_tensor_value_info(part, FLOAT, shape) for part in states]
    outputs = [helper.make_tensor_value_info(name, FLOAT, ["time", "batch", config.vocabulary])]
    outputs += [helper.make_tensor_value_info(f"{part}_next", FLOAT, shape) for part in states]
    return helper.make_model(
        helper.make_graph(graph.nodes, "next word", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="glassgate",
    )


class _Graph:
    """Nodes and constants, added one by one; each value is named by what it is."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Array]) -> None:
        from onnx import helper, numpy_helper

        self.config, self.weights = config, weights
        self.helper: Any = helper
        self.from_array: Any = numpy_helper.from_array
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
        self.nodes.append(self.helper.make_node(kind, list(inputs), list(outputs), **attributes))

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self.constants.append(self.from_array(np.ascontiguousarray(values), name))
        return name

    def whole(self, name: str, values: Sequence[int]) -> str:
        return self.constant(name, np.array(values, np.int64))

    def layers(self, states: Sequence[str]) -> str:
        """Add what leads from words to hidden states [time, batch, hidden] and to the next states."""
        config = self.config
        self.embedding()
        self.node("Gather", ["embedding", "words"], "x0")
        one_each = self.whole("one_each", [1] * config.layers)
        for state in states:
            parts = [f"{state}{layer}" for layer in range(config.layers)]
            self.node("Split", [state, one_each], *parts, axis=0)
        direction = self.whole("direction", [1])
        for layer in range(config.layers):
            after = [f"{state}{layer}_next" for state in states]
            attributes = {"hidden_size": config.hidden}
            if config.cell == "gru":
                attributes["linear_before_reset"] = int(config.reset == "after")
            inputs = [f"x{layer}", *self.gates(layer), "", *(f"{state}{layer}" for state in states)]
            self.node(config.cell.upper(), inputs, f"y{layer}", *after, **attributes)
            self.node("Squeeze", [f"y{layer}", direction], f"x{layer + 1}")
        for state in states:
            parts = [f"{state}{layer}_next" for layer in range(config.layers)]
            self.node("Concat", parts, f"{state}_next", axis=0)
        return f"x{config.layers}"

    def embedding(self) -> None:
        """Add the embedding, of full width: a runtime widens the bands of an adaptive one when it loads."""
        first, *narrow = self.config.bands
        if not narrow:
            self.constant("embedding", self.weights[first.table])
            return
        parts = [self.constant("E0", self.weights[first.table])]
        for number, band in enumerate(narrow, start=1):
            assert band.projection is not None
            E = self.constant(f"E{number}", self.weights[band.table])
            Q = self.constant(f"Q{number}", self.weights[band.projection])
            self.node("Gemm", [E, Q], f"widened{number}", transB=1)
            parts.append(f"widened{number}")
        self.node("Concat", parts, "embedding", axis=0)

    def gates(self, layer: int) -> list[str]:
        """Add the weights of a layer: [1, gates hidden, inputs], both biases side by side."""
        order = ORDER[self.config.cell]

        def ordered(name: str) -> Array:
            parts = np.split(self.weights[f"rnn.{name}_l{layer}"], len(order))
            return np.concatenate([parts[gate] for gate in order])[None]

        names = [self.constant(f"W{layer}", ordered("weight_ih"))]
        names += [self.constant(f"R{layer}", ordered("weight_hh"))]
        if not self.config.bias:
            return [*names, ""]
        both = np.concatenate((ordered("bias_ih"), ordered("bias_hh")), axis=1)
        return [*names, self.constant(f"B{layer}", both)]

    def log_softmaxes(self, hidden: str) -> str:
        """Add what leads from hidden states to log y, [time batch, vocabulary]."""
        config = self.config
        self.node("Shape", ["words"], "shape")
        self.node("Reshape", [hidden, self.whole("rows", [-1, config.hidden])], "h_rows")
        rows = "h_rows"
        if "projection.weight" in self.weights:
            self.product(rows, self.constant("P", self.weights["projection.weight"]), None, "projected")
            rows = "projected"
        V = "embedding" if config.tied else self.constant("V", self.weights["output.weight"])
        self.product(rows, V, "output.bias", "logits")
        if not config.cutoffs:
            self.node("LogSoftmax", ["logits"], "log_y", axis=-1)
            return "log_y"
        entries = self.constant("entries", self.weights["output.clusters.weight"])
        self.product(rows, entries, "output.clusters.bias", "entry_logits")
        bounds = (0, *config.cutoffs, config.vocabulary)
        sizes = self.whole("sizes", [stop - start for start, stop in pairwise(bounds)])
        clusters = range(1, len(bounds) - 1)
        self.node("Split", ["logits", sizes], *(f"logits{number}" for number in (0, *clusters)), axis=1)
        self.node("Concat", ["logits0", "entry_logits"], "head_logits", axis=1)
        self.node("LogSoftmax", ["head_logits"], "head", axis=-1)
        head_sizes = self.whole("head_sizes", [config.cutoffs[0], *(1 for _ in clusters)])
        self.node("Split", ["head", head_sizes], "log_y0", *(f"entry{n}" for n in clusters), axis=1)
        for number in clusters:
            self.node("LogSoftmax", [f"logits{number}"], f"within{number}", axis=-1)
            self.node("Add", [f"within{number}", f"entry{number}"], f"log_y{number}")
        self.node("Concat", [f"log_y{number}" for number in (0, *clusters)], "log_y", axis=1)
        return "log_y"

    def product(self, rows: str, matrix: str, bias: str | None, name: str) -> None:
        """Add rows times a matrix that lies transposed, and a bias where the model has it."""
        inputs = [rows, matrix]
        if bias in self.weights:
            assert bias is not None
            inputs.append(self.constant(bias, self.weights[bias]))
        self.node("Gemm", inputs, name, transB=1)
