"""Named sets of numbers that belong together, and the rules for what follows the text and the budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, log2, sqrt
from typing import Literal, TypeAlias

from glassgate.folder.config import Cell, Reset
from glassgate.kernels import isa
from glassgate.layers.recurrent import Precision

__all__ = [
    "LARGE",
    "LARGE_BATCH",
    "RECIPES",
    "Recipe",
    "RecipeChoice",
    "choose_dropout",
    "choose_precision",
    "choose_rate",
    "choose_recipe",
    "choose_weight_decay",
    "expected_epochs",
]

RecipeChoice: TypeAlias = Literal["auto", "quick", "quality"]
USUAL = 512  # hidden size for which the learning rate and the cost of a word are known
LEARNING_RATE = 8e-3  # of that size at a batch of 40 streams
LARGE_BATCH = 40  # streams
# Microseconds that a word of 33,278 takes in training on two cores, measured: for output and optimiser, and
# for the recurrence of the usual size, which grows as its square.
COST: Mapping[Precision, tuple[float, float]] = {"fp32": (60, 60), "bf16": (24, 10)}
LONG = 1_500_000  # tokens from which a text has enough to tell a GRU of 1,024
OFTEN = 5  # epochs that such a GRU wants
LARGE = 1_024  # hidden size that learns a long text by heart too
SHORT = 700_000  # tokens up to which a text that is read often bears the most dropout
ROUNDED = 100  # hidden size from which bf16 saves a sixth of a step or more
FEW = 3.75  # epochs up to which weight decay does nearly all that a text needs against being learned by heart


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training does where its options say nothing.

    Attributes
    ----------
    cell, reset
        The recurrent cell, and where a GRU has its reset gate.
    hidden, layers, embedding
        Sizes. V is the embedding (Press and Wolf 2017, arXiv:1608.05859); where the hidden size is another,
        h is projected down to it first.
    dropout
        Share of x and of the last h that is dropped, one mask for all steps of a sequence (Gal and
        Ghahramani 2016, arXiv:1512.05287). None: as `choose_dropout` says.
    weight_decay
        Of AdamW: at each step every matrix shrinks by this times the learning rate. None: as
        `choose_weight_decay` says.
    weight_drop
        Share of the recurrent weights that is dropped, one mask for a whole step of training (DropConnect
        on the hidden weights: Merity et al. 2018, arXiv:1708.02182, section 3).
    activation_penalty, slowness_penalty
        AR and TAR: how strongly the squares of the last h, as dropped, and of its change from step to step,
        undropped, are added to the loss (Merity et al. 2017, arXiv:1708.01009).
    average
        Share of the budget, counted from its end, over which the weights are averaged (Polyak and Juditsky
        1992). The average is the model if it validates better than the weights themselves.
    random_unroll
        Whether the unroll length varies, and the learning rate with it (after Merity et al. 2018, 4.1).
    spectral
        Whether the embedding begins with what `spectral_embedding` reads off the text's neighbouring words,
        instead of random numbers.
    """

    cell: Cell = "lstm"
    reset: Reset = "before"
    hidden: int = 512
    layers: int = 1
    embedding: int = 256
    dropout: float | None = None
    weight_decay: float | None = None
    weight_drop: float = 0.0
    activation_penalty: float = 0.0
    slowness_penalty: float = 0.0
    average: float = 0.0
    random_unroll: bool = False
    spectral: bool = False


RECIPES: Mapping[str, Recipe] = {
    "quick": Recipe(cell="gru", average=0.3, spectral=True),
    "quality": Recipe(cell="gru", hidden=1024, weight_drop=0.3, average=0.3, spectral=True),
}
"""By name. The rows of docs/experiments.md say why."""


def choose_recipe(tokens: int, epochs: int, minutes: float | None, precision: Precision) -> str:
    """Return the name of the recipe for a text and a budget.

    Parameters
    ----------
    tokens
        The length of the training text.
    epochs, minutes
        The budget; where both are given the smaller one counts.
    precision
        Of the products of ``quality``.

    Returns
    -------
    str
        ``"quality"`` for a text of 1,500,000 tokens or more that it can read five times, else ``"quick"``.

    Examples
    --------
    >>> [choose_recipe(2_000_000, 15, minutes, "fp32") for minutes in (15, 60)]
    ['quick', 'quality']
    """
    expected = expected_epochs(tokens, epochs, minutes, RECIPES["quality"].hidden, precision)
    return "quality" if tokens >= LONG and expected >= OFTEN else "quick"


