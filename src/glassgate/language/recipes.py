"""Named sets of numbers that belong together, and the rule that chooses among them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from glassgate.folder.config import Cell, Reset

__all__ = ["RECIPES", "Recipe", "RecipeChoice", "choose_dropout", "choose_recipe", "expected_epochs"]

RecipeChoice: TypeAlias = Literal["auto", "quick", "quality"]
WORDS_PER_MINUTE = 600_000  # that `quick` trains on in a minute on two cores, measured at 33,278 words
FEW = 5  # epochs up to which weight decay does nearly all that a text needs against being learned by heart
LONG = 12  # epochs from which on a model begins to learn its text by heart, and more regularisation pays


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
        Of AdamW: at each step every matrix shrinks by this times the learning rate.
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
    weight_decay: float = 0.01
    weight_drop: float = 0.0
    activation_penalty: float = 0.0
    slowness_penalty: float = 0.0
    average: float = 0.0
    random_unroll: bool = False
    spectral: bool = False


RECIPES: Mapping[str, Recipe] = {
    "quick": Recipe(cell="gru", weight_decay=0.25, spectral=True),
    "quality": Recipe(
        hidden=650,
        dropout=0.4,
        weight_drop=0.2,
        activation_penalty=2.0,
        slowness_penalty=1.0,
        random_unroll=True,
    ),
}
"""By name. The rows of docs/experiments.md say why."""


def expected_epochs(tokens: int, epochs: int | None, minutes: float | None) -> float:
    """Return about how often a training will read its text.

    Parameters
    ----------
    tokens
        The length of the training text.
    epochs, minutes
        The budget; where both are given the smaller one counts.

    Returns
    -------
    float
        By minutes: as `quick` would on two cores.

    Examples
    --------
    >>> expected_epochs(2_000_000, None, 15)
    4.5
    """
    by_time = minutes * WORDS_PER_MINUTE / tokens if minutes is not None else float("inf")
    return min(by_time, float("inf") if epochs is None else epochs)


def choose_dropout(tokens: int, epochs: float) -> float:
    """Return how much to drop where a recipe leaves it open.

    Parameters
    ----------
    tokens
        The length of the training text.
    epochs
        How often it is read, about.

    Returns
    -------
    float
        0.1 where a text is read less than five times; else 0.2 from two million tokens on, and 0.3 below.

    Examples
    --------
    >>> choose_dropout(2_000_000, 4), choose_dropout(2_000_000, 6), choose_dropout(100_000, 30)
    (0.1, 0.2, 0.3)
    """
    if epochs < FEW:
        return 0.1
    return 0.2 if tokens >= 2_000_000 else 0.3


def choose_recipe(epochs: float) -> str:
    """Choose a recipe: ``quality`` where a text is read 12 times or more, else ``quick``.

    Parameters
    ----------
    epochs
        How often it is read, about (`expected_epochs`).

    Returns
    -------
    str
        A name in `RECIPES`.

    Examples
    --------
    >>> choose_recipe(4.5), choose_recipe(18.0)
    ('quick', 'quality')
    """
    return "quality" if epochs >= LONG else "quick"
