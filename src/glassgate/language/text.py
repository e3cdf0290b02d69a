"""Text files as a stream of segments, whatever their size.

A segment is a piece of text that is tokenised at once: a line, a paragraph, or a part of one that
is too long to hold. Where a segment ends a line (or a paragraph), the token ``<eos>`` follows it.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import BinaryIO, cast

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.vocabulary import Tokens

__all__ = [
    "LONGEST_PIECE",
    "Segment",
    "decode",
    "detect_eos",
    "detect_tokens",
    "find_files",
    "length",
    "open_text",
    "read_segments",
    "reading",
]

LONGEST_PIECE = 1 << 20  # bytes: a longer line is handed out in pieces, cut at white space
SAMPLE_LINES = 5_000  # enough to see how a text is laid out
PUNCTUATION = frozenset(",.;:!?")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text, and whether ``<eos>`` follows it."""

    text: str
    ends: bool


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List the text files that ``paths`` name; a folder stands for the texts in it, sorted by name.

    Parameters
    ----------
    paths
        Files, taken as they are, and folders, searched for ``*.txt`` and ``*.txt.gz`` at any depth.

    Returns
    -------
    list of Path
        The files, in the order of ``paths``.

    Raises
    ------
    GlassgateError
        When a path does not exist or cannot be looked at, a file is empty, or a folder holds no text.

    Examples
    --------
    >>> find_files([Path("no-such-file.txt")])
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-file.txt: no such file or folder
    """
    files: list[Path] = []
    for path in paths:
        try:
            found = _find(path)
            empty = next((file for file in found if file.is_file() and file.stat().st_size == 0), None)
        except OSError as error:  # a name too long, a folder that may not be entered
            raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
        if empty is not None:
            raise GlassgateError(f"{empty}: is empty: expected text")
        files += found
    return files


def read_segments(files: Iterable[Path], eos: Eos) -> Iterator[Segment]:
    r"""Read files one after the other as segments, in constant memory.

    Parameters
    ----------
    files
        UTF-8 text, plain or gzip-compressed.
    eos
        What ``<eos>`` ends. An empty line is a line of its own for ``"line"`` (so counts
        WikiText-2's 2,088,628 tokens) and parts paragraphs for ``"paragraph"``.

    Yields
    ------
    Segment
        In the order of the text.

    Raises
    ------
    GlassgateError
        When a file cannot be read, is binary, or is not UTF-8; the byte offset is named.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "two.txt"
    >>> _ = file.write_text("the forget gate\nthe input gate\n")
    >>> [segment.text for segment in read_segments([file], "line")]
    ['the forget gate', 'the input gate']
    """
    for file in files:
        yield from _paragraphs(_lines(file)) if eos == "paragraph" else _marked(_lines(file), eos)


def length(segment: Segment) -> int:
    """Return the number of characters of a segment, the space or line end after it included."""
    return len(segment.text) + 1


def detect_tokens(files: Sequence[Path]) -> Tokens:
    """Tell whether a text is already tokenised: its punctuation stands between spaces.

    Returns
    -------
    str
        ``"spaces"`` when at least as many marks of ``, . ; : ! ?`` stand alone as are attached to
        a word (a text without any counts as tokenised), else ``"words"``.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "prose.txt"
    >>> _ = file.write_text("Sir Walter Elliot, of Kellynch Hall, was a man.")
    >>> detect_tokens([file])
    'words'
    """
    alone = attached = 0
    for segment in islice(read_segments(files, "line"), SAMPLE_LINES):
        for token in segment.text.split():
            if token[-1] in PUNCTUATION:
                alone += len(token) == 1
                attached += len(token) > 1
    return "spaces" if alone >= attached else "words"


def detect_eos(files: Sequence[Path]) -> Eos:
    r"""Tell whether lines are wrapped prose, where only an empty line ends a thought.

    Returns
    -------
    str
        ``"paragraph"`` when no line is longer than 100 characters, most lines that hold text are
        between 50 and 100 long, and empty lines part them; else ``"line"``.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "lines.txt"
    >>> _ = file.write_text("one thought\nanother thought\n")
    >>> detect_eos([file])
    'line'
    """
    lengths = [len(s.text.rstrip()) for s in islice(read_segments(files, "line"), SAMPLE_LINES)]
    filled = [n for n in lengths if n]
    wrapped = bool(filled) and len(filled) < len(lengths) and max(filled) <= 100 and median(filled) >= 50
    return "paragraph" if wrapped else "line"


def _marked(lines: Iterable[Segment], eos: Eos) -> Iterator[Segment]:
    return (Segment(line.text, line.ends and eos == "line") for line in lines)


def _find(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for pattern in ("*.txt", "*.txt.gz") for p in path.rglob(pattern) if p.is_file())
        if not found:
            raise GlassgateError(f"{path}: holds no text: expected files named *.txt or *.txt.gz")
        return found
    if not path.exists():
        raise GlassgateError(f"{path}: no such file or folder")
    return [path]


def _paragraphs(lines: Iterable[Segment]) -> Iterator[Segment]:
    """Join lines up to an empty one; a paragraph that is too long to hold comes in pieces."""
    held: list[str] = []
    size = 0
    begun = filled = False  # whether the paragraph, and the line, have text so far
    for line in lines:
        if text := line.text.strip():
            held.append(text)
            size += len(text)
            begun = filled = True
        over = line.ends and not filled
        filled = filled and not line.ends
        if begun and (over or size >= LONGEST_PIECE):
            yield Segment(" ".join(held), ends=over)
            held, size, begun = [], 0, not over
    if begun:
        yield Segment(" ".join(held), ends=True)


def _lines(file: Path) -> Iterator[Segment]:
    """Read lines without their ends; one longer than `LONGEST_PIECE` comes in pieces."""
    with reading(file), open_text(file) as stream:
        if stream.read(3) != BYTE_ORDER_MARK:  # which is no part of the text
            stream.seek(0)
        offset, carried, ends = stream.tell(), b"", True
        while raw := stream.readline(LONGEST_PIECE):
            piece, carried = carried + raw, b""
            ends = raw.endswith(b"\n") or len(raw) < LONGEST_PIECE
            if not ends:
                cut = max(piece.rfind(b" "), piece.rfind(b"\t")) + 1
                if cut == 0:
                    raise GlassgateError(f"{file}: is not text: a word of a megabyte at byte {offset:,}")
                piece, carried = piece[:cut], piece[cut:]
            text = decode(piece, file, offset)
            yield Segment(text.rstrip("\r\n"), ends)
            offset += len(piece)
        if carried or not ends:
            yield Segment(decode(carried, file, offset), ends=True)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into one line.

    Raises
    ------
    GlassgateError
        When the block raises an error of the system or of a compressed file.

    Examples
    --------
    >>> with reading(Path("a.txt")):
    ...     raise EOFError("cut short")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: a.txt: cannot be read: cut short
    """
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise GlassgateError(f"{file}: cannot be read: {reason}") from error


@contextmanager
def open_text(file: Path) -> Iterator[BinaryIO]:
    """Open a text, unpacked where it is compressed; closed at the end of a ``with``.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.txt.gz"
    >>> _ = file.write_bytes(gzip.compress(b"the gate"))
    >>> with open_text(file) as stream:
    ...     stream.read()
    b'the gate'
    """
    with file.open("rb") as stream:
        zipped = stream.read(2) == GZIP
        stream.seek(0)
        if zipped:
            with gzip.open(stream) as inner:
                yield cast(BinaryIO, inner)  # a GzipFile reads like any stream
        else:
            yield stream


def decode(piece: bytes, file: Path, offset: int) -> str:
    r"""Read bytes as text.

    Parameters
    ----------
    piece
        Whole characters.
    file, offset
        Where they stand, for messages.

    Raises
    ------
    GlassgateError
        When they are binary or not UTF-8; the byte is named.

    Examples
    --------
    >>> decode(b"ga\xffte", Path("a.txt"), 1000)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: a.txt: is not UTF-8: byte 0xff at byte 1,002 (invalid start byte)
    """
    if (at := piece.find(b"\0")) >= 0:
        raise GlassgateError(
            f"{file}: is a binary file: expected text, found a NUL byte at byte {offset + at:,}"
        )
    try:
        return piece.decode()
    except UnicodeDecodeError as error:
        raise GlassgateError(
            f"{file}: is not UTF-8: byte 0x{piece[error.start]:02x} at byte {offset + error.start:,} "
            f"({error.reason})"
        ) from error
