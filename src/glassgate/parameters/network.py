"""A network as its sizes tell it, before any weight exists."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from glassgate.errors import GlassgateError

__all__ = ["Bias", "Cell", "Network", "Reset", "plural"]

Cell: TypeAlias = Literal["lstm", "gru"]
Reset: TypeAlias = Literal["before", "after"]
Bias: TypeAlias = Literal["none", "single", "double"]

MOST_LAYERS = 10_000  # each matrix is a row: beyond this a slip of the finger would fill the memory


@dataclass(frozen=True, kw_only=True)
class Network:
    r"""A recurrent network, told by its sizes.

    n is ``hidden``, m the width of what a layer reads, p what it hands on: ``projection``, or n without
    one. All counts are for each layer and direction.

    .. code-block:: text

        U   gates x n x m     weights on x_t; m = input, and directions x p above the first layer
        W   gates x n x p     weights on h_{t-1}
        b   gates x n         for each bias
        p   3 x n             peepholes of f, i, o on the cell state, element by element
        W_hr  p x n           projection: h_t = W_hr (o_t * tanh(C_t))

    Attributes
    ----------
    cell
        ``"lstm"`` (4 gates, the candidate counted among them) or ``"gru"`` (3).
    input, hidden, layers, directions
        The width of x_t, that of the state, the height of the stack, and 1 or 2 (bidirectional).
    vocabulary
        The number of words; None for a network without embedding and output.
    bias
        ``"none"``: no bias anywhere, c neither. ``"single"``: one for each gate, as in the notes.
        ``"double"``: two, as in torch, one beside U and one beside W; they add up, so that the second
        brings no new function, with one exception: a GRU that resets after the product computes
        ``g_t = tanh(r_t * (W_g h_{t-1} + b_after) + U_g x_t + b_g)``, where r_t scales b_after and not
        b_g. No one vector does the work of both, so that ``"single"`` is 3n + n there, and
        3n with ``reset="before"``. ``"double"`` is 6n in either form.
    tied
        V is the embedding: one matrix, counted once, as output. Where the width of what reaches the
        output (directions x p) is not ``input``, a map P [input, width] stands before it:
        y = softmax(V P h + c).
    projection
        The width to which h is projected (torch's ``proj_size``), smaller than ``hidden``; LSTM only.
    peepholes
        Whether the gates f, i and o of an LSTM see the cell state.
    reset
        Of a GRU: where the reset gate acts, ``"before"`` the matrix product, as in the notes, or
        ``"after"`` it, as in torch.
    clusters
        The clusters of rare words of an adaptive softmax, each one more row beside V; 0 for a full one.
    bands
        Of an adaptive embedding, which V is: the words and the width of each band of rarer words, the
        frequent ones left out. A row of band b is Q_b [input, width] times its vector.

    Raises
    ------
    GlassgateError
        When a size is no whole number of at least 1, or two choices exclude each other.

    References
    ----------
    The notes, sections 1 to 3. Peepholes: Gers and Schmidhuber 2000. Projection: Sak et al. 2014,
    arXiv:1402.1128. Tied weights: Press and Wolf 2017, arXiv:1608.05859. Adaptive embedding: Baevski and Auli
    2019, arXiv:1809.10853.

    Examples
    --------
    >>> Network(cell="gru", input=10, hidden=-20)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: hidden: must be a whole number of at least 1, got -20
    """

    cell: Cell
    input: int
    hidden: int
    layers: int = 1
    directions: int = 1
    vocabulary: int | None = None
    bias: Bias = "single"
    tied: bool = False
    projection: int | None = None
    peepholes: bool = False
    reset: Reset = "before"
    clusters: int = 0
    bands: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("cell", Cell), ("bias", Bias), ("reset", Reset)):
            if getattr(self, name) not in get_args(allowed):
                choices = " or ".join(get_args(allowed))
                raise GlassgateError(f"{name}: must be {choices}, got {getattr(self, name)!r}")
        for name in ("input", "hidden", "layers", "directions", "vocabulary", "projection"):
            value = getattr(self, name)
            optional = name in ("vocabulary", "projection") and value is None
            if not optional and (type(value) is not int or value < 1):
                raise GlassgateError(f"{name}: must be a whole number of at least 1, got {value!r}")
        if self.layers > MOST_LAYERS:
            raise GlassgateError(f"layers: must be at most {MOST_LAYERS:,}, got {self.layers:,}")
        if self.directions > 2:
            raise GlassgateError(f"directions: must be 1 or 2, got {self.directions}")
        if type(self.clusters) is not int or self.clusters < 0:
            raise GlassgateError(f"clusters: must be a whole number of at least 0, got {self.clusters!r}")
        self._check_choices()

    def _check_choices(self) -> None:
        if self.cell == "gru" and self.projection is not None:
            raise GlassgateError("projection: only an LSTM has one, got a GRU")
        if self.cell == "gru" and self.peepholes:
            raise GlassgateError("peepholes: only an LSTM has a cell state to look at, got a GRU")
        if self.cell == "lstm" and self.reset != "before":
            raise GlassgateError(f"reset: only a GRU has a reset gate, got {self.reset} for an LSTM")
        if self.projection is not None and self.projection >= self.hidden:
            raise GlassgateError(
                f"projection: must be smaller than hidden ({self.hidden:,}), got {self.projection:,}"
            )
        if self.vocabulary is None and self.tied:
            raise GlassgateError("tied: needs a vocabulary, got none")
        if self.vocabulary is None and self.clusters:
            raise GlassgateError("clusters: need a vocabulary, got none")
        if self.bands and not (self.tied and sum(words for words, _ in self.bands) < (self.vocabulary or 0)):
            raise GlassgateError(
                f"bands: must be some of the words of a tied embedding, got {list(self.bands)} for "
                f"{plural(self.vocabulary or 0, 'word')}"
            )

    @property
    def width(self) -> int:
        """The width of h as the output and the next layer read it: directions x p."""
        return self.directions * self.recurrent

    @property
    def recurrent(self) -> int:
        """The width of h_{t-1}: p, the projection's or n."""
        return self.projection or self.hidden

    def describe(self) -> str:
        """Say in one line what the network is.

        Examples
        --------
        >>> print(Network(cell="gru", input=10, hidden=20, vocabulary=100).describe())
        GRU (reset before the product), 1 layer of 20, input 10, one bias per gate, 100 words
        """
        parts = ["LSTM" if self.cell == "lstm" else f"GRU (reset {self.reset} the product)"]
        parts.append(f"{plural(self.layers, 'layer')} of {self.hidden:,}")
        parts += ["bidirectional"] if self.directions == 2 else []
        parts.append(f"input {self.input:,}")
        parts += [f"projection {self.projection:,}"] if self.projection else []
        parts += ["peepholes"] if self.peepholes else []
        parts.append(
            {"none": "no bias", "single": "one bias per gate", "double": "two biases per gate"}[self.bias]
        )
        parts += [plural(self.vocabulary, "word")] if self.vocabulary else []
        parts += ["tied"] if self.tied else []
        parts += [f"adaptive embedding of {plural(len(self.bands) + 1, 'band')}"] if self.bands else []
        parts += [f"adaptive softmax with {plural(self.clusters, 'cluster')}"] if self.clusters else []
        return ", ".join(parts)


def plural(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> plural(1, "word"), plural(33278, "word")
    ('1 word', '33,278 words')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
