"""How a text is cut into words: the ``tokenizers`` library says how, and is asked once for each piece."""

import re
from collections import Counter
from typing import Literal

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

__all__ = ["UNK", "WHITE_SPACE", "Cutter", "Tokens", "WordCounts", "library_tokenizer"]

Tokens = Literal["spaces", "words"]
"""What a token is: what stands between spaces, or a word or a punctuation mark of running text."""

UNK = "<unk>"

# A word keeps its inner apostrophes and hyphens ("don't", "still-born"); dashes and dots stay together.
WORD_OR_MARK = r"<unk>|<eos>|[^\W_]+(?:['’\-][^\W_]+)*|--+|\.\.\.+|[^\w\s]|_"
MOST_PIECES = 1 << 20  # that are counted before their words are
# Python's own split takes four control characters for white space that Unicode does not.
SEPARATORS = "\x1c\x1d\x1e\x1f"
WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # as a pattern's class has it
WHITE = re.compile(f"[{WHITE_SPACE}]+")


class Cutter:
    """Cut a text in two steps: at white space into pieces, and each piece into words.

    A text repeats its pieces, so whoever reads much of it keeps what the second step gave. No word holds
    white space, and neither NFC nor lower case reaches across it: the words are those that the library
    cuts out of the whole text.

    Parameters
    ----------
    tokens, lowercase
        As for `Vocabulary.build`.

    Examples
    --------
    >>> cutter = Cutter("words", lowercase=True)
    >>> [cutter.words(piece) for piece in cutter.pieces("The gate, it")]
    [('the',), ('gate', ','), ('it',)]
    """

    def __init__(self, tokens: Tokens, lowercase: bool) -> None:
        self.tokens, self.lowercase = tokens, lowercase
        library = library_tokenizer({}, tokens, lowercase)
        self.normalizer, self.pre_tokenizer = library.normalizer, library.pre_tokenizer

    def pieces(self, text: str) -> list[str]:
        """Cut a text at white space, as Unicode has it."""
        if any(separator in text for separator in SEPARATORS):
            return [piece for piece in WHITE.split(text) if piece]
        return text.split()

    def words(self, piece: str) -> tuple[str, ...]:
        """Cut a piece without white space into words, as the vocabulary spells them.

        Raises
        ------
        UnicodeEncodeError
            The piece holds half of a surrogate pair.
        """
        if piece.isascii() and (self.tokens == "spaces" or piece.isalnum()):
            return (piece.lower() if self.lowercase else piece,)
        normal = self.normalizer.normalize_str(piece)
        return tuple(word for word, _ in self.pre_tokenizer.pre_tokenize_str(normal))


class WordCounts:
    """Count the words of a text that comes piece by piece; memory holds the different words.

    Parameters
    ----------
    tokens, lowercase
        As for `Vocabulary.build`.

    Examples
    --------
    >>> counts = WordCounts("words", lowercase=False)
    >>> counts.add("gate, gate")
    >>> counts.words()
    Counter({'gate': 2, ',': 1})
    """

    def __init__(self, tokens: Tokens, lowercase: bool) -> None:
        self.cutter = Cutter(tokens, lowercase)
        self.pieces, self.counted = Counter[str](), Counter[str]()

    def add(self, text: str) -> None:
        """Count the words of a text that begins and ends between words."""
        self.pieces.update(self.cutter.pieces(text))
        if len(self.pieces) > MOST_PIECES:
            self.words()

    def words(self) -> Counter[str]:
        """Return how often each word was met so far."""
        for piece, count in self.pieces.items():
            for word in self.cutter.words(piece):
                self.counted[word] += count
        self.pieces.clear()
        return self.counted


def library_tokenizer(numbers: dict[str, int], tokens: Tokens, lowercase: bool) -> Tokenizer:
    """Return the library's word-level tokenizer: what tokenizer.json holds.

    Examples
    --------
    >>> library_tokenizer({UNK: 0, "gate": 1}, "words", False).encode("gate, gate").ids
    [1, 0, 1]
    """
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNK))
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    tokenizer.normalizer = normalizers.Sequence(steps + [normalizers.Lowercase()] * lowercase)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit()
        if tokens == "spaces"
        else pre_tokenizers.Split(Regex(WORD_OR_MARK), "removed", invert=True)
    )
    return tokenizer
