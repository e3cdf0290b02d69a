"""What each unit's gates do over a corpus: saturation, memory, dead units, words and classes of words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.edits import numbers
from glassgate.errors import GlassgateError
from glassgate.lens.classes import KINDS, POSITIONS, Places, kinds, positions
from glassgate.lens.reading import Block, read
from glassgate.runtime import Model
from glassgate.trace import LayerTrace

__all__ = ["LayerMeasures", "Measures", "measure"]

Floats: TypeAlias = npt.NDArray[np.float64]

SHUT, OPEN = 0.1, 0.9
BAND = 0.01  # a hidden state that stays within says the same at every word
WORDS = 2_000  # most frequent words for which units are held against words
_UNBOUNDED = ("cell", "candidate", "hidden")


@dataclass(frozen=True)
class LayerMeasures:
    """What the units of one layer do over a corpus; each array has one entry for each of H units.

    Attributes
    ----------
    mean, deviation : dict of array [H]
        Of each gate and state over all steps.
    saturation : dict of (array [H], array [H])
        For each gate the shares of steps at which it is below 0.1 and above 0.9.
    memory : array [H]
        Steps until 1/e of a cell's content is left: -1 / mean(ln f). See `measure`.
    dead : bool [H]
        Whether the hidden state stays within a band of 0.01.
    association : array [words, H]
        The correlation of the hidden state with the presence of a word, for the first words of the
        vocabulary; 0 where a word is not met.
    by_kind, by_position : dict of array [classes, H]
        The mean of each gate and state over the words of each class; NaN where there is none.
    """

    mean: dict[str, Floats]
    deviation: dict[str, Floats]
    saturation: dict[str, tuple[Floats, Floats]]
    memory: Floats
    dead: npt.NDArray[np.bool_]
    association: Floats
    by_kind: dict[str, Floats]
    by_position: dict[str, Floats]

    def words_of(self, unit: int, words: Sequence[str], k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` words with which a unit goes most strongly, and the correlations.

        Parameters
        ----------
        unit
            Its number.
        words
            The vocabulary.
        k
            How many words.

        Raises
        ------
        GlassgateError
            There is no such unit.
        """
        count = self.association.shape[1]
        if not 0 <= unit < count:
            raise GlassgateError(f"unit: must be from 0 to {count - 1}, got {unit}")
        own = self.association[:, unit]
        order = np.argsort(-np.abs(own), kind="stable")[:k]
        return [(words[n], float(own[n])) for n in order if own[n] != 0]


@dataclass(frozen=True)
class Measures:
    """What `measure` found.

    Attributes
    ----------
    steps
        How many words were read.
    layers
        By name, ``l0``, ``l1``, ...
    kind_counts, position_counts
        How many of the words are of each of `glassgate.lens.classes.KINDS`, and stand at each of `POSITIONS`.
    """

    steps: int
    layers: dict[str, LayerMeasures]
    kind_counts: dict[str, int]
    position_counts: dict[str, int]


def measure(
    model: Model,
    pieces: Iterable[npt.NDArray[np.integer[Any]]],
    *,
    counts: npt.ArrayLike | None = None,
    words: int = WORDS,
) -> Measures:
    """Measure every unit over a corpus of any size; memory holds sums, never the states.

    A cell's content of step 0 is multiplied by the product of the forget gates since. After T steps that is
    exp(sum of ln f), about exp(T mean(ln f)), and falls to 1/e after ::

        memory = -1 / mean(ln f)    steps; for a GRU f = 1 - u

    A gate that is always 1/2 remembers for 1.44 steps, one that is always 0.99 for 99.5; one step of 0 in the
    corpus ends all memory, as the product says.

    Parameters
    ----------
    model
        From `glassgate.load`.
    pieces
        Word numbers, as `glassgate.lens.reading.tokens` gives them; read as one stream.
    counts
        How often each word of the vocabulary is met, which says what is frequent; by default by rank.
    words
        For how many words, from the first of the vocabulary on, units are held against words: it
        takes 8 bytes for each word and unit.

    Returns
    -------
    Measures

    Raises
    ------
    GlassgateError
        There is no word.

    References
    ----------
    Saturation: Karpathy, Johnson and Fei-Fei 2015.

    Examples
    --------
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.folder.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.build(["the gate"], tokens="spaces", closed=True, eos=False)
    >>> config = ModelConfig(cell="lstm", vocabulary=2, embedding=2, hidden=2)
    >>> model = Model(config, vocabulary, {name: np.zeros(s) for name, s in config.tensors().items()})
    >>> found = measure(model, [np.array([0, 1, 1])]).layers["l0"]  # no weights: every gate is 1/2
    >>> found.memory.round(2), found.dead
    (array([1.44, 1.44]), array([ True,  True]))
    """
    spelling = model.vocabulary.words
    kind_of, places = kinds(spelling, counts), Places(spelling)
    watched = min(words, len(spelling))
    sums: dict[str, _Sums] = {}
    steps = 0
    tallies = {"kind": np.zeros(len(KINDS), np.int64), "position": np.zeros(len(POSITIONS), np.int64)}
    met = np.zeros(watched, np.int64)
    for block in read(model, pieces):
        classes = {"kind": kind_of[block.numbers], "position": positions(places(block.numbers))}
        for name, own in classes.items():
            tallies[name] += np.bincount(own, minlength=len(tallies[name]))
        met += np.bincount(block.numbers[block.numbers < watched], minlength=watched)
        steps += len(block.numbers)
        for name, layer in block.layers.items():
            sums.setdefault(name, _Sums(layer, watched)).add(layer, block, classes)
    if not steps:
        raise GlassgateError("measure: at least one word expected, got none")
    return Measures(
        steps=steps,
        layers={name: own.result(steps, met, tallies) for name, own in sums.items()},
        kind_counts=dict(zip(KINDS, tallies["kind"].tolist(), strict=True)),
        position_counts=dict(zip(POSITIONS, tallies["position"].tolist(), strict=True)),
    )


