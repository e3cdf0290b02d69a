"""A text that is read word by word: one step a word, whatever stands before."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from glassgate.errors import GlassgateError
from glassgate.runtime.network import State

if TYPE_CHECKING:
    from glassgate.runtime.model import Model

__all__ = ["Session"]


class Session:
    """What a model remembers of one text; by `Model.session`.

    Where the model knows ``<eos>``, a new session has read it: a line begins. Sessions of one model
    share its weights and nothing else. One session is for one thread at a time. It is neither copied nor
    pickled: `fork` gives another one, and `state` what another process can go on from.

    Examples
    --------
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.folder.vocabulary import Vocabulary
    >>> from glassgate.runtime import Model
    >>> vocabulary = Vocabulary.build(["the gate opens"], tokens="spaces")
    >>> config = ModelConfig(cell="gru", vocabulary=5, embedding=1, hidden=1)
    >>> weights = {name: np.full(shape, 1.0) for name, shape in config.tensors().items()}
    >>> session = Model(config, vocabulary, weights).session()
    >>> session.feed("the gate")
    >>> other = session.fork()
    >>> other.feed("opens")
    >>> print(session.state[0].round(3), other.state[0].round(3))
    [[0.13]] [[0.166]]
    """

    def __init__(self, model: "Model", state: State, ready: bool) -> None:
        self._model = model
        self._state = state
        self._ready = ready  # whether there is anything to go on from

    def __reduce__(self) -> NoReturn:
        raise GlassgateError("the session: is not copied or pickled: fork copies it, its state can be kept")

    @property
    def model(self) -> "Model":
        """The model that reads."""
        return self._model

    @property
    def state(self) -> State:
        """A copy of the state: (h, C) of an LSTM, (h,) of a GRU, each [layers, hidden].

        `Model.session` goes on from it, in this process or another.
        """
        return tuple(part[:, 0].copy() for part in self._state)

    def feed(self, text: str, unknown: bool = False) -> None:
        """Read the next word, or the words of a text, one step each.

        Parameters
        ----------
        text
            What comes next.
        unknown
            Whether an unknown word is read as ``<unk>``; else it is an error, and nothing is read.

        Raises
        ------
        GlassgateError
            For an unknown word.
        """
        self._read(self._model.numbers(text, unknown))

    def predict(self, k: int = 5, begun: str = "") -> list[tuple[str, float]]:
        """Return the ``k`` most probable next words with their probabilities, as `Model.predict`.

        Parameters
        ----------
        k
            How many words, at least 1.
        begun
            Letters of the next word that are known: only words that begin so may come.

        Raises
        ------
        GlassgateError
            When ``k`` is below 1 or there is nothing to go on from.
        """
        return self._model.predict_together([self], k, [begun])[0]

    def fork(self) -> "Session":
        """Return a session that has read the same; only the state is copied."""
        return Session(self._model, tuple(part.copy() for part in self._state), self._ready)

    def _read(self, numbers: Sequence[int]) -> None:
        step, state = self._model.network.step, self._state
        for number in numbers:
            step(np.array([number]), state)
        self._ready = self._ready or bool(numbers)

    def _check_ready(self) -> None:
        if not self._ready:
            raise GlassgateError("the text: is empty: this model needs at least one word to go on from")
