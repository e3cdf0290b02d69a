"""Causal tracing: what a prediction gains when one gate at one step is taken from another run."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.edits import Edit
from glassgate.errors import GlassgateError
from glassgate.lens.blocks import SHOWN
from glassgate.runtime import Model, Traced

__all__ = ["Patching", "patch"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Patching:
    """What `patch` found.

    Attributes
    ----------
    words
        The words of the text that was patched, ``<eos>`` first where the model knows it.
    before, source
        log y[word] in nats after the text as it is, and after the other.
    effects
        By layer and gate, for each step [T], log y[word] with that gate of all units at that step from the
        other run, less `before`.
    """

    words: tuple[str, ...]
    before: float
    source: float
    effects: dict[str, dict[str, Floats]]


def patch(model: Model, text: str, source: str, word: str, unknown: bool = False) -> Patching:
    """Read a text once for each layer, gate and step, each time with that one thing from another text.

    Parameters
    ----------
    model
        From `glassgate.load`.
    text
        What is read.
    source
        A text of as many words, from which each value is taken: say, with one word exchanged.
    word
        Whose probability after the text is watched.
    unknown
        Whether unknown words are read as ``<unk>``; else they are an error.

    Returns
    -------
    Patching

    Raises
    ------
    GlassgateError
        The texts have different numbers of words, or a word is unknown.

    Examples
    --------
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.folder.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.build(["the gate a lamp"], tokens="spaces", closed=True, eos=False)
    >>> config = ModelConfig(cell="lstm", vocabulary=4, embedding=3, hidden=2)
    >>> generator = np.random.default_rng(1)
    >>> weights = {name: generator.normal(size=shape) for name, shape in config.tensors().items()}
    >>> found = patch(Model(config, vocabulary, weights), "the gate", "the lamp", "gate")
    >>> hidden = found.effects["l0"]["hidden"]  # the last words differ: their hidden state is all that counts
    >>> float(hidden[0]), bool(np.isclose(hidden[1], found.source - found.before))
    (0.0, True)
    """
    own, other = model.trace(text, unknown=unknown), model.trace(source, unknown=unknown)
    if len(own.words) != len(other.words):
        raise GlassgateError(
            f"patch: texts of as many words expected, got {len(own.words)} and {len(other.words)}"
        )
    watched = model.numbers(word, unknown)
    if len(watched) != 1:
        raise GlassgateError(f"patch: one word to watch expected, got {word!r}")
    target = np.array(watched)

    def log_probability(traced: Traced) -> float:
        return float(model.network.output.log_probability(traced.features[-1:], target)[0])

    before = log_probability(own)
    effects: dict[str, dict[str, Floats]] = {}
    for name, layer in other.layers.items():
        effects[name] = {}
        for gate in (gate for gate in SHOWN if gate in layer.names):
            found = np.empty(len(own.words))
            for step in range(len(own.words)):
                edit = Edit(gate, replace=layer, steps=slice(step, step + 1), layer=name)
                found[step] = log_probability(model.trace(text, [edit], unknown)) - before
            effects[name][gate] = found
    return Patching(own.words, before, log_probability(other), effects)
