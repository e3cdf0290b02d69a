"""Classes of words: by what they are, and by where they stand in their sentence."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from glassgate.folder.vocabulary import UNK

__all__ = ["KINDS", "POSITIONS", "Places", "kinds", "positions"]

KINDS = ("frequent", "middle", "rare", "punctuation", "number", "<unk>", "<eos>")
POSITIONS = ("1", "2", "3-4", "5-8", "9-16", "17-32", "33 on")

FREQUENT, MIDDLE = 0.5, 0.9  # of all words that are met: where frequent ones end, and where rare ones begin
_ENDS = frozenset(["<eos>", ".", "!", "?", "..."])


def kinds(words: Sequence[str], counts: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Return the kind of each word of a vocabulary, as a place in `KINDS`.

    A word without a letter or digit is punctuation, one with a digit and no letter a number. Of the others
    the most frequent which together make up half of the words met are frequent, those that make up the last
    tenth rare.

    Parameters
    ----------
    words
        The vocabulary.
    counts : array [words], optional
        How often each is met; by default 1 / (1 + number), as Zipf's law has it of a vocabulary that is
        ordered by frequency.

    Examples
    --------
    >>> found = kinds(["the", "a", "gate", ",", "1987", "<unk>"], [50, 30, 5, 40, 2, 2])
    >>> [KINDS[k] for k in found]
    ['frequent', 'middle', 'rare', 'punctuation', 'number', '<unk>']
    """
    shares = np.asarray(1 / np.arange(1, len(words) + 1) if counts is None else counts, np.float64)
    found = np.empty(len(words), np.int64)
    plain = []
    for number, word in enumerate(words):
        if word in (UNK, "<eos>"):
            found[number] = KINDS.index(word)
        elif not any(map(str.isalnum, word)):
            found[number] = KINDS.index("punctuation")
        elif not any(map(str.isalpha, word)):
            found[number] = KINDS.index("number")
        else:
            plain.append(number)
    order = sorted(plain, key=lambda number: -shares[number])
    total = sum(shares[order]) or 1.0
    before = [0.0, *accumulate(shares[order] / total)]
    for number, share in zip(order, before, strict=False):
        found[number] = 0 if share < FREQUENT else 1 if share < MIDDLE else 2
    return found


class Places:
    """Where words stand in their sentences, in a text that comes in pieces.

    A sentence ends with ``<eos>`` or ``.``, ``!``, ``?``, ``...``; the word after it stands at place 1.

    Parameters
    ----------
    words
        The vocabulary.

    Examples
    --------
    >>> places = Places(["the", "gate", "."])
    >>> places(np.array([0, 1, 2])), places(np.array([0, 1]))
    (array([1, 2, 3]), array([1, 2]))
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._ends = np.array([word in _ENDS for word in words])
        self._before = 0

    def __call__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the places of the next words, counted from 1."""
        ends = self._ends[numbers]
        steps = np.arange(len(numbers))
        last = np.where(ends, steps, -1 - self._before)  # the step at which the sentence before ended
        last = np.concatenate([[-1 - self._before], np.maximum.accumulate(last)[:-1]])
        places = np.asarray(steps - last, np.int64)
        if len(numbers):
            self._before = 0 if ends[-1] else int(places[-1])
        return places


def positions(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the class of each place in a sentence, as a place in `POSITIONS`.

    Examples
    --------
    >>> [POSITIONS[k] for k in positions(np.array([1, 2, 4, 5, 32, 99]))]
    ['1', '2', '3-4', '5-8', '17-32', '33 on']
    """
    return np.searchsorted([1, 2, 4, 8, 16, 32], places)
