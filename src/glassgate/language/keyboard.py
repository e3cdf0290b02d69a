"""A text as it is typed on a keyboard that suggests words: the keys it takes, and the wait after each."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.vocabulary import Vocabulary
from glassgate.runtime import Model
from glassgate.runtime.prefixes import Prefixes

__all__ = ["SUGGESTIONS", "Keyboard", "Keys", "Latency", "Percentiles", "measure_latency"]

SUGGESTIONS = 3  # that a keyboard shows where nothing else is said
WARM = 20  # words that are typed once before any time is taken
EVERY = 100  # keys between two reports


class Keys(NamedTuple):
    """What is pressed for one word: the letters typed, then one key that enters the word, ``number``."""

    number: int
    letters: str


class Keyboard:
    """Counts the keys that a text takes with and without suggestions.

    The keyboard shows the most probable words before the first letter and after each, of the words
    that begin so; neither ``<unk>`` nor ``<eos>``. A shown word is entered, with its space, for one key;
    else a word takes a key for each letter and one for the space. An unknown word is typed in full.

    Parameters
    ----------
    vocabulary, prefixes
        The words, and how they begin.
    suggestions
        How many words are shown, at least 1.
    keep
        Of how many tokens, the text's first, the keys are kept.

    Attributes
    ----------
    pressed, letter_by_letter, words : int
        Keys with suggestions, keys without, and words so far.
    kept : list of Keys
        Of the first tokens; for what is not typed, ``<eos>`` and an ``<unk>`` of the text, without letters.

    Raises
    ------
    GlassgateError
        When no suggestion is to be shown.

    References
    ----------
    Keystroke savings: Trnka and McCoy 2008.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["the gate the gatehouse the gable"], tokens="spaces", eos=False)
    >>> keyboard = Keyboard(vocabulary, Prefixes(vocabulary), suggestions=1, keep=1)
    >>> y = np.log(np.array([[0.1, 0.5, 0.1, 0.2, 0.1]], np.float32))  # <unk> the gable gate gatehouse
    >>> keyboard.type(y, np.array([2]), ["gable"], np.array([2]))
    >>> keyboard.pressed, keyboard.letter_by_letter, keyboard.kept
    (4, 6, [Keys(number=2, letters='gab')])
    >>> round(keyboard.savings, 3), round(keyboard.ceiling, 3)
    (0.333, 0.833)
    """

    def __init__(
        self, vocabulary: Vocabulary, prefixes: Prefixes, suggestions: int = SUGGESTIONS, keep: int = 0
    ) -> None:
        if suggestions < 1:
            raise GlassgateError(f"suggestions: must be at least 1, got {suggestions}")
        self.suggestions = suggestions
        self.unk = vocabulary.unk
        self.eos = vocabulary.eos
        self.spelling = vocabulary.words
        self.prefixes = prefixes
        self.ranges: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
        self.pressed = self.letter_by_letter = self.words = 0
        self.keep = keep
        self.kept: list[Keys] = []

    def type(
        self,
        y: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
        spelled: Iterable[str | None],
        ranks: npt.NDArray[np.int64],
    ) -> None:
        """Type the next words of the text.

        Parameters
        ----------
        y : array [T, words]
            log y before each of them; -inf for ``<unk>``.
        targets : array [T]
            Their numbers.
        spelled
            As the text spells them; None for what nobody types.
        ranks : array [T]
            How many words come before each of them, ``<eos>`` included.
        """
        for row, (target, word) in enumerate(zip(targets.tolist(), spelled, strict=True)):
            known = word is not None and target != self.unk
            needed = self._letters_needed(y[row], target, int(ranks[row])) if known else None
            self.enter(target, word, needed)

    def enter(self, number: int, word: str | None, needed: int | None = None) -> None:
        """Count the keys of one token.

        Parameters
        ----------
        number
            What is read.
        word
            As it is spelled; None for what nobody types: it is read, and takes no key.
        needed
            After how many letters it is shown; None: never.
        """
        letters = "" if word is None else word[:needed]
        if word is not None:
            self.words += 1
            self.letter_by_letter += len(word) + 1
            self.pressed += len(letters) + 1
        if len(self.kept) < self.keep:
            self.kept.append(Keys(number, letters))

    @property
    def savings(self) -> float:
        """1 - keys with suggestions / keys letter by letter (Trnka and McCoy 2008)."""
        return 1 - self.pressed / max(self.letter_by_letter, 1)

    @property
    def ceiling(self) -> float:
        """What the savings would be, were every word shown before its first letter."""
        return 1 - self.words / max(self.letter_by_letter, 1)

    def _letters_needed(self, y: npt.NDArray[np.float32], target: int, rank: int) -> int:
        """Return how many letters of a word are typed before it is among the suggestions."""
        # With no letter typed all words compete; with one or more those that begin alike, which
        # stand together in alphabetical order, a range inside the range of one letter less.
        if rank - (self.eos is not None and _before(y, self.eos, target)) < self.suggestions:
            return 0
        starts, stops = self._ranges(target)
        rivals = _before(y, self.prefixes.order[starts[0] : stops[0]], target)
        better = np.concatenate([[0], np.cumsum(rivals)])
        counts = better[stops - starts[0]] - better[starts - starts[0]]
        return 1 + int(np.argmax(np.append(counts, 0) < self.suggestions))

    def _ranges(self, word: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where in alphabetical order the words with its first 1, 2, ... letters start and stop."""
        if word not in self.ranges:
            spans = np.array([self.prefixes.span(prefix) for prefix in accumulate(self.spelling[word])])
            self.ranges[word] = spans[:, 0], spans[:, 1]
        return self.ranges[word]


