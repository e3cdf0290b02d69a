"""Text files as segments: nothing is lost, and what is no text is named with its place."""

import gzip
import os
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.language import text as module
from glassgate.language.text import (
    Segment,
    detect_eos,
    detect_tokens,
    find_files,
    read_segments,
)

PIECE = module.LONGEST_PIECE
MARK = b"\xef\xbb\xbf"


def read(path: Path, content: bytes | str, eos: Eos = "line") -> list[tuple[str, bool]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(segment.text, segment.ends) for segment in read_segments([path], eos)]


def refusal(path: Path, content: bytes, eos: Eos = "line") -> str:
    with pytest.raises(GlassgateError) as raised:
        read(path, content, eos)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.txt"


# Lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("one two\nthree\n", ["one two", "three"]),
        ("one two\nthree", ["one two", "three"]),
        ("one two\r\nthree\r\n", ["one two", "three"]),
        ("one\r\n\r\ntwo", ["one", "", "two"]),
        ("\n\none\n\n", ["", "", "one", ""]),
        ("one\n \t\ntwo\n", ["one", " \t", "two"]),
        ("\n", [""]),
        ("  one  two  \n", ["  one  two  "]),
        ("one\x0btwo\x0cthree\x1cfour\x85five\u2028six\n", ["one\x0btwo\x0cthree\x1cfour\x85five\u2028six"]),
        ("naïve 日本 \U0001f600\n", ["naïve 日本 \U0001f600"]),
        ("", []),
    ],
)
def test_lines(path: Path, content: str, lines: list[str]) -> None:
    expected = [(line, True) for line in lines]
    assert read(path, content) == expected
    assert read(path, MARK + content.encode()) == expected
    assert read(path, gzip.compress(content.encode())) == expected
    assert read(path, gzip.compress(MARK + content.encode())) == expected
    assert read(path, content, "none") == [(line, False) for line in lines]


def test_a_byte_order_mark_counts_at_the_start_alone(path: Path) -> None:
    assert read(path, MARK + b"one\n" + MARK + b"two\n") == [("one", True), ("\ufefftwo", True)]


def test_files_follow_each_other_and_each_ends_its_line(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, content in zip(files, (b"one", b"two\n", gzip.compress(b"three\n\n")), strict=True):
        file.write_bytes(content)
    assert [s.text for s in read_segments(files, "line")] == ["one", "two", "three", ""]
    assert list(read_segments(files, "paragraph")) == [Segment(t, True) for t in ("one", "two", "three")]


@given(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])))
def test_any_line_comes_back(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    path = tmp_path_factory.mktemp("any") / "a"
    text = line.removeprefix("\ufeff")
    assert read(path, f"{line}\n") == [(text, True)]


# Lines longer than memory should hold


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "LONGEST_PIECE", 16)
    return 16


def words(segments: Iterable[tuple[str, bool]]) -> list[list[str]]:
    """Return the words of each line that the segments make up."""
    lines: list[list[str]] = [[]]
    for text, ends in segments:
        lines[-1] += text.split()
        if ends:
            lines.append([])
    assert not lines[-1], "the last line has no end"
    return lines[:-1]


def test_a_long_line_loses_nothing(path: Path) -> None:
    random.seed(1)
    line = " ".join(random.choice(["gate", "naïve", "日本", "o", "\t"]) for _ in range(500_000))
    pieces = read(path, f"before\n{line}\nafter")
    assert len(line.encode()) > 2 * PIECE
    assert words(pieces) == [["before"], line.split(), ["after"]]
    assert [ends for _, ends in pieces].count(True) == 3
    assert max(len(text.encode()) for text, _ in pieces) <= 2 * PIECE
    assert "".join(text for text, _ in pieces) == f"before{line}after"


def test_pieces_of_every_length(path: Path, small_pieces: int) -> None:
    # Wherever the piece's edge falls: in a word, on the space, on the line end, at the text's end.
    for first in range(1, small_pieces):
        for second in (1, 2, 7, small_pieces - 2):  # with a carriage return still shorter than a piece
            for end in ("", "\n", "\r\n", " ", " \n", "\nnext", "\n\nnext"):
                line = f"{'a' * first} {'b' * second}"
                expected = [
                    line.split(),
                    *([[]] if "\n\n" in end else []),
                    *([["next"]] if "next" in end else []),
                ]
                assert words(read(path, line + end)) == expected, (first, second, end)