class _Sums:
    """What is added up for one layer."""

    def __init__(self, layer: LayerTrace, watched: int) -> None:
        self.names = layer.names
        self.H = layer.hidden.shape[2]
        self.origin: dict[str, Floats] = {}
        self.first = {name: np.zeros(self.H) for name in self.names}
        self.second = {name: np.zeros(self.H) for name in self.names}
        self.ends = {name: np.zeros((2, self.H)) for name in self.names if name not in _UNBOUNDED}
        self.logs = np.zeros(self.H)
        self.low, self.high = np.full(self.H, np.inf), np.full(self.H, -np.inf)
        self.words = np.zeros((watched, self.H))
        self.classes = {
            "kind": {name: np.zeros((len(KINDS), self.H)) for name in self.names},
            "position": {name: np.zeros((len(POSITIONS), self.H)) for name in self.names},
        }

    def add(self, layer: LayerTrace, block: Block, classes: dict[str, npt.NDArray[np.int64]]) -> None:
        members = {
            kind: (np.arange(len(self.classes[kind][self.names[0]]))[:, None] == own).astype(np.float64)
            for kind, own in classes.items()
        }
        for name in self.names:
            values = numbers(getattr(layer, name)[:, 0])
            # Sums of what deviates from the first value: of an almost constant one no digits are lost.
            moved = values - self.origin.setdefault(name, values[0].copy())
            self.first[name] += moved.sum(0)
            self.second[name] += (moved**2).sum(0)
            for kind, own in members.items():
                self.classes[kind][name] += own @ values
            if name in self.ends:
                self.ends[name] += (values < SHUT).sum(0), (values > OPEN).sum(0)
            if name == "hidden":
                self.low, self.high = (
                    np.minimum(self.low, values.min(0)),
                    np.maximum(self.high, values.max(0)),
                )
                near = block.numbers < len(self.words)
                np.add.at(self.words, block.numbers[near], moved[near])
        kept = numbers(layer.forget if "forget" in self.names else 1 - layer.update)[:, 0]
        with np.errstate(divide="ignore"):  # a gate of 0 forgets all: the sum is, and stays, -inf
            self.logs += np.log(kept).sum(0)

    def result(
        self, steps: int, met: npt.NDArray[np.int64], tallies: dict[str, npt.NDArray[np.int64]]
    ) -> LayerMeasures:
        mean = {name: self.origin[name] + self.first[name] / steps for name in self.names}
        variance = {
            name: np.maximum(self.second[name] / steps - (self.first[name] / steps) ** 2, 0)
            for name in self.names
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            memory = -steps / self.logs
            by = {
                kind: {name: sums / tallies[kind][:, None] for name, sums in own.items()}
                for kind, own in self.classes.items()
            }
            # Point-biserial: cov(h, word present) = p (mean of h at the word - mean of h).
            share = met[:, None] / steps
            covariance = self.words / steps - share * self.first["hidden"] / steps
            association = covariance / np.sqrt(share * (1 - share) * variance["hidden"])
        return LayerMeasures(
            mean=mean,
            deviation={name: np.sqrt(own) for name, own in variance.items()},
            saturation={name: (own[0] / steps, own[1] / steps) for name, own in self.ends.items()},
            memory=np.where(self.logs == 0, np.inf, memory),
            dead=self.high - self.low < BAND,
            association=np.where(np.isfinite(association), association, 0.0),
            by_kind=by["kind"],
            by_position=by["position"],
        )
