"""From a network's sizes to its matrices, their sums, and the arithmetic behind them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from glassgate.parameters.network import Network, plural

__all__ = ["FORMATS", "Count", "Matrix", "Reason", "count"]

FORMATS: Mapping[str, int] = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of one weight in each number format."""

# The notes' letters, in the notes' order; how torch stacks them does not change the count.
GATES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "lstm": (("f", "forget"), ("i", "input"), ("g", "candidate"), ("o", "output")),
    "gru": (("r", "reset"), ("u", "update"), ("g", "candidate")),
}


@dataclass(frozen=True)
class Matrix:
    """One matrix or vector of trainable weights: one gate's, never a stack of several.

    Attributes
    ----------
    name
        In the notes' letters: ``U_f``, ``W_f``, ``b_f``, V, c; ``b'_f`` is torch's second bias.
    tensor
        The tensor that holds it in a state_dict and in model.safetensors: ``rnn.weight_ih_l0``.
    role
        What it does.
    gate
        Whose it is: forget, input, candidate, output; reset, update, candidate. Else None.
    layer, direction
        Where in the stack, from 0, and ``"forward"`` or ``"backward"``; None outside of the cell.
    shape
        Rows and columns.
    """

    name: str
    tensor: str
    role: str
    gate: str | None
    layer: int | None
    direction: str | None
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many weights it holds."""
        return prod(self.shape)

    @property
    def part(self) -> str:
        """The part of the network that it belongs to: cell, output or embedding."""
        return "cell" if self.layer is not None else "embedding" if self.role == "embedding" else "output"


@dataclass(frozen=True)
class Reason:
    """One line of arithmetic: what it counts, how, and the number that comes out."""

    of: str
    formula: str
    count: int

    def __str__(self) -> str:
        return f"{self.of}: {self.formula} = {self.count:,}"


@dataclass(frozen=True)
class Count:
    """The trainable weights of a network.

    Attributes
    ----------
    network
        What was counted.
    matrices
        Every matrix, once: layer by layer, then output, then embedding.
    reasoning
        The same numbers as arithmetic.

    Examples
    --------
    >>> counted = count(Network(cell="lstm", input=10, hidden=20, vocabulary=100, bias="none", tied=True))
    >>> [(matrix.name, matrix.shape) for matrix in counted.matrices if matrix.part == "output"]
    [('P', (10, 20)), ('V', (100, 10))]
    >>> counted.output, counted.embedding, counted.total
    (1200, 0, 3600)
    """

    network: Network
    matrices: tuple[Matrix, ...]
    reasoning: tuple[Reason, ...]

    def of(self, part: str) -> int:
        """Sum the weights of one part: cell, output or embedding."""
        return sum(matrix.count for matrix in self.matrices if matrix.part == part)

    @property
    def cell(self) -> int:
        """The weights of all recurrent layers."""
        return self.of("cell")

    @property
    def output(self) -> int:
        """The weights of y = softmax(V h + c); V is among them also when it is tied."""
        return self.of("output")

    @property
    def embedding(self) -> int:
        """The weights of an embedding of its own; 0 when it is V, which is counted as output."""
        return self.of("embedding")

    @property
    def total(self) -> int:
        """Cell and output: the embedding stands outside of the count."""
        return self.cell + self.output

    @property
    def with_embedding(self) -> int:
        """All that is trained, each matrix once."""
        return self.total + self.embedding

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Stack the gates, as a state_dict holds them: the shape of each tensor by its name.

        Examples
        --------
        >>> count(Network(cell="gru", input=10, hidden=20, bias="none")).tensors()
        {'rnn.weight_ih_l0': (60, 10), 'rnn.weight_hh_l0': (60, 20)}
        """
        stacked: dict[str, tuple[int, ...]] = {}
        for matrix in self.matrices:
            rows, *columns = matrix.shape
            above = stacked.get(matrix.tensor, (0,))[0]
            stacked[matrix.tensor] = (above + rows, *columns)
        return stacked

    def as_dict(self) -> dict[str, Any]:
        """Return what ``glassgate count --json`` prints.

        Bytes are those of the weights alone: 4, 2 or 1 for each weight and bias, no scales, no
        file headers, no activations.

        Examples
        --------
        >>> exercise = count(Network(cell="lstm", input=10, hidden=20, vocabulary=100, bias="none"))
        >>> {key: value for key, value in exercise.as_dict().items() if key != "matrices"}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'cell': 2400, 'output': 2000, 'embedding': 1000, 'total': 4400, 'with_embedding': 5400,
         'bytes': {'fp32': 17600, 'bf16': 8800, 'int8': 4400},
         'bytes_with_embedding': {'fp32': 21600, 'bf16': 10800, 'int8': 5400}}
        >>> exercise.as_dict()["matrices"][0]  # doctest: +NORMALIZE_WHITESPACE
        {'name': 'U_f', 'tensor': 'rnn.weight_ih_l0', 'role': 'input weights', 'gate': 'forget', 'layer': 0,
         'direction': 'forward', 'shape': [20, 10], 'count': 200}
        """
        return {
            "cell": self.cell,
            "output": self.output,
            "embedding": self.embedding,
            "total": self.total,
            "matrices": [
                {**vars(matrix), "shape": list(matrix.shape), "count": matrix.count}
                for matrix in self.matrices
            ],
            "with_embedding": self.with_embedding,
            "bytes": {form: size * self.total for form, size in FORMATS.items()},
            "bytes_with_embedding": {form: size * self.with_embedding for form, size in FORMATS.items()},
        }