def _before(y: npt.NDArray[np.float32], words: Any, target: int) -> Any:
    """Tell which words come before a target: the more probable; of equals the more frequent."""
    return (y[words] > y[target]) | ((y[words] == y[target]) & (words < target))


@dataclass(frozen=True)
class Percentiles:
    """How long keys of one kind took, in milliseconds: 50, 95 and 99 of 100 took so long at the most."""

    keys: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles":
        """Return them; each is a time that was measured, and with no key there is none: 0.

        Examples
        --------
        >>> Percentiles.of([0.004, 0.001, 0.002])
        Percentiles(keys=3, p50=2.0, p95=4.0, p99=4.0)
        """
        found = np.percentile(seconds or [0.0], (50, 95, 99), method="inverted_cdf")
        return cls(len(seconds), *(1e3 * float(value) for value in found))


@dataclass(frozen=True)
class Latency:
    """How long a keyboard waits for its suggestions.

    Attributes
    ----------
    word
        After a word has been entered: one step, and the suggestions for the next word.
    letter
        After a letter has been typed: the suggestions that begin so.
    """

    word: Percentiles
    letter: Percentiles


def measure_latency(
    model: Model,
    keys: Sequence[Keys],
    suggestions: int = SUGGESTIONS,
    report: Callable[[int], None] | None = None,
) -> Latency:
    """Type a text again, key by key in one session, and take the time of every key.

    Parameters
    ----------
    model
        From `glassgate.load`; it computes as it does for a keyboard, one word at a time.
    keys
        As `Keyboard` kept them; where the model knows no ``<eos>``, the first must be without letters.
    suggestions
        How many words are shown. Where the model knows ``<eos>``, which is not shown, it is asked for
        one more.
    report
        Called now and then with the number of tokens typed.

    Returns
    -------
    Latency
        Wall times. The first words are typed once before, untimed.
    """
    for _ in _pressed(model, keys[:WARM], suggestions):
        pass
    word: list[float] = []
    letter: list[float] = []
    for count, (enters, seconds) in enumerate(_pressed(model, keys, suggestions)):
        (word if enters else letter).append(seconds)
        if report is not None and count % EVERY == 0:
            report(len(word))
    return Latency(Percentiles.of(word), Percentiles.of(letter))


def _pressed(model: Model, keys: Iterable[Keys], suggestions: int) -> Iterator[tuple[bool, float]]:
    """Press keys, and yield for each whether it enters a word and how many seconds it took."""
    session, spelling = model.session(), model.vocabulary.words
    k = suggestions + (model.vocabulary.eos is not None)
    for number, letters in keys:
        for begun in accumulate(letters):
            started = time.perf_counter()
            session.predict(k, begun)
            yield False, time.perf_counter() - started
        word = spelling[number]
        started = time.perf_counter()
        session.feed(word)
        session.predict(k)
        yield True, time.perf_counter() - started
