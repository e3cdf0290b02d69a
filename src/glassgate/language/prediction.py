"""What comes next: the most probable words, and text written word by word."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from glassgate.errors import GlassgateError
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import load_weights
from glassgate.language.detokenise import Detokeniser
from glassgate.language.model import NextWordModel, State

__all__ = ["Predictor"]


class Predictor:
    """A trained model that reads a text and says how it may go on.

    Parameters
    ----------
    model
        The network; it is put in evaluation mode.
    vocabulary
        Its words.

    Examples
    --------
    >>> Predictor.load(Path("no-such-folder"))
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """

    def __init__(self, model: NextWordModel, vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary

    @classmethod
    def load(cls, folder: Path) -> "Predictor":
        """Read a model folder.

        Raises
        ------
        GlassgateError
            When the folder or a file of it is missing, damaged or foreign.
        """
        config, vocabulary = read_folder(folder)
        weights = load_weights(folder / WEIGHTS, config.tensors())
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and overwritten at once
            model = NextWordModel(config)
        model.load_arrays(weights)
        return cls(model, vocabulary)

    def predict(self, text: str, k: int = 5, unknown: bool = False) -> list[tuple[str, float]]:
        """Return the ``k`` most probable next words with their probabilities.

        Parameters
        ----------
        text
            What stands before; where the model knows ``<eos>``, it may be empty: a line begins.
        k
            How many words, at least 1.
        unknown
            Whether an unknown word is read as ``<unk>``; else it is an error.

        Returns
        -------
        list of (str, float)
            The more probable first. Probabilities are the model's own: ``<unk>`` is never shown, and
            the share of it is not spread over the others. ``<eos>`` stands for the end of the line.

        Raises
        ------
        GlassgateError
            When a word is unknown, there is nothing to go on from, or ``k`` is below 1.
        """
        if k < 1:
            raise GlassgateError(f"-k: must be at least 1, got {k}")
        y, _ = self._read(self._numbers(text, unknown), self.model.initial_state(1))
        return [(self.vocabulary.words[n], float(y[n])) for n in self._best(y, k)]

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
        temperature
            Probabilities are taken to the power of 1 / temperature: below 1 the probable words win,
            0 takes the most probable one always.
        top_k
            If above 0, only so many most probable words may be drawn.
        top_p
            Only the fewest words may be drawn whose probabilities reach this sum, at least one.
        seed
            The same seed writes the same text.
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
            raise GlassgateError(f"--words: must be at least 1, got {words}")
        if not temperature >= 0:
            raise GlassgateError(f"--temperature: must be at least 0, got {temperature}")
        if top_k < 0:
            raise GlassgateError(f"--top-k: must be at least 0 (all words), got {top_k}")
        if not 0 < top_p <= 1:
            raise GlassgateError(f"--top-p: must be above 0 and at most 1, got {top_p}")
        if not 0 <= seed < 2**31:
            raise GlassgateError(f"--seed: must be at least 0 and below 2^31, got {seed}")
        numbers = self._numbers(prompt, unknown)
        return self._written(prompt, numbers, words, temperature, top_k, top_p, np.random.default_rng(seed))

    def _written(
        self,
        prompt: str,
        numbers: list[int],
        words: int,
        temperature: float,
        top_k: int,
        top_p: float,
        generator: np.random.Generator,
    ) -> Iterator[str]:
        write = Detokeniser()
        for word in self.vocabulary.cut(prompt):
            yield write(word)
        state = self.model.initial_state(1)
        for _ in range(words):
            y, state = self._read(numbers, state)
            number = self._draw(y, temperature, top_k, top_p, generator)
            yield write(self.vocabulary.words[number])
            numbers = [number]

    def _draw(
        self,
        y: npt.NDArray[np.float64],
        temperature: float,
        top_k: int,
        top_p: float,
        generator: np.random.Generator,
    ) -> int:
        candidates = self._best(y, 1 if temperature == 0 else top_k or len(y))
        logs = np.log(np.maximum(y[candidates], np.finfo(np.float64).tiny))
        with np.errstate(over="ignore"):  # next to 0 all but the best end at exp(-inf), as at 0 itself
            weights = np.exp((logs - logs[0]) / (temperature or 1.0))
        sums = np.cumsum(weights / weights.sum())
        kept = int(np.searchsorted(sums, top_p)) + 1 if top_p < 1 else len(sums)
        place = np.searchsorted(sums[:kept], generator.random() * sums[:kept][-1], side="right")
        return int(candidates[min(int(place), len(sums[:kept]) - 1)])

    def _best(self, y: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
        """Return the numbers of the k most probable words; of equals the more frequent comes first."""
        order = np.argsort(-y, kind="stable")
        return order[order != self.vocabulary.unk][:k] if self.vocabulary.unk is not None else order[:k]

    def _read(self, numbers: list[int], state: State) -> tuple[npt.NDArray[np.float64], State]:
        """Read words and return the probabilities of the next one."""
        with torch.inference_mode():
            features, state = self.model(torch.tensor(numbers).unsqueeze(1), state)
            logs = self.model.output.log_probabilities(features[-1, 0])
        return np.exp(logs.numpy().astype(np.float64)), state

    def _numbers(self, text: str, unknown: bool) -> list[int]:
        """Turn a prompt into word numbers; before them stands ``<eos>``, where there is one."""
        vocabulary = self.vocabulary
        known = {word: number for number, word in enumerate(vocabulary.words)}
        numbers = [] if vocabulary.eos is None else [vocabulary.eos]
        for word in vocabulary.cut(text):
            if word in known:
                numbers.append(known[word])
            elif unknown and vocabulary.unk is not None:
                numbers.append(vocabulary.unk)
            else:
                close = get_close_matches(word, vocabulary.words, n=3, cutoff=0.7)
                hint = f"; close to it: {', '.join(close)}" if close else ""
                allowed = "; --unknown reads it as <unk>" if vocabulary.unk is not None else ""
                raise GlassgateError(f"the text: the model does not know the word {word!r}{hint}{allowed}")
        if not numbers:
            raise GlassgateError("the text: is empty: this model needs at least one word to go on from")
        return numbers
