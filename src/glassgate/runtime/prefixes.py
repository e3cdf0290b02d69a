"""Words by how they begin."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glassgate.folder.vocabulary import Vocabulary

__all__ = ["Prefixes"]

LAST = "\U0010ffff"  # the last character: a prefix and this is beyond every word that begins with it


class Prefixes:
    """The words of a vocabulary in alphabetical order; ``<unk>`` and ``<eos>``, which nobody types, left out.

    Parameters
    ----------
    vocabulary
        Whose words.

    Attributes
    ----------
    order : array of int
        Word numbers, by the spelling of their words.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["the gate then a gatehouse"], tokens="spaces")
    >>> prefixes = Prefixes(vocabulary)
    >>> [vocabulary.words[n] for n in prefixes.words("gate")]
    ['gate', 'gatehouse']
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        spelling: Sequence[str] = vocabulary.words
        hidden = {vocabulary.unk, vocabulary.eos}
        numbers = sorted((n for n in range(len(spelling)) if n not in hidden), key=spelling.__getitem__)
        self.order = np.array(numbers, np.int64)
        self._sorted = [spelling[n] for n in numbers]

    def span(self, prefix: str) -> tuple[int, int]:
        """Return where in `order` the words that begin with ``prefix`` start and stop."""
        return bisect_left(self._sorted, prefix), bisect_left(self._sorted, prefix + LAST)

    def words(self, prefix: str) -> npt.NDArray[np.int64]:
        """Return the numbers of the words that begin with ``prefix``, rising."""
        start, stop = self.span(prefix)
        return np.sort(self.order[start:stop])