def expected_epochs(
    tokens: int, epochs: int, minutes: float | None, hidden: int, precision: Precision
) -> float:
    """Return about how often a training will read its text.

    Parameters
    ----------
    tokens
        The length of the training text.
    epochs, minutes
        The budget; where both are given the smaller one counts.
    hidden, precision
        The hidden size, and that of the products: what a word costs.

    Returns
    -------
    float
        By minutes: as on two cores, of an AVX2 processor for fp32, of one with AMX for bf16.

    Examples
    --------
    >>> [expected_epochs(2_000_000, 100, 15, hidden, "fp32") for hidden in (512, 1024)]
    [3.75, 1.5]
    """
    if minutes is None:
        return epochs
    other, recurrence = COST[precision]
    return min(epochs, minutes * 60e6 / tokens / (other + recurrence * (hidden / USUAL) ** 2))


def choose_rate(batch: int, hidden: int) -> float:
    """Return the highest learning rate where nobody says.

    Parameters
    ----------
    batch
        Streams that are read at once.
    hidden
        The hidden size.

    Returns
    -------
    float
        0.008 sqrt(batch / 40), times sqrt(512 / hidden) where that is below 1.

    Examples
    --------
    >>> [choose_rate(40, 512), choose_rate(10, 512), choose_rate(10, 2048)]
    [0.008, 0.004, 0.002]
    """
    return LEARNING_RATE * sqrt(batch / LARGE_BATCH * min(1, USUAL / hidden))


def choose_dropout(tokens: int, epochs: float, hidden: int) -> float:
    """Return how much to drop where a recipe leaves it open.

    Parameters
    ----------
    tokens
        The length of the training text.
    epochs
        How often the text is read, about.
    hidden
        The hidden size.

    Returns
    -------
    float
        0.1 up to 3.75 epochs, and 0.3 more for their double; at most 0.5, and for each threefold of
        700,000 tokens 0.4 less. Of a hidden size of 1,024 or more at least 0.1 up to five epochs, and 0.15
        more for their double, at most 0.5.

    Examples
    --------
    >>> [choose_dropout(500_000, epochs, 512) for epochs in (1, 4, 7.5, 15)]
    [0.1, 0.13, 0.4, 0.5]
    >>> [choose_dropout(2_100_000, 10, hidden) for hidden in (512, 1024)]
    [0.1, 0.25]
    """
    most = 0.5 - 0.4 * log(max(tokens / SHORT, 1), 3)
    by_text = min(0.1 + 0.3 * log2(max(epochs / FEW, 1)), most)
    by_size = min(0.1 + 0.15 * log2(max(epochs / OFTEN, 1)), 0.5) if hidden >= LARGE else 0.1
    return round(max(by_text, by_size), 2)


def choose_precision(hidden: int) -> Precision:
    """Return what the factors of a step's products are rounded to where nobody says.

    Parameters
    ----------
    hidden
        The hidden size.

    Returns
    -------
    "fp32" or "bf16"
        bf16 where the processor has instructions that multiply it faster than float32, and the hidden
        size is 100 or more.

    Examples
    --------
    >>> choose_precision(20)
    'fp32'
    """
    return "bf16" if hidden >= ROUNDED and isa() in ("avx512bf16", "amx") else "fp32"


def choose_weight_decay(tokens: int, epochs: float, rate: float) -> float:
    """Return how fast weights are to decay where a recipe leaves it open.

    The noise of the steps and the decay come to a balance in which the weights are about sqrt(rate / decay)
    large, however long the training. The longer the text, the larger they may be before it is learned by
    heart; a text that is read about once cannot be, and needs little.

    Parameters
    ----------
    tokens
        The length of the training text.
    epochs
        How often it is read, about.
    rate
        The highest learning rate.

    Returns
    -------
    float
        12 rate (10,000,000 / tokens)^(5/8), times epochs / 2 where that is below 1; at most 4.

    References
    ----------
    The numbers are measured, docs/experiments.md. The balance: Kosson et al. 2024, "Rotational equilibrium",
    arXiv:2305.17212.

    Examples
    --------
    >>> round(choose_weight_decay(2_000_000, 3.75, 0.008), 3)
    0.262
    """
    shortness: float = (10_000_000 / tokens) ** 0.625
    return min(12 * rate * shortness * min(1, epochs / 2), 4.0)