def count(network: Network) -> Count:
    """Count the trainable weights of a network, matrix by matrix.

    Parameters
    ----------
    network
        Its sizes and choices.

    Returns
    -------
    Count
        The matrices, their sums, and the arithmetic behind them.

    Examples
    --------
    torch's two biases are 2 x 4 x 20 in the cell, and the output's c has one for each word:

    >>> torchlike = count(Network(cell="lstm", input=10, hidden=20, vocabulary=100, bias="double"))
    >>> torchlike.cell, torchlike.output, torchlike.total
    (2560, 2100, 4660)
    """
    directions = ("forward", "backward")[: network.directions]
    layers = [
        matrix
        for layer in range(network.layers)
        for direction in directions
        for matrix in _layer(network, layer, direction)
    ]
    matrices = (*layers, *_outside(network))
    return Count(network, matrices, (*_why_layers(network, layers), *_why_outside(network)))


def _layer(network: Network, layer: int, direction: str) -> Iterator[Matrix]:
    """Yield the matrices of one layer in one direction."""
    n, p = network.hidden, network.recurrent
    m = network.width if layer else network.input
    gates = GATES[network.cell]
    place = f"l{layer}" + "_reverse" * (direction == "backward")

    def stack(letter: str, tensor: str, role: str, *shape: int, of: str = "figoru") -> Iterator[Matrix]:
        for gate, name in gates:
            if gate in of:
                yield Matrix(f"{letter}_{gate}", f"rnn.{tensor}_{place}", role, name, layer, direction, shape)

    yield from stack("U", "weight_ih", "input weights", n, m)
    yield from stack("W", "weight_hh", "recurrent weights", n, p)
    if network.bias == "double":
        yield from stack("b", "bias_ih", "bias", n)
        yield from stack("b'", "bias_hh", "bias", n)
    elif network.bias == "single":
        yield from stack("b", "bias", "bias", n)
        if network.reset == "after":
            tensor = f"rnn.bias_after_{place}"
            yield Matrix("b_after", tensor, "bias", "candidate", layer, direction, (n,))
    if network.peepholes:
        yield from stack("p", "peephole", "peephole", n, of="fio")
    if network.projection:
        yield Matrix("W_hr", f"rnn.weight_hr_{place}", "projection", None, layer, direction, (p, n))


def _outside(network: Network) -> Iterator[Matrix]:
    """Yield the matrices of output and embedding."""
    words, width = network.vocabulary, network.width
    if words is None:
        return

    def matrix(name: str, tensor: str, role: str, *shape: int) -> Matrix:
        return Matrix(name, tensor, role, None, None, None, shape)

    if network.tied and width != network.input:
        yield matrix("P", "projection.weight", "output projection", network.input, width)
    if network.tied:
        width = network.input
    if network.bands:
        frequent = words - sum(some for some, _ in network.bands)
        yield matrix("V_0", "embedding.tables.0.weight", "output", frequent, width)
    else:
        yield matrix("V", "embedding.weight" if network.tied else "output.weight", "output", words, width)
    for number, (some, narrow) in enumerate(network.bands, start=1):
        yield matrix(f"V_{number}", f"embedding.tables.{number}.weight", "output", some, narrow)
        tensor = f"embedding.projections.{number - 1}.weight"
        yield matrix(f"Q_{number}", tensor, "output projection", width, narrow)
    if network.bias != "none":
        yield matrix("c", "output.bias", "output bias", words)
    if network.clusters:
        yield matrix("K", "output.clusters.weight", "clusters", network.clusters, width)
        if network.bias != "none":
            yield matrix("c_K", "output.clusters.bias", "clusters bias", network.clusters)
    if not network.tied:
        yield matrix("E", "embedding.weight", "embedding", words, network.input)


def _why_layers(network: Network, matrices: list[Matrix]) -> Iterator[Reason]:
    """Yield the arithmetic of the first layer, and of those above, which are all of one size."""
    n, p, directions, top = network.hidden, network.recurrent, network.directions, network.layers - 1
    gates = f"{len(GATES[network.cell])} gates"
    biases = f"2 biases x {gates}" if network.bias == "double" else gates
    if network.bias == "single" and network.reset == "after":
        biases = "(3 gates + 1 inside the reset)"
    for first, last in ((0, 0), (1, top)) if top else ((0, 0),):
        name = f"layer {first}" if first == last else f"layers {first}-{last}"
        times = f"{last - first + 1} layers x " * (last > first)
        times += f"{directions} directions x " * (directions > 1)
        m = network.width if first else network.input
        formulas = {
            "weights": ("", f"{gates} x {n:,} x ({m:,} + {p:,})"),
            "bias": (" bias", f"{biases} x {n:,}"),
            "peephole": (" peepholes", f"3 gates x {n:,}"),
            "projection": (" projection", f"{p:,} x {n:,}"),
        }
        for kind, (suffix, formula) in formulas.items():
            number = sum(
                matrix.count
                for matrix in matrices
                if matrix.role.endswith(kind) and first <= (matrix.layer or 0) <= last
            )
            if number:
                yield Reason(name + suffix, times + formula, number)


def _why_outside(network: Network) -> Iterator[Reason]:
    """Yield the arithmetic of output and embedding, one line for each matrix."""
    nouns = {"output projection": "", "clusters": "cluster", "clusters bias": "cluster"}
    for matrix in _outside(network):
        rows, *columns = matrix.shape
        noun = nouns.get(matrix.role, "word")
        formula = " x ".join([plural(rows, noun) if noun else f"{rows:,}", *(f"{c:,}" for c in columns)])
        of = "embedding" if matrix.part == "embedding" else f"output {matrix.name}"
        shared = ", tied" if matrix.role == "output" and network.tied else ""
        yield Reason(of + shared, formula, matrix.count)
