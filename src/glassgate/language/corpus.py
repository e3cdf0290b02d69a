"""A corpus: text turned into word numbers, once, in memory-mapped files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.files import replacing
from glassgate.folder.vocabulary import UNK, Tokens, Vocabulary
from glassgate.language.text import (
    Segment,
    detect_eos,
    detect_tokens,
    find_files,
    length,
    read_segments,
    split,
)

__all__ = [
    "Corpus",
    "TextOptions",
    "TokenArray",
    "batches",
    "count_words",
    "encode_segments",
    "open_tokens",
    "prepare",
]

TokenArray = npt.NDArray[np.unsignedinteger]
BATCH = 1 << 20  # characters that are tokenised at once: enough to keep all cores busy
PIECE = 1 << 22  # tokens that are counted at once
HELD_OUT = (0.90, 0.95)  # train up to the first, validate up to the second, test on the rest


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How text becomes tokens; None stands for what the text itself suggests.

    Attributes
    ----------
    tokens
        ``"spaces"`` or ``"words"``; by default as `detect_tokens` tells.
    eos
        ``"line"``, ``"paragraph"`` or ``"none"``; by default as `detect_eos` tells.
    lowercase
        Whether case is dropped.
    minimum_count
        Rarer words are read as ``<unk>``; by default 2, so that ``<unk>`` is met in training, or 1
        where the text holds ``<unk>`` itself.
    closed
        Whether the vocabulary has no ``<unk>`` and holds every word.
    """

    tokens: Tokens | None = None
    eos: Eos | None = None
    lowercase: bool = False
    minimum_count: int | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        if self.minimum_count is not None and self.minimum_count < 1:
            raise GlassgateError(f"--minimum-count: must be at least 1, got {self.minimum_count}")
        if self.closed and (self.minimum_count or 1) > 1:
            raise GlassgateError("--closed-vocabulary: keeps every word, --minimum-count leaves some out")


@dataclass(frozen=True)
class Corpus:
    """A vocabulary and the parts of a text as word numbers; test may be absent."""

    vocabulary: Vocabulary
    eos: Eos
    train: TokenArray
    valid: TokenArray
    test: TokenArray | None
    split: str


def prepare(
    texts: Sequence[Path],
    valid: Sequence[Path],
    test: Sequence[Path],
    options: TextOptions,
    folder: Path,
    report: Callable[[str], None],
) -> Corpus:
    """Build the vocabulary from the training text and write all parts as word numbers.

    The text is read as a stream, twice, or three times where it has to be split first: memory
    holds the vocabulary and about a megabyte of text. What is not given is held out by position:
    without ``valid`` and ``test`` the first 90 % train, the next 5 % validate, the last 5 % test;
    without ``valid`` alone the last 10 % validate.

    Parameters
    ----------
    texts, valid, test
        Files and folders.
    options
        How text becomes tokens.
    folder
        Where ``train.tokens``, ``valid.tokens`` and ``test.tokens`` are written.
    report
        Called with a line whenever there is something to tell.

    Returns
    -------
    Corpus
        Its parts are memory maps.

    Raises
    ------
    GlassgateError
        When a text is missing, empty, binary, not UTF-8, or has no word in one of the parts.
    """
    files, valid_files, test_files = find_files(texts), find_files(valid), find_files(test)
    for stale in folder.glob("*.tokens"):  # of an attempt that was killed, perhaps with other parts
        stale.unlink()
    eos = options.eos or detect_eos(files)
    tokens = options.tokens or detect_tokens(files)
    bounds: tuple[float, ...] = () if valid else (0.90,) if test else HELD_OUT
    total = sum(map(length, read_segments(files, eos))) if bounds else 0

    def part(wanted: int) -> Iterator[Segment]:
        segments = read_segments(files, eos)
        return (s for n, s in split(segments, total, bounds) if n == wanted) if bounds else segments

    minimum = options.minimum_count or (1 if options.closed or _holds_unk(files) else 2)
    vocabulary = Vocabulary.build(
        (segment.text for segment in part(0)),
        tokens=tokens,
        lowercase=options.lowercase,
        minimum_count=minimum,
        closed=options.closed,
        eos=eos != "none",
    )
    report(
        f"{len(vocabulary):,} words in the vocabulary: "
        + ("what stands between spaces" if tokens == "spaces" else "words and punctuation marks")
        + (f", met {minimum} times or more" if minimum > 1 else "")
        + {"line": "; <eos> ends a line", "paragraph": "; <eos> ends a paragraph", "none": ""}[eos]
    )
    parts = {"train": part(0)}
    if not valid:
        parts["valid"] = part(1)
    if not valid and not test:
        parts["test"] = part(2)
    if valid:
        parts["valid"] = read_segments(valid_files, eos)
    if test:
        parts["test"] = read_segments(test_files, eos)
    for name, segments in parts.items():
        count = _write(segments, vocabulary, folder / f"{name}.tokens")
        report(f"{count:,} tokens in the {name} part")
        if count == 0:
            raise GlassgateError(f"the text: has no word in its {name} part: expected a longer text")
    share = {0: "the files given", 1: "the last 10 % validates", 2: "90 % trains, 5 % validates, 5 % tests"}
    return open_tokens(vocabulary, eos, folder, share[len(bounds)])


