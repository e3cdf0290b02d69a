"""Words and their numbers, and how they are kept: a word-level tokenizer of the ``tokenizers`` library."""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from tokenizers import Tokenizer

from glassgate.errors import GlassgateError
from glassgate.folder.cutting import UNK, Cutter, Tokens, WordCounts, library_tokenizer
from glassgate.folder.files import read_json, write_atomically

__all__ = ["EOS", "UNK", "Tokens", "Vocabulary", "quoted"]

EOS = "<eos>"
LARGEST_FILE = 256 << 20  # bytes of tokenizer.json that are accepted; ten million words need less
MOST_KEPT = 1 << 19  # pieces of text whose numbers are kept
LONGEST_SHOWN = 80  # characters of a word in a message
LONGEST_KEPT = 64  # characters of such a piece: what is sent to a server must not fill its memory


class Vocabulary:
    """The known words, numbered from the most frequent down, and how a text is cut into them.

    Parameters
    ----------
    numbers
        The number of each word, from 0 without a gap; by `build`, `from_counts` or `load`.
    tokens, lowercase
        As for `build`.

    Attributes
    ----------
    words
        Each word at its number; where the model knows them, ``<unk>`` comes first, then ``<eos>``.
    unk, eos
        The numbers of ``<unk>`` and ``<eos>``, or None.
    lowercase
        Whether words that differ in case alone are one.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["the gate opens", "the gate"], tokens="spaces")
    >>> vocabulary.words
    ['<unk>', '<eos>', 'gate', 'the', 'opens']
    >>> vocabulary.encode(["the door opens"])
    [[3, 0, 4]]
    """

    def __init__(self, numbers: dict[str, int], tokens: Tokens, lowercase: bool) -> None:
        in_order = list(numbers.values()) == list(range(len(numbers)))
        self.words = list(numbers) if in_order else sorted(numbers, key=numbers.__getitem__)
        if not in_order and [numbers[word] for word in self.words] != list(range(len(numbers))):
            raise GlassgateError("the words are not numbered from 0 without a gap")
        if len(numbers) == (UNK in numbers):
            raise GlassgateError(f"knows no word: expected one at least beside {UNK}, which is never shown")
        self.unk: int | None = numbers.get(UNK)
        self.eos: int | None = numbers.get(EOS)
        self.tokens, self.lowercase = tokens, lowercase
        self._cutter = Cutter(tokens, lowercase)
        self._kept = _Kept(self._cutter, numbers, self.unk)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The library's tokenizer, which `save` writes; made when it is asked for."""
        return library_tokenizer(self._kept.numbers, self.tokens, self.lowercase)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._kept.numbers

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        tokens: Tokens,
        lowercase: bool = False,
        minimum_count: int = 1,
        closed: bool = False,
        eos: bool = True,
    ) -> "Vocabulary":
        """Count the words of a training text and number them: the more frequent first, then by spelling.

        Parameters
        ----------
        texts
            The training text, piece by piece.
        tokens
            ``"spaces"``: a word is what stands between white space (a text tokenised already);
            ``"words"``: words and punctuation marks of running text.
        lowercase
            Whether words that differ in case alone are one.
        minimum_count
            A rarer word is left out and read as ``<unk>``.
        closed
            Whether to leave out ``<unk>``: the vocabulary is complete, an unknown word an error.
        eos
            Whether there is a token ``<eos>``.

        Returns
        -------
        Vocabulary
            The same for the same text, on any machine.

        Raises
        ------
        GlassgateError
            When no word remains.

        Examples
        --------
        >>> Vocabulary.build(["Aha! the gate."], tokens="words", lowercase=True).words[2:]
        ['!', '.', 'aha', 'gate', 'the']
        """
        counts = WordCounts(tokens, lowercase)
        for text in texts:
            counts.add(text)
        return cls.from_counts(
            counts.words(),
            tokens=tokens,
            lowercase=lowercase,
            minimum_count=minimum_count,
            closed=closed,
            eos=eos,
        )

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        tokens: Tokens,
        lowercase: bool = False,
        minimum_count: int = 1,
        closed: bool = False,
        eos: bool = True,
    ) -> "Vocabulary":
        """Give numbers to words that have been counted, as `build` does.

        Parameters
        ----------
        counts
            How often each word stands in the training text, by its spelling in the vocabulary.
        tokens, lowercase, minimum_count, closed, eos
            As for `build`.

        Raises
        ------
        GlassgateError
            When no word remains.

        Examples
        --------
        >>> Vocabulary.from_counts({"gate": 1, "the": 2}, tokens="spaces").words
        ['<unk>', '<eos>', 'the', 'gate']
        """
        special = [UNK] * (not closed) + [EOS] * eos
        kept = [word for word, count in counts.items() if count >= minimum_count and word not in special]
        if not kept:
            often = f" that occurs {minimum_count} times or more" if minimum_count > 1 else ""
            raise GlassgateError(
                f"the text: holds no word{often} in its training part: expected a longer text"
            )
        kept.sort()
        kept.sort(key=counts.__getitem__, reverse=True)  # stable: the spelling decides between equals
        return cls({word: i for i, word in enumerate(special + kept)}, tokens, lowercase)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a tokenizer.json that `save` wrote.

        The words are taken from the file and the steps that cut a text from here: a step of
        another program (a pattern without end, a limit on the length) is refused, never run.

        Raises
        ------
        GlassgateError
            When the file is missing, damaged, or of another program.
        """
        table = read_json(path, LARGEST_FILE, "tokenizer")
        try:
            return cls(*_recognise(table))
        except (GlassgateError, UnicodeEncodeError) as error:
            raise GlassgateError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write the tokenizer.json, whole or not at all."""
        write_atomically(path, self.tokenizer.to_str(pretty=True))

    def normalise(self, text: str) -> str:
        """Return the text as the vocabulary spells it: NFC, and lower case where it was built so.

        Raises
        ------
        GlassgateError
            When the text holds what no UTF-8 can: bytes of another encoding, from a command line.
        """
        try:
            return str(self._cutter.normalizer.normalize_str(text))
        except UnicodeEncodeError as error:
            raise GlassgateError(f"the text: is not UTF-8 at character {error.start:,}") from error

    def cut(self, text: str) -> list[str]:
        """Cut a text into tokens as they are spelled in the vocabulary, known or not."""
        self.normalise(text)  # refuses what no file can hold, by its place in the text
        return [word for piece in self._cutter.pieces(text) for word in self._cutter.words(piece)]

    def cut_begun(self, text: str) -> tuple[list[str], list[str]]:
        """Cut a text whose last word may be unfinished: what stands before its last piece, and that piece.

        Examples
        --------
        >>> vocabulary = Vocabulary.build(["I don't know"], tokens="words")
        >>> vocabulary.cut_begun("I don'"), vocabulary.cut_begun("I ")
        ((['I'], ['don', "'"]), (['I'], []))
        """
        words, pieces = self.cut(text), self._cutter.pieces(text)
        begun = self.cut(pieces[-1]) if pieces and text.endswith(pieces[-1]) else []
        return words[: len(words) - len(begun)], begun

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Turn texts into word numbers; an unknown word becomes ``<unk>``.

        Raises
        ------
        GlassgateError
            When a word is unknown and the vocabulary is closed: it has no ``<unk>``.
        """
        return [list(self.numbers(text)) for text in texts]

    def numbers(self, text: str) -> Iterable[int]:
        """Return the word numbers of a text, one after the other: `encode` for a text that is long.

        Raises
        ------
        GlassgateError
            As `encode`.

        Examples
        --------
        >>> vocabulary = Vocabulary.build(["the gate"], tokens="spaces")
        >>> list(vocabulary.numbers("the gate the"))
        [3, 2, 3]
        """
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        try:
            found = list(map(self._kept.__getitem__, self._cutter.pieces(text)))
        except UnicodeEncodeError:
            self.normalise(text)
            raise
        return found if self.tokens == "spaces" else chain.from_iterable(found)


class _Kept(dict[str, Any]):
    """The numbers of the words in a piece of text; looked up when a piece is met for the first time.

    Where each piece is one word its number stands there as it is: that is read twice as fast.
    """

    def __init__(self, cutter: Cutter, numbers: dict[str, int], unk: int | None) -> None:
        self.cutter, self.numbers, self.unk = cutter, numbers, unk

    def __missing__(self, piece: str) -> Any:
        found = []
        for word in self.cutter.words(piece):
            number = self.numbers.get(word, self.unk)
            if number is None:
                raise GlassgateError(f"the text: the word {quoted(word)} is not in the closed vocabulary")
            found.append(number)
        value = found[0] if self.cutter.tokens == "spaces" else tuple(found)
        if len(piece) <= LONGEST_KEPT:
            self[piece] = value
        return value


def quoted(word: str) -> str:
    """Return a word as a message shows it: in quotation marks, of a long one the beginning.

    Examples
    --------
    >>> quoted("gate"), quoted("x" * 1000)[:12], quoted("x" * 1000)[-25:]
    ("'gate'", "'xxxxxxxxxxx", "x' ... (1,000 characters)")
    """
    return (
        repr(word)
        if len(word) <= LONGEST_SHOWN
        else f"{word[:LONGEST_SHOWN]!r} ... ({len(word):,} characters)"
    )


def _recognise(table: Any) -> tuple[dict[str, int], Tokens, bool]:
    """Return words, form and case of what `Vocabulary.save` wrote; refuse all else."""
    model = table.get("model") if isinstance(table, dict) else None
    if not isinstance(model, dict) or model.get("type") != "WordLevel":
        raise GlassgateError("is not a word-level tokenizer")
    words = model.get("vocab")
    if not isinstance(words, dict) or model.get("unk_token") != UNK:
        raise GlassgateError(f"is damaged: expected a table of words and {UNK} for all others")
    if not all(type(number) is int and 0 <= number < len(words) for number in words.values()):
        raise GlassgateError("the words are not numbered from 0 without a gap")
    "".join(words).encode()  # JSON can hold half of a surrogate pair, UTF-8 cannot
    for tokens in get_args(Tokens):
        for lowercase in (False, True):
            ours = json.loads(library_tokenizer({}, tokens, lowercase).to_str())
            # Whether it marks words as special does not matter: <unk> and <eos> are words here.
            if all(table.get(step) == ours[step] for step in ours.keys() - {"model", "added_tokens"}):
                return words, tokens, lowercase
    raise GlassgateError("is a tokenizer of another program: its steps are not those of glassgate")
