"""A trained model that reads a text and says how it may go on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import NoReturn

import numpy as np

from glassgate.edits import Edit, for_layers
from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import map_weights
from glassgate.runtime.detokenise import Detokeniser
from glassgate.runtime.matrix import Array
from glassgate.runtime.network import Network, State
from glassgate.runtime.output import Best
from glassgate.runtime.prefixes import Prefixes
from glassgate.runtime.sampling import Sampling
from glassgate.runtime.session import Session
from glassgate.runtime.traced import Traced
from glassgate.trace import LayerTrace, Trace

__all__ = ["Model", "load"]

BLOCK = 256  # words that are scored at once: their logits over 33,278 words take 34 MB


def load(folder: Path | str, threads: int = 1) -> "Model":
    """Read a model folder; no torch is needed.

    The weights are mapped, not copied, and read once, to see that all are finite numbers: processes that
    load one folder share the memory of its embedding and of V. The recurrent weights are packed, once.

    Parameters
    ----------
    folder
        As ``glassgate train`` writes it.
    threads
        That one step may use, and the best words of several sessions together; 0: as many as
        `glassgate.kernels.num_threads` says. One step of one text is over before a second thread has
        begun to help; where other work keeps the cores busy, waiting for it costs far more than it saves.

    Returns
    -------
    Model

    Raises
    ------
    GlassgateError
        When the folder or a file of it is missing, damaged or foreign.

    Examples
    --------
    >>> load("no-such-folder")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """
    folder = Path(folder)
    config, vocabulary = read_folder(folder)
    return Model(config, vocabulary, map_weights(folder / WEIGHTS, config.tensors()), threads)


class Model:
    """A trained model, ready to read; by `load`.

    A text is read from the initial state, with ``<eos>`` before its first word where the model knows
    one: a line begins. Probabilities are the model's own: ``<unk>`` is never shown, and its share is
    not spread over the others. ``<eos>`` stands for the end of the line. A model is neither copied nor
    pickled: threads share it, and another process has its own by `load`.

    Parameters
    ----------
    config, vocabulary
        What the model is, and its words.
    weights
        As model.safetensors holds them; or arrays, all float32 or all float64.
    threads
        As for `load`.

    Attributes
    ----------
    network : Network
        What computes: word numbers in, hidden states and probabilities out.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["the gate opens"], tokens="spaces")
    >>> config = ModelConfig(cell="lstm", vocabulary=len(vocabulary), embedding=2, hidden=2)
    >>> weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    >>> weights["output.bias"] = np.array([0, 0, 2, 1, 0], np.float32)
    >>> model = Model(config, vocabulary, weights)
    >>> [word for word, _ in model.predict("the gate", k=2)]
    ['gate', 'opens']
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: Vocabulary,
        weights: "Mapping[str, Stored | Array]",
        threads: int = 1,
    ) -> None:
        if not 0 <= threads <= 1024:
            raise GlassgateError(f"threads: must be from 0 to 1024, got {threads}")
        self.config = config
        self.vocabulary = vocabulary
        self.network = Network(config, weights, threads)
        self._known = {word: number for number, word in enumerate(vocabulary.words)}

    def __reduce__(self) -> NoReturn:
        raise GlassgateError("the model: is not copied or pickled: share it, or load its folder again")

    def session(self, state: State | None = None) -> Session:
        """Begin to read a text word by word, or go on from a state that `Session.state` gave.

        Raises
        ------
        GlassgateError
            When the state is that of another kind of model, or holds what is no finite number.
        """
        eos = self.vocabulary.eos
        if state is None:
            session = Session(self, self.network.initial_state(1), ready=False)
            session._read([] if eos is None else [eos])
            return session
        own = self.network.checked_state(state)
        # Zeros are the state before the first word.
        return Session(self, own, ready=eos is not None or any(part.any() for part in own))

    def predict(
        self, text: str, k: int = 5, unknown: bool = False, complete: bool = False
    ) -> list[tuple[str, float]]:
        """Return the ``k`` most probable next words with their probabilities.

        Parameters
        ----------
        text
            What stands before; where the model knows ``<eos>``, it may be empty.
        k
            How many words, at least 1.
        unknown
            Whether an unknown word is read as ``<unk>``; else it is an error.
        complete
            Whether the last word of the text is only begun, unless white space follows it: the words
            that begin so are returned, with their probabilities among all words. There may be none. What
            counts as begun `glassgate.runtime.prefixes.Prefixes.cut` tells.

        Returns
        -------
        list of (str, float)
            The more probable first; of equals the more frequent first.

        Raises
        ------
        GlassgateError
            When a word is unknown, there is nothing to go on from, or ``k`` is below 1.
        """
        session = self.session()
        words, begun = self.prefixes.cut(text) if complete else (self.vocabulary.cut(text), "")
        session._read(self._look_up(words, unknown))
        return session.predict(k, begun)

    def score(self, text: str, unknown: bool = False) -> list[tuple[str, float]]:
        """Return the words of a text, each with the log of its probability after those before it.

        Where the model knows no ``<eos>``, the first word is context alone and has no entry. The ends of
        lines are white space: no ``<eos>`` is read there, as `glassgate.language.evaluation.evaluate` does.

        Parameters
        ----------
        text
            The text.
        unknown
            Whether an unknown word is read as ``<unk>``; else it is an error.

        Returns
        -------
        list of (str, float)
            The words as the vocabulary spells them, and log y[word] in nats.

        Raises
        ------
        GlassgateError
            When a word is unknown.
        """
        words = self.vocabulary.cut(text)
        numbers = self._look_up(words, unknown)
        if self.vocabulary.eos is None:
            words = words[1:]
        else:
            numbers = [self.vocabulary.eos, *numbers]
        read, state = np.array(numbers, np.int64), self.network.initial_state(1)
        logs: list[float] = []
        for start in range(0, len(words), BLOCK):
            block = read[start : start + BLOCK + 1]
            h = self.network.run(block[:-1, None], state)[:, 0]
            logs += self.network.output.log_probability(h, block[1:]).tolist()
        return list(zip(words, logs, strict=True))

    def trace(self, text: str, edits: Iterable[Edit] = (), unknown: bool = False) -> Traced:
        """Read a text and return every gate and state at every word, and what may come next.

        Parameters
        ----------
        text
            The text; where the model knows ``<eos>``, it is read from there, as step 0, and may be empty.
        edits
            Changes of gates and states, made in this order; all that is computed from them follows.
        unknown
            Whether an unknown word is read as ``<unk>``; else it is an error.

        Raises
        ------
        GlassgateError
            When a word is unknown, there is none at all, or an edit names what is not there.
        """
        numbers = self.numbers(text, unknown)
        if self.vocabulary.eos is not None:
            numbers = [self.vocabulary.eos, *numbers]
        if not numbers:
            raise GlassgateError("the text: is empty: this model needs at least one word to go on from")
        network = self.network
        reset = self.config.reset if self.config.cell == "gru" else None
        traces = {name: LayerTrace(name, target.cell, reset) for name, target in network.targets.items()}
        own, state = for_layers(edits, network.targets), network.initial_state(1)
        features = network.run(np.array(numbers)[:, None], state, own, traces=traces)
        words = tuple(self.vocabulary.words[number] for number in numbers)
        return Traced(words, Trace(traces), features[:, 0], network.output, self.vocabulary)

    def generate(
        self,
        prompt: str,
        words: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 1,
        unknown: bool = False,
    ) -> Iterator[str]:
        """Go on writing a text, word by word.

        Parameters
        ----------
        prompt
            What stands before; the pieces begin with it.
        words
            How many tokens to write, at least 1; ``<eos>`` is one and ends the line.
        temperature, top_k, top_p, seed
            How a word is drawn: see `glassgate.runtime.sampling.Sampling`.
        unknown
            Whether an unknown word in the prompt is read as ``<unk>``; else it is an error.

        Yields
        ------
        str
            The text, piece by piece, as people write it; ``<unk>`` is never drawn.

        Raises
        ------
        GlassgateError
            For an unknown word or an option out of bounds, before the first piece.
        """
        if words < 1:
            raise GlassgateError(f"words: must be at least 1, got {words}")
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        session, before = self.session(), self.vocabulary.cut(prompt)
        session._read(self._look_up(before, unknown))
        session._check_ready()
        return self._written(session, before, words, sampling)

    def feed_together(self, sessions: Sequence[Session], words: Sequence[str], unknown: bool = False) -> None:
        """Read one word in each of several sessions, all in one step: much faster than one by one.

        Parameters
        ----------
        sessions
            Of this model, each once.
        words
            The next word of each.
        unknown
            Whether an unknown word is read as ``<unk>``; else it is an error, and nothing is read.

        Raises
        ------
        GlassgateError
            For an unknown word, something that is not one word, a session twice, or one of another model.
        """
        self._check(sessions, "words", len(words))
        if len(set(map(id, sessions))) != len(sessions):
            raise GlassgateError("sessions: each must stand there once, got one twice")
        numbers = []
        for text in words:
            found = self.numbers(text, unknown)
            if len(found) != 1:
                raise GlassgateError(f"words: one for each session expected, got {text!r}")
            numbers += found
        if not sessions:
            return
        states = [session._state for session in sessions]
        state = tuple(np.concatenate(parts, axis=1) for parts in zip(*states, strict=True))
        self.network.step(np.array(numbers), state)
        for place, session in enumerate(sessions):
            for own, part in zip(session._state, state, strict=True):
                own[:, 0] = part[:, place]
            session._ready = True

    def predict_together(
        self, sessions: Sequence[Session], k: int = 5, begun: Sequence[str] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return for each of several sessions what its `Session.predict` would, to the bit.

        Parameters
        ----------
        sessions
            Of this model.
        k
            How many words for each, at least 1.
        begun
            For each the letters of the next word that are known; by default none.

        Raises
        ------
        GlassgateError
            When ``k`` is below 1, or a session has nothing to go on from or is of another model.
        """
        begun = [""] * len(sessions) if begun is None else begun
        self._check(sessions, "begun", len(begun))
        if k < 1:
            raise GlassgateError(f"k: must be at least 1, got {k}")
        for session in sessions:
            session._check_ready()
        found: list[list[tuple[str, float]]] = [[] for _ in sessions]
        spelling = self.vocabulary.words
        for prefix in dict.fromkeys(begun):
            places = [place for place, other in enumerate(begun) if other == prefix]
            start = prefix and self.vocabulary.normalise(prefix)
            best = self._best([sessions[place] for place in places], k, start)
            for place, (numbers, y) in zip(places, best, strict=True):
                words = map(spelling.__getitem__, numbers.tolist())
                found[place] = list(zip(words, y.tolist(), strict=True))
        return found

    def numbers(self, text: str, unknown: bool = False) -> list[int]:
        """Turn a text into word numbers.

        Raises
        ------
        GlassgateError
            For a word that is unknown, unless ``unknown`` lets it be read as ``<unk>``.
        """
        number = self._known.get(text)  # a word as the vocabulary spells it need not be cut
        return [number] if number is not None else self._look_up(self.vocabulary.cut(text), unknown)

    @cached_property
    def prefixes(self) -> Prefixes:
        """The words by how they begin; made when first used."""
        return Prefixes(self.vocabulary)

    def _look_up(self, words: Sequence[str], unknown: bool) -> list[int]:
        numbers = []
        for word in words:
            number = self._known.get(word, self.vocabulary.unk if unknown else None)
            if number is None:
                raise self.prefixes.unknown(word)
            numbers.append(number)
        return numbers

    def _check(self, sessions: Sequence[Session], name: str, count: int) -> None:
        if len(sessions) != count:
            raise GlassgateError(f"{name}: one for each of {len(sessions)} sessions expected, got {count}")
        if any(session.model is not self for session in sessions):
            raise GlassgateError("sessions: must be of this model, got one of another")

    def _best(self, sessions: Sequence[Session], k: int, prefix: str) -> list[Best]:
        hidden = [session._state[0][-1] for session in sessions]
        h = hidden[0] if len(hidden) == 1 else np.concatenate(hidden)
        allowed = self.prefixes.words(prefix) if prefix else None
        network = self.network
        return network.output.best(network.features(h), k, allowed, self.vocabulary.unk)

    def _written(
        self, session: Session, before: Sequence[str], words: int, sampling: Sampling
    ) -> Iterator[str]:
        write, generator = Detokeniser(), np.random.default_rng(sampling.seed)
        for word in before:
            yield write(word)
        for _ in repeat(None, words):
            ((numbers, y),) = self._best([session], sampling.candidates(self.config.vocabulary), "")
            number = int(numbers[sampling.draw(y, generator)])
            yield write(self.vocabulary.words[number])
            session._read([number])