@given(st.lists(st.lists(st.text("aé日", min_size=1, max_size=5), max_size=12), min_size=1), st.booleans())
def test_pieces_never_change_the_words(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], ended: bool
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "a"
    content = "\n".join(map(" ".join, lines)) + "\n" * ended
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONGEST_PIECE", 16)
        pieces = read(path, content)
        paragraphs = read(path, content, "paragraph")
    if not ended and not lines[-1]:
        lines = lines[:-1]  # what follows the last line end is no line where it is empty
    assert words(pieces) == lines
    blocks: list[list[str]] = [[]]
    for line in lines:
        blocks[-1] += line
        if not line and blocks[-1]:
            blocks.append([])
    assert words(paragraphs) == [block for block in blocks if block]


def test_a_word_of_a_megabyte_is_no_text(path: Path) -> None:
    message = refusal(path, b"one two\n" + b"x" * (2 * PIECE) + b"\n")
    assert message == "is not text: a word of a megabyte at byte 8"
    assert read(path, b"x" * (PIECE - 1)) == [("x" * (PIECE - 1), True)]


# Paragraphs


@pytest.mark.parametrize(
    ("content", "paragraphs"),
    [
        ("one\ntwo\n\nthree\n", ["one two", "three"]),
        ("\n\n\none\n\n\n\n  two  \n \t \nthree", ["one", "two", "three"]),
        ("one\r\ntwo\r\n\r\nthree\r\n\r\n", ["one two", "three"]),
        ("\n\n", []),
    ],
)
def test_paragraphs(path: Path, content: str, paragraphs: list[str]) -> None:
    assert read(path, content, "paragraph") == [(text, True) for text in paragraphs]


def test_a_long_paragraph_ends_once(path: Path, small_pieces: int) -> None:
    line = "a" * (small_pieces - 1)
    for count in range(1, 5):
        content = f"{line}\n" * count
        for rest in ("", "\n", "\n\nnext", "\n\n\n\nnext\n"):
            segments = read(path, content + rest, "paragraph")
            assert words(segments) == [[line] * count, *([["next"]] if "next" in rest else [])]


def test_a_megabyte_of_spaces_is_no_empty_line(path: Path) -> None:
    segments = read(path, b"one two" + b" " * (3 * PIECE) + b"three\n\nfour", "paragraph")
    assert words(segments) == [["one", "two", "three"], ["four"]]


# What is no text


