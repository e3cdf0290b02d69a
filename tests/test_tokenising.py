"""Texts in blocks, by one process or several: what a reader of whole lines finds, whatever the cuts."""

import gzip
import random
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glassgate import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.cutting import Tokens
from glassgate.folder.vocabulary import Vocabulary
from glassgate.language import blocks as cutting
from glassgate.language import tokenising
from glassgate.language.blocks import cut_blocks, find_sources, parts
from glassgate.language.corpus import Corpus, TextOptions, encode_segments, prepare
from glassgate.language.text import read_segments

PIECES = [
    "gate",
    "Gate",
    "e\u0301t\u00e9",
    "o'clock,",
    "<unk>",
    "<eos>",
    "\u65e5\u672c",
    "x\x1cy",
    "don't--",
    ".",
]
BREAKS = [" ", " ", " ", "\t", "\u3000", "\n", "\n", "\r\n", "\n\n", "\n \t\n\n", "\n\xa0\n"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut and start processes as for a text a hundred thousand times as large."""
    monkeypatch.setattr(cutting, "BLOCK", 16)
    monkeypatch.setattr(cutting, "REACH", 64)
    monkeypatch.setattr(tokenising, "PER_PROCESS", 64)


def drawn_text(seed: int, words: int) -> str:
    """Return words of every kind with all that may part them, line ends and empty lines among it."""
    generator = random.Random(seed)
    return "".join(generator.choice(PIECES) + generator.choice(BREAKS) for _ in range(words))


def prepared(texts: list[Path], folder: Path, processes: int = 1, **options: Any) -> Corpus:
    folder.mkdir()
    valid = options.pop("valid", [])
    options = {"minimum_count": 1, **options}
    return prepare(texts, valid, [], TextOptions(**options), folder, lambda line: None, processes=processes)


def read_in_whole(files: list[Path], eos: Eos, vocabulary: Vocabulary) -> list[int]:
    return [int(n) for part in encode_segments(read_segments(files, eos), vocabulary) for n in part]


# Whatever the cuts


@pytest.mark.parametrize("tokens", get_args(Tokens))
@pytest.mark.parametrize("eos", get_args(Eos))
@pytest.mark.parametrize("lowercase", [False, True])
def test_blocks_hold_what_a_reader_of_lines_finds(
    tmp_path: Path, tokens: Tokens, eos: Eos, lowercase: bool
) -> None:
    files = [tmp_path / name for name in ("a", "b.gz", "c", "d")]
    texts = [drawn_text(seed, 400) for seed in range(3)] + ["\n\nlast\n "]
    for file, text in zip(files, texts, strict=True):
        mark = b"\xef\xbb\xbf" * (file.name == "c")
        file.write_bytes(gzip.compress(text.encode()) if file.suffix else mark + text.encode())
    corpus = prepared(files, tmp_path / "w", valid=files[3:], tokens=tokens, eos=eos, lowercase=lowercase)
    assert corpus.train.tolist() == read_in_whole(files, eos, corpus.vocabulary)
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["train.tokens", "valid.tokens"]
    # The vocabulary is that of the lines, and both are what the library makes of whole lines.
    lines = [segment.text for segment in read_segments(files, "line")]
    options: dict[str, Any] = {"tokens": tokens, "lowercase": lowercase, "eos": eos != "none"}
    assert corpus.vocabulary.words == Vocabulary.build(lines, **options).words
    library = corpus.vocabulary.tokenizer.encode_batch_fast(lines, add_special_tokens=False)
    assert corpus.vocabulary.encode(lines) == [encoding.ids for encoding in library]


@given(st.lists(st.sampled_from(BREAKS + PIECES + ["a" * 40])), st.sampled_from(get_args(Eos)))
@example(["<eos>", " "], "paragraph")
def test_blocks_of_any_text(tmp_path_factory: pytest.TempPathFactory, drawn: list[str], eos: Eos) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = folder / "a.txt"
    file.write_bytes(f"first {''.join(drawn)}".encode())
    corpus = prepared([file], folder / "w", valid=[file], tokens="spaces", eos=eos)
    assert corpus.train.tolist() == read_in_whole([file], eos, corpus.vocabulary)


@pytest.mark.parametrize("eos", get_args(Eos))
def test_a_line_that_is_too_long_is_cut_at_white_space(tmp_path: Path, eos: Eos) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n" + "two three " * 500 + "\n\nfour\n" + "five " * 300)
    (source,) = find_sources([file], tmp_path, "train")
    blocks = list(cut_blocks(parts([source], [], eos)[0]))
    content = file.read_bytes()
    assert b"".join(content[block.start : block.stop] for block in blocks) == content
    assert len(blocks) > 200
    assert all(content[block.stop - 1 : block.stop].isspace() for block in blocks)
    corpus = prepared([file], tmp_path / "w", valid=[file], eos=eos, tokens="spaces")
    assert corpus.train.tolist() == read_in_whole([file], eos, corpus.vocabulary)


# Whoever reads


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    files[0].write_text(drawn_text(7, 2_000))
    files[1].write_bytes(gzip.compress(drawn_text(8, 2_000).encode()))
    results = []
    for processes in (1, 3):
        folder = tmp_path / f"w{processes}"
        corpus = prepared(files, folder, processes, eos="paragraph", tokens="words")
        results.append((corpus.vocabulary.words, {p.name: p.read_bytes() for p in folder.iterdir()}))
    assert results[0] == results[1]
    assert set(results[0][1]) == {"train.tokens", "valid.tokens", "test.tokens"}


def test_the_first_error_is_told_by_any_number_of_processes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    text = drawn_text(9, 20_000).encode()
    place = len(text) // 2
    place -= text[:place][::-1].find(b"\n")
    file.write_bytes(text[:place] + b"ga\xffte" + text[place:] + b"\0")
    for processes in (1, 3):
        with pytest.raises(GlassgateError) as raised:
            prepared([file], tmp_path / f"w{processes}", processes, eos="line", tokens="spaces")
        assert (
            str(raised.value) == f"{file}: is not UTF-8: byte 0xff at byte {place + 2:,} (invalid start byte)"
        )
        assert list((tmp_path / f"w{processes}").iterdir()) == []


def test_a_process_that_is_gone_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("the gate\n" * 99)
    with tokenising.Tokeniser(
        "spaces", False, "line", size=891, most=2, progress=lambda size: None
    ) as tokeniser:
        processes = [w.process for w in tokeniser.workers if isinstance(w, tokenising._Process)]
        processes[1].kill()
        with pytest.raises(GlassgateError, match=r"^the text: a process that read it ended before its work"):
            tokeniser.count(cut_blocks(parts(find_sources([file], tmp_path, ""), [], "line")[0]))
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("the gate opens\n" * 999)
    said: list[tuple[float, str]] = []
    prepare(
        [file],
        [],
        [],
        TextOptions(),
        tmp_path,
        lambda line: None,
        processes=1,
        progress=lambda share, text: said.append((share, text)),
    )
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {text.split(",")[0] for _, text in said} == {"counting words", "numbering words"}


# How it is split


@given(
    st.lists(st.sampled_from(["one two three\n", "four\n", "\n", "five six\n\n"]), min_size=1),
    st.lists(st.floats(0.01, 0.99), max_size=3, unique=True).map(sorted),
    st.sampled_from(get_args(Eos)),
)
def test_parts_are_the_text_and_begin_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[str], bounds: list[float], eos: Eos
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    content = "".join(drawn).encode()
    middle = content.find(b"\n", len(content) // 2) + 1
    files = [folder / "a", folder / "b"]
    for file, part in zip(files, (content[:middle], content[middle:]), strict=True):
        file.write_bytes(part)
    found = parts(find_sources(files, folder, ""), bounds, eos)
    assert len(found) == len(bounds) + 1
    joined = [[s.source.path.read_bytes()[s.start : s.stop] for s in part] for part in found]
    assert b"".join(b"".join(part) for part in joined) == content
    position = 0
    for part, bound in zip(joined, [0.0, *bounds], strict=False):
        if part:
            assert position >= bound * len(content)
            before = content[:position]
            short = len(content) < 20 * 14  # then a bound may cut a line
            assert short or position == 0 or before.endswith(b"\n")
        position += len(b"".join(part))


def test_one_long_line_is_cut_at_its_bounds(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(" ".join(f"w{n:03}" for n in range(1000)) + "\n")  # 5 bytes each
    corpus = prepared([file], tmp_path / "w", tokens="spaces", eos="line")
    assert corpus.test is not None
    # The bound falls on a word's first letter; the word is finished. <eos> is the last token.
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == [901, 50, 50]


@pytest.mark.parametrize("blank", [b"\n", b" \t\n", "\xa0\n".encode()])
def test_a_part_begins_with_a_paragraph(tmp_path: Path, blank: bytes) -> None:
    file = tmp_path / "a.txt"
    paragraph = b"one two\nthree\n"
    file.write_bytes((paragraph + blank) * 100)
    size = len(paragraph + blank)
    for bound in (0.5 * size, 0.5 * size + 3, 42 * size, 42 * size + 1, 43 * size - 1):
        (first,), (second,) = parts(find_sources([file], tmp_path, ""), [bound / (100 * size)], "paragraph")
        assert first.stop == second.start
        assert second.start == -(-int(bound + 0.999) // size) * size


def test_short_lines_are_never_cut(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one two three\n" * 100)
    found = parts(find_sources([file], tmp_path, ""), [0.905, 0.95], "line")
    assert [[span[1:] for span in part] for part in found] == [
        [(0, 91 * 14)],
        [(91 * 14, 95 * 14)],
        [(95 * 14, 1400)],
    ]


def test_numbers_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of a server must not fill its memory."""
    monkeypatch.setattr("glassgate.folder.vocabulary.MOST_KEPT", 10)
    vocabulary = Vocabulary.build(["the gate"], tokens="words")
    for number in range(100):
        assert vocabulary.encode([f"the w{number} gate, {'x' * 99}"]) == [[3, 0, 2, 0, 0]]
        assert len(vocabulary._kept) <= 10 + 3
    assert not any(len(piece) > 64 for piece in vocabulary._kept)


def test_an_interruption_ends_all_processes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "a.txt.gz", tmp_path / "w"
    file.write_bytes(gzip.compress(drawn_text(10, 5_000).encode()))
    folder.mkdir()
    started = []
    start = tokenising.subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> Any:
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(tokenising.subprocess, "Popen", watched)

    def interrupt(share: float, text: str) -> None:
        if text.startswith("numbering") and share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([file], [], [], TextOptions(), folder, lambda line: None, processes=2, progress=interrupt)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    assert list(folder.iterdir()) == []
