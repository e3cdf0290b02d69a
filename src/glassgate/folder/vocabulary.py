"""Words and their numbers: a word-level tokenizer, by the ``tokenizers`` library."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from glassgate.errors import GlassgateError
from glassgate.folder.files import read_json, write_atomically

__all__ = ["EOS", "UNK", "Tokens", "Vocabulary"]

Tokens = Literal["spaces", "words"]
"""What a token is: what stands between spaces, or a word or a punctuation mark of running text."""

UNK = "<unk>"
EOS = "<eos>"

# A word keeps its inner apostrophes and hyphens ("don't", "still-born"); dashes and dots stay together.
WORD_OR_MARK = r"<unk>|<eos>|[^\W_]+(?:['’\-][^\W_]+)*|--+|\.\.\.+|[^\w\s]|_"
LARGEST_FILE = 256 << 20  # bytes of tokenizer.json that are accepted; ten million words need less


class Vocabulary:
    """The known words, numbered from the most frequent down, and how a text is cut into them.

    Parameters
    ----------
    tokenizer
        A word-level tokenizer of the ``tokenizers`` library; by `build` or `load`.

    Attributes
    ----------
    words
        Each word at its number; where the model knows them, ``<unk>`` comes first, then ``<eos>``.
    unk, eos
        The numbers of ``<unk>`` and ``<eos>``, or None.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["the gate opens", "the gate"], tokens="spaces")
    >>> vocabulary.words
    ['<unk>', '<eos>', 'gate', 'the', 'opens']
    >>> vocabulary.encode(["the door opens"])
    [[3, 0, 4]]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        numbers = tokenizer.get_vocab()
        self.words = sorted(numbers, key=numbers.__getitem__)
        if [numbers[word] for word in self.words] != list(range(len(numbers))):
            raise GlassgateError("the words are not numbered from 0 without a gap")
        self.unk: int | None = numbers.get(UNK)
        self.eos: int | None = numbers.get(EOS)

    def __len__(self) -> int:
        return len(self.words)

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
        special = [UNK] * (not closed) + [EOS] * eos
        counter = _tokenizer({}, tokens, lowercase)
        counter.train_from_iterator(
            texts,
            trainers.WordLevelTrainer(vocab_size=2**31, min_frequency=minimum_count, show_progress=False),
        )
        numbers = counter.get_vocab()
        words = special + [word for word in sorted(numbers, key=numbers.__getitem__) if word not in special]
        if len(words) == len(special):
            often = f" that occurs {minimum_count} times or more" if minimum_count > 1 else ""
            raise GlassgateError(
                f"the text: holds no word{often} in its training part: expected a longer text"
            )
        return cls(_tokenizer({word: i for i, word in enumerate(words)}, tokens, lowercase))

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
            return cls(_tokenizer(*_recognise(table)))
        except (GlassgateError, UnicodeEncodeError) as error:
            raise GlassgateError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write the tokenizer.json, whole or not at all."""
        write_atomically(path, self.tokenizer.to_str(pretty=True))

    @property
    def lowercase(self) -> bool:
        """Whether words that differ in case alone are one."""
        return self.normalise("A") == "a"

    def normalise(self, text: str) -> str:
        """Return the text as the vocabulary spells it: NFC, and lower case where it was built so.

        Raises
        ------
        GlassgateError
            When the text holds what no UTF-8 can: bytes of another encoding, from a command line.
        """
        try:
            return str(self.tokenizer.normalizer.normalize_str(text))
        except UnicodeEncodeError as error:
            raise GlassgateError(f"the text: is not UTF-8 at character {error.start:,}") from error

    def cut(self, text: str) -> list[str]:
        """Cut a text into tokens as they are spelled in the vocabulary, known or not."""
        return [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(self.normalise(text))]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Turn texts into word numbers, on all cores; an unknown word becomes ``<unk>``.

        Raises
        ------
        GlassgateError
            When a word is unknown and the vocabulary is closed: it has no ``<unk>``.
        """
        try:
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library's own class for this is a bare Exception
            known = frozenset(self.words)
            unknown = next(word for text in texts for word in self.cut(text) if word not in known)
            raise GlassgateError(f"the text: the word {unknown!r} is not in the closed vocabulary") from error
        return [encoding.ids for encoding in encodings]


def _tokenizer(numbers: dict[str, int], tokens: Tokens, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNK))
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    tokenizer.normalizer = normalizers.Sequence(steps + [normalizers.Lowercase()] * lowercase)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit()
        if tokens == "spaces"
        else pre_tokenizers.Split(Regex(WORD_OR_MARK), "removed", invert=True)
    )
    return tokenizer


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
            ours = json.loads(_tokenizer({}, tokens, lowercase).to_str())
            # Whether it marks words as special does not matter: <unk> and <eos> are words here.
            if all(table.get(step) == ours[step] for step in ours.keys() - {"model", "added_tokens"}):
                return words, tokens, lowercase
    raise GlassgateError("is a tokenizer of another program: its steps are not those of glassgate")