def open_tokens(vocabulary: Vocabulary, eos: Eos, folder: Path, split_by: str) -> Corpus:
    """Map the token files that `prepare` wrote.

    Raises
    ------
    GlassgateError
        When one is missing or damaged.
    """
    dtype = _dtype(vocabulary)

    def mapped(name: str) -> TokenArray:
        path = folder / f"{name}.tokens"
        try:
            return np.memmap(path, dtype=dtype, mode="r")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise GlassgateError(f"{path}: is no whole file of tokens: {reason}") from error

    test = mapped("test") if (folder / "test.tokens").exists() else None
    return Corpus(vocabulary, eos, mapped("train"), mapped("valid"), test, split_by)


def count_words(tokens: TokenArray, words: int) -> npt.NDArray[np.int64]:
    """Count how often each of ``words`` words is met; a memory map is read piece by piece.

    Examples
    --------
    >>> count_words(np.array([3, 1, 3], np.uint16), 5)
    array([0, 1, 0, 2, 0])
    """
    counts = np.zeros(words, np.int64)
    for start in range(0, len(tokens), PIECE):
        counts += np.bincount(tokens[start : start + PIECE], minlength=words)
    return counts


def encode_segments(segments: Iterable[Segment], vocabulary: Vocabulary) -> Iterator[TokenArray]:
    """Turn segments into word numbers, a megabyte of text at a time.

    Parameters
    ----------
    segments
        The text.
    vocabulary
        Numbers its words; where it has ``<eos>``, that follows each segment that ends.

    Yields
    ------
    array of unsigned int
        The next tokens of the text.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["the gate"], tokens="spaces")
    >>> [list(map(int, a)) for a in encode_segments([Segment("the gate", True)], vocabulary)]
    [[3, 2, 1]]
    """
    dtype = _dtype(vocabulary)
    numbers: list[int] = []
    for segment, encoded in batches(segments, vocabulary):
        numbers += encoded
        if segment.ends and vocabulary.eos is not None:
            numbers.append(vocabulary.eos)
        if len(numbers) >= BATCH:
            yield np.array(numbers, dtype)
            numbers = []
    if numbers:
        yield np.array(numbers, dtype)


def batches(segments: Iterable[Segment], vocabulary: Vocabulary) -> Iterator[tuple[Segment, list[int]]]:
    """Pair each segment with its word numbers; a megabyte of text is encoded at once, on all cores."""
    segments = iter(segments)
    while batch := _take(segments):
        yield from zip(batch, vocabulary.encode([segment.text for segment in batch]), strict=True)


def _take(segments: Iterator[Segment]) -> list[Segment]:
    batch: list[Segment] = []
    size = 0
    for segment in segments:
        batch.append(segment)
        size += length(segment)
        if size >= BATCH:
            break
    return batch


def _write(segments: Iterable[Segment], vocabulary: Vocabulary, path: Path) -> int:
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        for numbers in encode_segments(segments, vocabulary):
            file.write(numbers.data)  # tofile says nothing when the disk is full
            count += len(numbers)
    return count


def _dtype(vocabulary: Vocabulary) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2" if len(vocabulary) <= 1 << 16 else "<u4")


def _holds_unk(files: Sequence[Path]) -> bool:
    return any(UNK in segment.text for segment in islice(read_segments(files, "line"), 5_000))