@pytest.mark.parametrize(
    "before", [b"", b"line\n" * 1000, MARK, "é日\n".encode() * 99, b"word " * (PIECE // 3)]
)
@pytest.mark.parametrize(
    ("bad", "at", "reason"),
    [
        (b"\xff", 0, "byte 0xff at byte {}.*invalid start byte"),
        (b"ok \xe9t\xe9\n", 3, "byte 0xe9 at byte {}.*invalid continuation byte"),  # Latin-1
        (b"ok\n\xe6\x97\n", 3, "byte 0xe6 at byte {}.*"),  # a character cut short
        (b"\xed\xa0\x80", 0, "byte 0xed at byte {}.*"),  # half of a surrogate pair
        (b"\xc0\x80", 0, "byte 0xc0 at byte {}.*"),  # the long form of NUL
    ],
)
def test_what_is_not_utf8_is_named_with_its_byte(
    path: Path, before: bytes, bad: bytes, at: int, reason: str
) -> None:
    place = f"{len(before) + at:,}"
    pattern = "is not UTF-8: " + reason.format(place)
    assert re.fullmatch(pattern + r"\)?", refusal(path, before + bad))
    assert re.fullmatch(pattern + r"\)?", refusal(path, before + bad + b" and so on\n" * 9, "paragraph"))
    # In a compressed file the byte is that of the text.
    assert re.fullmatch(pattern + r"\)?", refusal(path, gzip.compress(before + bad, 1)))


@pytest.mark.parametrize("before", [b"", b"line\n" * 1000, b"word " * (PIECE // 3)])
def test_a_nul_is_named_with_its_byte(path: Path, before: bytes) -> None:
    message = refusal(path, before + b"\x89PNG\0\0")
    assert message == f"is a binary file: expected text, found a NUL byte at byte {len(before) + 4:,}"


def test_utf16_is_refused(path: Path) -> None:
    assert refusal(path, "gate".encode("utf-16-le")).startswith("is a binary file")
    assert "0xff at byte 0" in refusal(path, "é".encode("utf-16")[:3])


def test_damaged_gzip(path: Path) -> None:
    whole = gzip.compress(b"the gate opens and the gate shuts\n" * 3000)
    for cut in (2, 5, len(whole) // 2, len(whole) - 4):
        assert refusal(path, whole[:cut]).startswith("cannot be read: ")
    for place in range(2, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            list(read_segments([path], "line"))
        except GlassgateError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017  # some bytes of a header are free
    assert refusal(path, whole + b"not gzip").startswith("cannot be read: ")


def test_a_file_that_goes_away(path: Path) -> None:
    with pytest.raises(GlassgateError, match=r"a.txt: cannot be read: No such file or directory"):
        list(read_segments([path], "line"))
    path.mkdir()
    with pytest.raises(GlassgateError, match=r"a.txt: cannot be read: Is a directory"):
        list(read_segments([path], "line"))


def test_memory_stays_constant(path: Path) -> None:
    # The reader is asked for one line and must not have read the rest of 50 MB.
    path.write_bytes(b"x y\n" * 12_500_000)
    stream = read_segments([path], "line")
    assert next(stream).text == "x y"
    (position,) = (os.lseek(int(fd), 0, os.SEEK_CUR) for fd in _descriptors(path))
    assert position <= 1 << 20
    stream.close()  # type: ignore[attr-defined]
    assert not list(_descriptors(path))


def _descriptors(path: Path) -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        if entry.exists() and entry.resolve() == path:
            yield entry.name


# Which files


def test_folders_are_searched_and_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", "deep/er/c.txt", "deep/b.txt", "notes.md", "txt", "d.txt/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "empty.md").touch()
    names = ["a.txt.gz", "b.txt", "d.txt/e.txt", "deep/b.txt", "deep/er/c.txt"]
    found = [tmp_path / name for name in names]
    assert find_files([tmp_path]) == found
    named = tmp_path / "notes.md"
    assert find_files([named, tmp_path, named]) == [named, *found, named]
    assert find_files([]) == []


def test_what_cannot_be_found(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme.md").write_text("text")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name, rule in [
        ("missing", "no such file or folder"),
        ("loop", "no such file or folder"),
        ("gone", "no such file or folder"),
        ("empty.txt", "is empty: expected text"),
        ("folder", "holds no text: expected files named *.txt or *.txt.gz"),
        ("x" * 300, "cannot be read: File name too long"),
        ("empty.txt/a", "no such file or folder"),
    ]:
        with pytest.raises(GlassgateError) as raised:
            find_files([tmp_path / name])
        assert str(raised.value) == f"{tmp_path / name}: {rule}"
    with pytest.raises(GlassgateError, match=r"empty.txt: is empty"):
        find_files([tmp_path])


# What a text looks like


@pytest.mark.parametrize(
    ("content", "tokens", "eos"),
    [
        (" = Title = \n\n the gate , it is said , opens . \n", "spaces", "line"),
        ("The gate, it is said, opens.\n", "words", "line"),
        ("no marks at all\n", "spaces", "line"),
        ("one , two, three\n", "spaces", "line"),  # as many alone as attached
        ("one, two, three , four\n", "words", "line"),
        ("He waited... and waited .\n", "spaces", "line"),
        ((("word " * 14).strip() + ".\n") * 9 + "\n" + ("word " * 12 + "\n") * 3, "words", "paragraph"),
        ((("word " * 14).strip() + "\n") * 9, "spaces", "line"),  # no empty line
        ((("word " * 14).strip() + "\n") * 9 + "\n" + "word " * 21, "spaces", "line"),  # a long line
        (("a short line\n" * 9) + "\n" + ("word " * 12 + "\n") * 3, "spaces", "line"),
        ("\n\n\n", "spaces", "line"),
    ],
)
def test_detection(path: Path, content: str, tokens: str, eos: str) -> None:
    path.write_text(content)
    assert (detect_tokens([path]), detect_eos([path])) == (tokens, eos)


def test_detection_on_real_texts(shared_data: Path) -> None:
    novels, wiki = find_files([shared_data / "austen"]), find_files([shared_data / "wikitext-2"])
    assert [(detect_tokens([file]), detect_eos([file])) for file in novels] == [("words", "paragraph")] * 6
    assert [(detect_tokens([file]), detect_eos([file])) for file in wiki] == [("spaces", "line")] * 3
