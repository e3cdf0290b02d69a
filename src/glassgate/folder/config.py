"""config.json: what a model is, in plain numbers and names."""

import json
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from glassgate.errors import GlassgateError
from glassgate.folder.files import read_json
from glassgate.parameters.network import MOST_LAYERS

__all__ = ["NARROWER", "Band", "Cell", "Eos", "ModelConfig", "Output", "Reset"]

Cell = Literal["lstm", "gru"]
Reset = Literal["before", "after"]
Output = Literal["full", "adaptive"]
Eos = Literal["line", "paragraph", "none"]
"""What ``<eos>`` ends: each line, each paragraph (lines up to an empty one), or nothing."""

FORMAT = 2  # 1 had no embedding_cutoffs, and is read
NARROWER = 4  # how many times narrower a band of an adaptive embedding is than the one before
LARGEST_FILE = 64 << 10  # bytes
LARGEST_SIZE = 100_000_000  # of any width or vocabulary: products of two stay far below 2^63


class Band(NamedTuple):
    """Words whose vectors are equally wide: x = E[word - start], or Q E[word - start] where there is a Q."""

    start: int
    stop: int
    width: int
    table: str  #: the name of the tensor E [stop - start, width]
    projection: str | None  #: that of Q [embedding, width]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A next-word model: embedding, stack of LSTM or GRU layers, y = softmax(V h + c).

    Attributes
    ----------
    cell, reset
        ``"lstm"`` or ``"gru"``; for a GRU whether the reset gate acts ``"before"`` the matrix
        product, as in the notes, or ``"after"`` it, as in torch.
    vocabulary, embedding, hidden, layers
        The number of words, the width of an embedding, of a hidden state, and of the stack.
    bias
        Whether gates and output have biases.
    tied
        Whether V is the embedding. Where ``embedding != hidden`` a projection P [embedding, hidden]
        stands before it: y = softmax(V P h + c).
    output, cutoffs
        ``"full"``, or ``"adaptive"`` with the words at which one cluster ends and the next begins.
    embedding_cutoffs
        Of an adaptive embedding: the words from which on it is a quarter as wide as before, some of
        ``cutoffs``; V is tied to it. None: all words are equally wide.
    dropout
        The share of values that training drops.
    eos
        What ``<eos>`` ends in a text.

    Examples
    --------
    >>> exercise = ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, bias=False, tied=False)
    >>> exercise.tensors()["rnn.weight_ih_l0"]
    (80, 10)
    """

    cell: Cell
    vocabulary: int
    embedding: int
    hidden: int
    layers: int = 1
    reset: Reset = "before"
    bias: bool = True
    tied: bool = True
    output: Output = "full"
    cutoffs: tuple[int, ...] = ()
    embedding_cutoffs: tuple[int, ...] = ()
    dropout: float = 0.0
    eos: Eos = "line"
    format: int = FORMAT

    def __post_init__(self) -> None:
        for name in ("vocabulary", "embedding", "hidden", "layers"):
            value, most = getattr(self, name), MOST_LAYERS if name == "layers" else LARGEST_SIZE
            if type(value) is not int or not 1 <= value <= most:
                raise GlassgateError(f"{name}: must be a whole number from 1 to {most:,}, got {value!r}")
        for name, allowed in (("cell", Cell), ("reset", Reset), ("output", Output), ("eos", Eos)):
            if getattr(self, name) not in get_args(allowed):
                choices = " or ".join(get_args(allowed))
                raise GlassgateError(f"{name}: must be {choices}, got {getattr(self, name)!r}")
        for name in ("bias", "tied"):
            if type(getattr(self, name)) is not bool:
                raise GlassgateError(f"{name}: must be true or false, got {getattr(self, name)!r}")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise GlassgateError(f"dropout: must be at least 0 and below 1, got {self.dropout!r}")
        if type(self.format) is not int or self.format != FORMAT:
            raise GlassgateError(f"format: this version reads formats 1 and {FORMAT}, got {self.format!r}")
        self._check_cutoffs()

    def _check_cutoffs(self) -> None:
        bounds = (0, *self.cutoffs, self.vocabulary)
        rising = all(type(b) is int for b in bounds) and all(a < b for a, b in pairwise(bounds))
        if not rising or (self.output == "adaptive") != bool(self.cutoffs):
            raise GlassgateError(
                f"cutoffs: an adaptive output has rising word numbers below {self.vocabulary}, a full one "
                f"none; got {list(self.cutoffs)} for {self.output}"
            )
        narrow = self.embedding_cutoffs
        among = [cut for cut in self.cutoffs if cut in narrow] == list(narrow)
        if narrow and not (self.tied and among and all(type(cut) is int for cut in narrow)):
            raise GlassgateError(
                f"embedding_cutoffs: must be some of the cutoffs of an adaptive output that is tied, rising; "
                f"got {list(narrow)} for {list(self.cutoffs)}{'' if self.tied else ', untied'}"
            )
        if self.embedding // NARROWER ** len(narrow) < 1:
            raise GlassgateError(
                f"embedding_cutoffs: must leave a width of at least 1 to each of {len(narrow) + 1} bands, "
                f"got {len(narrow)} for an embedding of {self.embedding}"
            )

    @property
    def gates(self) -> int:
        """How many gate matrices are stacked in one weight: i f g o, or r z n."""
        return 4 if self.cell == "lstm" else 3

    @property
    def width(self) -> int:
        """The width of what V multiplies: the hidden state, or its projection."""
        return self.embedding if self.tied else self.hidden

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands of the embedding, one where all words are equally wide."""
        bounds = (0, *self.embedding_cutoffs, self.vocabulary)
        if len(bounds) == 2:
            return (Band(*bounds, self.embedding, "embedding.weight", None),)
        return tuple(
            Band(
                start,
                stop,
                self.embedding // NARROWER**number,
                f"embedding.tables.{number}.weight",
                f"embedding.projections.{number - 1}.weight" if number else None,
            )
            for number, (start, stop) in enumerate(pairwise(bounds))
        )

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name every tensor of model.safetensors with its shape; no other is there."""
        shapes: dict[str, tuple[int, ...]] = {}
        for band in self.bands:
            shapes[band.table] = (band.stop - band.start, band.width)
            if band.projection is not None:
                shapes[band.projection] = (self.embedding, band.width)
        rows = self.gates * self.hidden
        for layer in range(self.layers):
            shapes[f"rnn.weight_ih_l{layer}"] = (rows, self.hidden if layer else self.embedding)
            shapes[f"rnn.weight_hh_l{layer}"] = (rows, self.hidden)
            if self.bias:
                shapes[f"rnn.bias_ih_l{layer}"] = (rows,)
                shapes[f"rnn.bias_hh_l{layer}"] = (rows,)
        if self.tied and self.embedding != self.hidden:
            shapes["projection.weight"] = (self.embedding, self.hidden)
        if not self.tied:
            shapes["output.weight"] = (self.vocabulary, self.hidden)
        if self.bias:
            shapes["output.bias"] = (self.vocabulary,)
        if self.cutoffs:
            shapes["output.clusters.weight"] = (len(self.cutoffs), self.width)
            if self.bias:
                shapes["output.clusters.bias"] = (len(self.cutoffs),)
        return shapes

    def to_json(self) -> str:
        """Write the configuration as config.json holds it."""
        return json.dumps({"model": "glassgate next-word model", **asdict(self)}, indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> "ModelConfig":
        """Read a config.json; every key and value is checked before anything is built from it.

        Raises
        ------
        GlassgateError
            When the file is missing, damaged, or of another program.
        """
        values = read_json(path, LARGEST_FILE, "configuration")
        if not isinstance(values, dict) or values.pop("model", None) != "glassgate next-word model":
            raise GlassgateError(f"{path}: is not the configuration of a glassgate next-word model")
        return cls._from(values, path)

    @classmethod
    def _from(cls, values: dict[str, Any], path: Path) -> "ModelConfig":
        if type(values.get("format")) is int and values["format"] == 1:
            values = {**values, "embedding_cutoffs": [], "format": FORMAT}
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            names = ", ".join(map(repr, sorted(values.keys() ^ known)))
            raise GlassgateError(f"{path}: must hold exactly the keys of format {FORMAT}; at odds: {names}")
        for name in ("cutoffs", "embedding_cutoffs"):
            if not isinstance(values[name], list):
                raise GlassgateError(f"{path}: {name}: must be a list of word numbers, got {values[name]!r}")
            values = {**values, name: tuple(values[name])}
        try:
            return cls(**values)
        except GlassgateError as error:
            raise GlassgateError(f"{path}: {error}") from error
