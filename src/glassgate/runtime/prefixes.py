"""Words by how they begin."""

from bisect import bisect_left
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.vocabulary import Vocabulary, quoted

__all__ = ["Prefixes"]

LAST = "\U0010ffff"  # the last character: a prefix and this is beyond every word that begins with it
NEIGHBOURS = 500  # words before and after a spelling that are compared with it, however many there are


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
        self._vocabulary = vocabulary
        self._sorted = [spelling[n] for n in numbers]
        self._longest = max(map(len, self._sorted), default=0)

    def span(self, prefix: str) -> tuple[int, int]:
        """Return where in `order` the words that begin with ``prefix`` start and stop."""
        return bisect_left(self._sorted, prefix), bisect_left(self._sorted, prefix + LAST)

    def words(self, prefix: str) -> npt.NDArray[np.int64]:
        """Return the numbers of the words that begin with ``prefix``, rising."""
        start, stop = self.span(prefix)
        return np.sort(self.order[start:stop])

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cut a text into whole words and what is typed so far of the next; nothing of it after white space.

        A word may hold marks that stand for themselves as long as no letter follows, as in "don'" and
        "still-". So of the ways to end the whole words, the earliest counts after which some word begins so;
        where there is none, the last token is the one that is begun. What is still being typed is never
        refused: what a closed vocabulary cannot read so is begun as a whole, and no word goes on from it.

        Examples
        --------
        >>> prefixes = Prefixes(Vocabulary.build(["I don't know, do I?"], tokens="words", closed=True))
        >>> prefixes.cut("I don'"), prefixes.cut("I know,"), prefixes.cut("I nkow,"), prefixes.cut("I ")
        ((['I'], "don'"), (['I', 'know'], ','), (['I'], 'nkow,'), (['I'], ''))
        """
        words, tokens = self._vocabulary.cut_begun(text)
        start, begun, letters = len(tokens) - 1, "".join(tokens[-1:]), ""
        for place in reversed(range(len(tokens))):
            letters = tokens[place] + letters
            if len(letters) > self._longest:
                break
            first, stop = self.span(letters)
            if first < stop:
                start, begun = place, letters
        ended = tokens[: max(start, 0)]
        if self._vocabulary.unk is None and any(token not in self._vocabulary for token in ended):
            return words, "".join(tokens)
        return words + ended, begun

    def unknown(self, word: str) -> GlassgateError:
        """Return the error for a word that the vocabulary lacks; it names up to three spelled nearly alike.

        They are looked for among those that stand near it in alphabetical order: of a large vocabulary
        a word with a slip in its first letters is not found.

        Examples
        --------
        >>> prefixes = Prefixes(Vocabulary.build(["the gate then a gatehouse"], tokens="spaces"))
        >>> raise prefixes.unknown("gaet")
        Traceback (most recent call last):
        glassgate.errors.GlassgateError: the text: the model does not know the word 'gaet'; close to it: gate;
        the option unknown reads it as <unk>
        """
        place = bisect_left(self._sorted, word)
        near = self._sorted[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS]
        if len(word) > 2 * self._longest:
            near = []  # of two words the longer has at most 1.9 times the letters where 0.7 of all match
        # What a tokenizer.json holds may be anything: a word that is no plain text is shown escaped.
        close = [w if w.isprintable() else repr(w) for w in get_close_matches(word, near, n=3, cutoff=0.7)]
        hint = f"; close to it: {', '.join(close)}" if close else ""
        allowed = "; the option unknown reads it as <unk>" if self._vocabulary.unk is not None else ""
        return GlassgateError(f"the text: the model does not know the word {quoted(word)}{hint}{allowed}")
