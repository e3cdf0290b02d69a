"""Texts as ranges of bytes: the parts that are held out, and the blocks that a process reads at once.

Ranges end where lines end, or at white space in a line that is too long: no word and no character is cut,
and where they end depends on the text alone, not on who reads them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import BinaryIO, NamedTuple

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.files import reporting_disk_errors
from glassgate.language.text import BYTE_ORDER_MARK, GZIP, LONGEST_PIECE, open_text, reading

__all__ = ["Block", "Source", "Span", "cut_blocks", "find_sources", "parts"]

BLOCK = 1 << 20  # bytes that are read at once: their words fill a cache, not a memory
REACH = 1 << 16  # bytes within which a line has to end if a block is to end with it
WINDOW = 1 << 12
COPIED = 1 << 20


class Source(NamedTuple):
    """A text: its name for messages, the plain file that holds it, where it begins and ends there."""

    name: Path
    path: Path
    start: int
    stop: int


class Span(NamedTuple):
    """A part of a text, from byte to byte."""

    source: Source
    start: int
    stop: int


class Block(NamedTuple):
    """What is read at once; whether it begins a line, and whether the text ends with it."""

    name: str
    path: str
    start: int
    stop: int
    begins: bool
    ends: bool


def find_sources(files: Sequence[Path], folder: Path, prefix: str) -> list[Source]:
    """Say where each text lies; one that is compressed is unpacked first, to be read from any place.

    Parameters
    ----------
    files
        Plain or gzip-compressed.
    folder, prefix
        Where unpacked texts go: ``<prefix>-<number>.text``.

    Raises
    ------
    GlassgateError
        When a file cannot be read, is damaged, or finds no room.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_text("the gate")
    >>> [source[2:] for source in find_sources([file], file.parent, "train")]
    [(0, 8)]
    """
    found = []
    for number, file in enumerate(files):
        with reading(file), file.open("rb") as stream:
            plain = stream.read(2) != GZIP
        path = file if plain else _unpack(file, folder / f"{prefix}-{number}.text")
        with reading(file), path.open("rb") as stream:
            start = 3 if stream.read(3) == BYTE_ORDER_MARK else 0
            found.append(Source(file, path, start, max(start, stream.seek(0, 2))))
    return found


def _unpack(file: Path, path: Path) -> Path:
    with reporting_disk_errors(path):
        target = path.open("wb")
    with target, reading(file), open_text(file) as stream:
        while data := stream.read(COPIED):
            with reporting_disk_errors(path):
                target.write(data)
        with reporting_disk_errors(path):
            target.flush()
    return path


def parts(sources: Sequence[Source], bounds: Sequence[float], eos: Eos) -> list[list[Span]]:
    r"""Cut texts, one behind the other, into parts by position.

    Parameters
    ----------
    sources
        The texts.
    bounds
        Where one part ends and the next begins, as rising fractions of all bytes. A part begins with the
        first line (or paragraph) that starts at its bound or after it; where none does within a
        twentieth of the text, after the first white space there.
    eos
        Whether paragraphs count instead of lines.

    Returns
    -------
    list of list of Span
        One more than there are bounds.

    Raises
    ------
    GlassgateError
        When a file cannot be read, or has no white space for a megabyte.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_text("one two\nthree\nfour\n" * 9)
    >>> [[span[1:] for span in part] for part in parts(find_sources([file], file.parent, ""), [0.5], "line")]
    [[(0, 90)], [(90, 171)]]
    """
    total = sum(source.stop - source.start for source in sources)
    cuts = [(0, 0)]
    for bound in bounds:
        position = ceil(bound * total)
        for number, source in enumerate(sources):
            size = source.stop - source.start
            if position < size:
                place = _part_begins(source, source.start + position, int(total / 20), eos)
                cuts.append(max(cuts[-1], (number, place)))
                break
            position -= size
        else:
            cuts.append((len(sources), 0))
    cuts.append((len(sources), 0))
    return [list(_between(sources, *cuts[n : n + 2])) for n in range(len(cuts) - 1)]


def _between(sources: Sequence[Source], first: tuple[int, int], last: tuple[int, int]) -> Iterator[Span]:
    for number, source in enumerate(sources):
        start = max(source.start, first[1]) if number == first[0] else source.start
        stop = last[1] if number == last[0] else source.stop
        if first[0] <= number <= last[0] and start < stop:
            yield Span(source, start, stop)


def cut_blocks(spans: Iterable[Span]) -> Iterator[Block]:
    r"""Cut parts of texts into blocks of about a megabyte, in order.

    Raises
    ------
    GlassgateError
        When a file cannot be read, or has no white space for a megabyte.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_text("one two\n" * 200_000)
    >>> [block[2:] for block in cut_blocks([Span(Source(file, file, 0, 1_600_000), 0, 1_600_000)])]
    [(0, 1048576, True, False), (1048576, 1600000, True, True)]
    """
    for source, start, stop in spans:
        with reading(source.name), source.path.open("rb") as file:
            while start < stop:
                end = min(start + BLOCK, stop)
                if end < stop:
                    end = _cut_after(file, source, end, stop, REACH)
                begins = start == source.start or _read(file, start - 1, 1) == b"\n"
                yield Block(str(source.name), str(source.path), start, end, begins, end == source.stop)
                start = end


def _part_begins(source: Source, place: int, reach: int, eos: Eos) -> int:
    with reading(source.name), source.path.open("rb") as file:
        if eos != "paragraph":
            return _cut_after(file, source, place, source.stop, reach)
        found = _paragraph_after(file, source, place, reach)
        return _cut_after(file, source, place, source.stop, 0) if found is None else found


def _cut_after(file: BinaryIO, source: Source, place: int, stop: int, reach: int) -> int:
    """Return where a line begins, from ``place`` on within reach; else what follows white space, or stop."""
    if place <= source.start:
        return source.start
    position, after_space = place - 1, None
    file.seek(position)
    while position < stop:
        data = file.read(min(WINDOW, stop - position))
        if not data:  # the file has become shorter
            break
        line = data.find(b"\n")
        if after_space is None and (
            space := re.search(rb"[ \t\n]", data[place - position :] if position < place else data)
        ):
            after_space = max(position, place) + space.end()
        if line >= 0 and (position + line + 1 - place < max(reach, 1) or after_space is None):
            return position + line + 1
        position += len(data)
        if after_space is not None and (line >= 0 or position - place >= reach):
            return after_space
        if after_space is None and position - place > LONGEST_PIECE:
            raise GlassgateError(f"{source.name}: is not text: a word of a megabyte at byte {place:,}")
    return stop if after_space is None or stop - place < reach else after_space


def _paragraph_after(file: BinaryIO, source: Source, place: int, reach: int) -> int | None:
    """Return where a paragraph begins, from ``place`` on within reach, or that none does."""
    before = max(source.start, place - WINDOW)  # the line before tells whether a paragraph may begin
    start = before + _read(file, before, max(0, place - 1 - before)).rfind(b"\n") + 1
    file.seek(start)
    blank = start == source.start
    while start - place <= reach:
        line = file.readline(REACH)
        if not line:
            return source.stop
        filled = bool(line.decode(errors="replace").strip())
        if filled and blank and start >= place:
            return start
        blank = not filled
        start += len(line)
    return None


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)
