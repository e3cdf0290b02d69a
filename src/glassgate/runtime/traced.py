"""A text that was read with every gate in view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glassgate.errors import GlassgateError
from glassgate.folder.vocabulary import Vocabulary
from glassgate.runtime.matrix import Array
from glassgate.runtime.output import Output
from glassgate.trace import Trace

if TYPE_CHECKING:
    import anywidget

__all__ = ["Traced"]


SHOWN = 8  # next words after each word


@dataclass(frozen=True)
class Traced:
    """What a model did with a text; by `glassgate.runtime.Model.trace`.

    Attributes
    ----------
    words
        The words as the model read them; the first is ``<eos>`` where the model knows it.
    layers
        By layer, ``l0``, ``l1``, ..., its gates and states, each [T, 1, H].
    features
        What V multiplies, [T, width].

    Examples
    --------
    >>> import numpy as np
    >>> from glassgate.edits import Edit
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.runtime import Model
    >>> vocabulary = Vocabulary.build(["the gate opens"], tokens="spaces")
    >>> config = ModelConfig(cell="lstm", vocabulary=len(vocabulary), embedding=2, hidden=2)
    >>> weights = {name: np.full(shape, 0.5, np.float32) for name, shape in config.tensors().items()}
    >>> model = Model(config, vocabulary, weights)
    >>> seen = model.trace("the gate", [Edit("forget", set=0.5, units=[1])])
    >>> seen.words
    ('<eos>', 'the', 'gate')
    >>> seen.layers["l0"].forget[:, 0].round(2)
    array([[0.82, 0.5 ], [0.88, 0.5 ], [0.91, 0.5 ]], dtype=float32)
    >>> seen.best(1)[0][0]
    '<eos>'
    """

    words: tuple[str, ...]
    layers: Trace
    features: Array
    _output: Output
    _vocabulary: Vocabulary

    def best(self, k: int = 5, step: int = -1) -> list[tuple[str, float]]:
        """Return the ``k`` most probable next words with their probabilities.

        Parameters
        ----------
        k
            How many words, at least 1.
        step
            After which step of the text; by default the last.

        Raises
        ------
        GlassgateError
            When ``k`` is below 1 or there is no such step.
        """
        if k < 1:
            raise GlassgateError(f"k: must be at least 1, got {k}")
        if not -len(self.words) <= step < len(self.words):
            raise GlassgateError(f"step: the text has {len(self.words)} steps, got {step}")
        ((numbers, y),) = self._output.best(self.features[step][None], k, None, self._vocabulary.unk)
        spelling = self._vocabulary.words
        return [(spelling[n], p) for n, p in zip(numbers.tolist(), y.tolist(), strict=True)]

    def explore(self) -> "anywidget.AnyWidget":
        """Return a heat map of every gate to explore in a notebook, with the next words after each word.

        Returns
        -------
        anywidget.AnyWidget
            As `glassgate.trace.Trace.explore` returns it.

        Raises
        ------
        GlassgateError
            When anywidget is not installed: ``pip install 'glassgate[notebook]'``.
        """
        from glassgate.lens.explore import widget

        return widget(self.document())

    def document(
        self,
        layers: Sequence[str] | None = None,
        *,
        gates: Sequence[str] | None = None,
        units: Sequence[int] | None = None,
        mean: bool = False,
    ) -> dict[str, Any]:
        """Return what `explore` and a page of gates show; see `glassgate.lens.explore.document`.

        Parameters
        ----------
        layers
            Names of layers, by default all.
        gates, units, mean
            What is drawn.

        Raises
        ------
        GlassgateError
            There is no such layer, gate or unit.
        """
        from glassgate.lens.explore import STEPS, document

        chosen = self.layers if layers is None else {name: self.layers[name] for name in layers}
        best = [self.best(SHOWN, step) for step in range(min(len(self.words), STEPS))]
        return document(chosen, self.words, gates=gates, units=units, mean=mean, next_words=best)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a heat map for each gate under the words."""
        from glassgate.lens.html import still

        return still(self.words, self.layers)
