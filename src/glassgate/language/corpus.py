"""A corpus: text turned into word numbers, once, in memory-mapped files."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.files import replacing
from glassgate.folder.vocabulary import UNK, Tokens, Vocabulary
from glassgate.language.blocks import Span, cut_blocks, find_sources
from glassgate.language.blocks import parts as cut_parts
from glassgate.language.text import Segment, detect_eos, detect_tokens, find_files, length, read_segments
from glassgate.language.tokenising import Tokeniser, dtype_of

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
BATCH = 1 << 20  # characters that are tokenised at once
WORDS = "words"  # a file by which processes learn the vocabulary
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
    *,
    processes: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Corpus:
    """Build the vocabulary from the training text and write all parts as word numbers.

    The training text is read twice, by a process for each core where it is large: memory holds the words
    and about two megabytes of text, in each process. What is not given is held out by position:
    without ``valid`` and ``test`` the first 90 % of the bytes train, the next 5 % validate, the last 5 %
    test; without ``valid`` alone the last 10 % validate. Compressed texts are unpacked to ``folder`` and
    removed from there at the end.

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
    processes
        How many at the most; by default one for each core. The result does not depend on it.
    progress
        Called for each megabyte with the share of the work that is done and what is being done.

    Returns
    -------
    Corpus
        Its parts are memory maps.

    Raises
    ------
    GlassgateError
        When a text is missing, empty, binary, not UTF-8, or has no word in one of the parts.
    """
    files, held = find_files(texts), {"valid": find_files(valid), "test": find_files(test)}
    for stale in folder.glob("*.tokens"):  # of an attempt that was killed, perhaps with other parts
        stale.unlink()
    eos = options.eos or detect_eos(files)
    tokens = options.tokens or detect_tokens(files)
    minimum = options.minimum_count or (1 if options.closed or _holds_unk(files) else 2)
    bounds: tuple[float, ...] = () if valid else (0.90,) if test else HELD_OUT
    with _removed(folder):
        cut = cut_parts(find_sources(files, folder, "train"), bounds, eos)
        spans = dict(zip(("train", "valid", "test"), cut, strict=False))
        for name, given in held.items():
            if given:
                spans[name] = [Span(s, s.start, s.stop) for s in find_sources(given, folder, name)]
        work = _Watched(spans, progress)
        most = processes or len(os.sched_getaffinity(0))
        with Tokeniser(
            tokens, options.lowercase, eos, size=work.sizes["train"], most=most, progress=work.add
        ) as tokeniser:
            vocabulary = Vocabulary.from_counts(
                tokeniser.count(cut_blocks(spans["train"])),
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
            work.what = "numbering"
            for name, part in spans.items():
                count = _write(tokeniser, part, vocabulary, folder / f"{name}.tokens")
                report(f"{count:,} tokens in the {name} part")
                if count == 0:
                    raise GlassgateError(f"the text: has no word in its {name} part: expected a longer text")
    share = {0: "the files given", 1: "the last 10 % validates", 2: "90 % trains, 5 % validates, 5 % tests"}
    return open_tokens(vocabulary, eos, folder, share[len(bounds)])


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Leave behind nothing that only the tokenising needs."""

    def remove() -> None:
        for file in (*folder.glob("*.text"), folder / WORDS):
            file.unlink(missing_ok=True)

    remove()  # of an attempt that was killed
    try:
        yield
    finally:
        remove()


class _Watched:
    """Says how much of a text was read: the training part is counted and numbered, the others numbered."""

    def __init__(self, spans: dict[str, list[Span]], progress: Callable[[float, str], None] | None) -> None:
        self.sizes = {name: sum(s.stop - s.start for s in part) for name, part in spans.items()}
        self.total = max(1, self.sizes["train"] + sum(self.sizes.values()))
        self.done, self.what, self.progress = 0, "counting", progress

    def add(self, size: int) -> None:
        self.done += size
        if self.progress is not None:
            self.progress(self.done / self.total, f"{self.what} words, {self.done / 1e6:,.0f} MB read")


def open_tokens(vocabulary: Vocabulary, eos: Eos, folder: Path, split_by: str) -> Corpus:
    """Map the token files that `prepare` wrote.

    Raises
    ------
    GlassgateError
        When one is missing or damaged.
    """
    dtype = dtype_of(len(vocabulary))

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
    dtype = dtype_of(len(vocabulary))
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
    """Pair each segment with its word numbers; a megabyte of text is encoded at once."""
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


def _write(tokeniser: Tokeniser, spans: Sequence[Span], vocabulary: Vocabulary, path: Path) -> int:
    """Write the numbers of a part; of paragraphs the first block of an empty line may end another's."""
    count, is_open = 0, False
    end = np.array([vocabulary.eos or 0], dtype_of(len(vocabulary)))
    blocks, ends = tee(cut_blocks(spans))
    with replacing(path) as temporary, temporary.open("wb") as file:

        def write(numbers: TokenArray) -> int:
            file.write(numbers.data)  # tofile says nothing when the disk is full
            return len(numbers)

        for encoded, block in zip(
            tokeniser.encode(blocks, vocabulary, path.with_name(WORDS)), ends, strict=True
        ):
            if encoded.parted and is_open:
                count += write(end)
                is_open = False
            count += write(encoded.numbers)
            is_open = encoded.open if encoded.filled else is_open
            if block.ends and is_open:
                count += write(end)
                is_open = False
    return count


def _holds_unk(files: Sequence[Path]) -> bool:
    return any(UNK in segment.text for segment in islice(read_segments(files, "line"), 5_000))
