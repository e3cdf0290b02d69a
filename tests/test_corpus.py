"""The corpus: tokens on disk are the text's words, in order, whatever its size."""

import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgate.errors import GlassgateError
from glassgate.folder.config import Eos
from glassgate.folder.vocabulary import EOS, UNK, Vocabulary
from glassgate.language import corpus as module
from glassgate.language.corpus import Corpus, TextOptions, encode_segments, open_tokens, prepare
from glassgate.language.text import Segment, detect_eos, find_files

LINES = [f"w{n % 7} w{n % 3} w{n % 11}" for n in range(400)]


def numbers(tokens: list[str], vocabulary: Vocabulary) -> list[int]:
    """Number words in plain Python."""
    table = {word: number for number, word in enumerate(vocabulary.words)}
    return [table[token] if token in table else table[UNK] for token in tokens]


def lines_to_tokens(lines: list[str], eos: bool = True) -> list[str]:
    return [token for line in lines for token in [*line.split(), *[EOS] * eos]]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(
    folder: Path, texts: list[Path], valid: list[Path], test: list[Path], options: TextOptions
) -> tuple[Corpus, list[str]]:
    said: list[str] = []
    return prepare(texts, valid, test, options, folder, said.append), said


# How it is split


def test_files_that_are_given(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "b.txt", LINES[200:])
    write(tmp_path / "train" / "a.txt", LINES[:200])
    valid = ["w1 never seen", "", "w2"]
    corpus, said = prepared(
        folder,
        [tmp_path / "train"],
        [write(tmp_path / "v.txt", valid)],
        [write(tmp_path / "t.txt", ["w3"])],
        TextOptions(),
    )
    counts = Counter(token for line in LINES for token in line.split())
    words = sorted(counts, key=lambda word: (-counts[word], word))
    assert corpus.vocabulary.words == [UNK, EOS, *words]
    assert list(corpus.train) == numbers(lines_to_tokens(LINES), corpus.vocabulary)
    assert list(corpus.valid) == numbers(lines_to_tokens(valid), corpus.vocabulary)
    assert corpus.test is not None
    assert list(corpus.test) == numbers(["w3", EOS], corpus.vocabulary)
    assert (corpus.split, corpus.eos) == ("the files given", "line")
    assert said == [
        "13 words in the vocabulary: what stands between spaces, met 2 times or more; <eos> ends a line",
        "1,600 tokens in the train part",
        "7 tokens in the valid part",
        "2 tokens in the test part",
    ]


@pytest.mark.parametrize(
    ("given_test", "lines", "split"),
    [
        (False, [360, 20, 20], "90 % trains, 5 % validates, 5 % tests"),
        (True, [360, 40, 1], "the last 10 % validates"),
    ],
)
def test_held_out_by_position(tmp_path: Path, given_test: bool, lines: list[int], split: str) -> None:
    same = ["aa bb cc"] * 400  # lines of one length: the bounds fall between them
    texts = [write(tmp_path / "1.txt", same[:150]), write(tmp_path / "2.txt", same[150:])]
    test = [write(tmp_path / "t.txt", ["aa"])] if given_test else []
    corpus, _ = prepared(tmp_path, texts, [], test, TextOptions())
    parts = [corpus.train, corpus.valid, corpus.test]
    assert [list(part).count(1) for part in parts if part is not None] == lines
    assert corpus.split == split


@pytest.mark.parametrize("eos", ["line", "paragraph", "none"])
def test_the_parts_together_are_the_text(tmp_path: Path, eos: Eos) -> None:
    lines = [line if n % 9 else "" for n, line in enumerate(LINES)]
    text = write(tmp_path / "a.txt", lines)
    corpus, _ = prepared(tmp_path, [text], [], [], TextOptions(eos=eos, minimum_count=1))
    assert corpus.test is not None
    joined = np.concatenate([corpus.train, corpus.valid, corpus.test])
    tokens = lines_to_tokens(lines)
    if eos == "paragraph":
        blocks = " ".join(line or EOS for line in lines).removeprefix(EOS)
        tokens = [*blocks.split(), EOS]
    if eos == "none":
        tokens = lines_to_tokens(lines, eos=False)
        assert EOS not in corpus.vocabulary.words
    assert list(joined) == numbers(tokens, corpus.vocabulary)


def test_words_of_the_held_out_parts_are_not_learned(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", ["old words here"] * 95 + ["new terms then"] * 5)
    corpus, _ = prepared(tmp_path, [text], [], [], TextOptions())
    assert set(corpus.vocabulary.words) == {UNK, EOS, "old", "words", "here"}
    assert corpus.test is not None
    assert set(corpus.test.tolist()) == {0, 1}


# Options


def test_the_minimum_count_follows_the_text(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.txt", ["a a b"] * 1 + ["a c a"] * 30)
    marked = write(tmp_path / "marked.txt", [f"a {UNK} b"] * 1 + ["a c a"] * 30)
    for text, options, known in [
        (plain, TextOptions(), False),
        (plain, TextOptions(minimum_count=1), True),
        (plain, TextOptions(closed=True), True),
        (marked, TextOptions(), True),
        (marked, TextOptions(minimum_count=2), False),
    ]:
        corpus, said = prepared(tmp_path, [text], [], [], options)
        assert ("b" in corpus.vocabulary.words) == known
        assert ("met 2 times or more" in said[0]) == (not known)
    assert (prepared(tmp_path, [plain], [], [], TextOptions(closed=True))[0]).vocabulary.unk is None


def test_wrong_options_are_refused() -> None:
    with pytest.raises(GlassgateError, match=r"^--minimum-count: must be at least 1, got 0$"):
        TextOptions(minimum_count=0)
    with pytest.raises(
        GlassgateError, match=r"^--closed-vocabulary: keeps every word, --minimum-count leaves"
    ):
        TextOptions(closed=True, minimum_count=2)


def test_running_text_in_lower_case(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", ["The gate, the Gate."] * 40)
    corpus, said = prepared(tmp_path, [text], [], [], TextOptions(lowercase=True))
    assert corpus.vocabulary.words == [UNK, EOS, "gate", "the", ",", "."]
    assert list(corpus.train[:8]) == [3, 2, 4, 3, 2, 5, 1, 3]
    assert said[0].startswith("6 words in the vocabulary: words and punctuation marks, met 2")


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["one long line "], "its training part"),
        (["a a"], "its valid part"),
        ([""] * 50, "its training part"),
    ],
)
def test_a_text_too_short_for_its_parts(tmp_path: Path, lines: list[str], part: str) -> None:
    with pytest.raises(GlassgateError, match=rf"^the text: holds? .*{part}|^the text: has no word in {part}"):
        prepared(tmp_path, [write(tmp_path / "a.txt", lines)], [], [], TextOptions(eos="none"))


def test_a_word_outside_a_closed_vocabulary_leaves_no_token_file(tmp_path: Path) -> None:
    text, valid = write(tmp_path / "a.txt", ["a b"] * 9), write(tmp_path / "v.txt", ["a b", "a c"])
    with pytest.raises(GlassgateError, match=r"^the text: the word 'c' is not in the closed vocabulary$"):
        prepared(tmp_path, [text], [valid], [], TextOptions(closed=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "train.tokens", "v.txt"]


def test_tokens_of_a_killed_attempt_are_not_taken_over(tmp_path: Path) -> None:
    text, other = write(tmp_path / "a.txt", LINES), write(tmp_path / "v.txt", LINES[:9])
    assert prepared(tmp_path, [text], [], [], TextOptions())[0].test is not None
    assert prepared(tmp_path, [text], [other], [], TextOptions())[0].test is None


# On disk


@pytest.mark.parametrize(("words", "size"), [((1 << 16) - 2, 2), ((1 << 16) - 1, 4)])
def test_two_bytes_a_token_as_long_as_they_suffice(tmp_path: Path, words: int, size: int) -> None:
    lines = [
        " ".join(f"{n:x}" for n in range(first, min(first + 100, words))) for first in range(0, words, 100)
    ]
    text = write(tmp_path / "a.txt", lines)
    corpus, _ = prepared(tmp_path, [text], [text], [], TextOptions(minimum_count=1))
    assert len(corpus.vocabulary) == words + 2
    assert corpus.train.dtype == np.dtype(f"<u{size}")
    assert isinstance(corpus.train, np.memmap)
    assert (tmp_path / "train.tokens").stat().st_size == size * (words + len(lines))
    assert int(corpus.train.max()) == words + 1  # the highest number has room
    assert list(corpus.train) == numbers(lines_to_tokens(lines), corpus.vocabulary)


def test_mapping_again_gives_the_same(tmp_path: Path) -> None:
    corpus, _ = prepared(tmp_path, [write(tmp_path / "a.txt", LINES)], [], [], TextOptions())
    again = open_tokens(corpus.vocabulary, corpus.eos, tmp_path, corpus.split)
    assert corpus.test is not None
    assert again.test is not None
    for one, other in zip(
        (corpus.train, corpus.valid, corpus.test), (again.train, again.valid, again.test), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="read-only"):
        again.train[0] = 1


def test_a_damaged_token_file_is_told(tmp_path: Path) -> None:
    corpus, _ = prepared(tmp_path, [write(tmp_path / "a.txt", LINES)], [], [], TextOptions())
    for content in (b"", b"\0" * 3):
        (tmp_path / "valid.tokens").write_bytes(content)
        with pytest.raises(GlassgateError, match=r"valid\.tokens: is no whole file of tokens: "):
            open_tokens(corpus.vocabulary, "line", tmp_path, "")
    (tmp_path / "valid.tokens").unlink()
    with pytest.raises(GlassgateError, match=r"valid\.tokens: is no whole file of tokens: No such file"):
        open_tokens(corpus.vocabulary, "line", tmp_path, "")


# Encoding


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(["a", "b", "é", UNK, EOS, "zzz"])), st.booleans())),
    st.integers(1, 40),
)
def test_encoding_is_plain_numbering(drawn: list[tuple[list[str], bool]], size: int) -> None:
    vocabulary = Vocabulary.build(["a b é"], tokens="spaces")
    segments = [Segment(" ".join(words), ends) for words, ends in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", size)  # where batches end changes nothing
        encoded = [int(n) for part in encode_segments(iter(segments), vocabulary) for n in part]
    tokens = [token for words, ends in drawn for token in [*words, *[EOS] * ends]]
    assert encoded == numbers(tokens, vocabulary)


def test_the_text_is_never_held_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 1 << 14)
    # A text without end: only what fits a batch may be asked for ahead of what is handed out.
    vocabulary = Vocabulary.build(["the gate"], tokens="spaces")
    asked = 0

    def endless() -> Iterator[Segment]:
        nonlocal asked
        while True:
            asked += 1
            yield Segment("the gate " * 20, True)

    parts = encode_segments(endless(), vocabulary)
    per_batch = -(-module.BATCH // 181)  # characters of a segment, its end included
    handed = 0
    for _ in range(3):
        handed += len(next(parts))
        assert asked <= handed // 41 + per_batch
    assert handed >= 3 * module.BATCH


# Real texts


def test_wikitext_2_has_the_published_counts(shared_data: Path, tmp_path: Path) -> None:
    wiki = shared_data / "wikitext-2"
    paths = [[wiki / f"{name}.txt.gz"] for name in ("train", "valid", "test")]
    corpus, said = prepared(tmp_path, *paths, TextOptions())
    assert corpus.test is not None
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (2_088_628, 217_646, 245_569)
    assert len(corpus.vocabulary) == 33_278
    assert corpus.eos == "line"
    assert said[0] == "33,278 words in the vocabulary: what stands between spaces; <eos> ends a line"
    # No word of the held-out parts is outside the vocabulary: each <unk> stands in the text itself.
    with gzip.open(paths[2][0], "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[:-1]
    tokens = lines_to_tokens(lines)
    assert tokens.count(UNK) == int((corpus.test == 0).sum())
    assert corpus.test.tolist() == numbers(tokens, corpus.vocabulary)


def test_austen_is_read_as_running_text(shared_data: Path, tmp_path: Path) -> None:
    files = find_files([shared_data / "austen"])
    assert detect_eos(files) == "paragraph"
    corpus, said = prepared(tmp_path, files[:1], files[1:2], [], TextOptions(lowercase=True))
    assert "words and punctuation marks" in said[0]
    assert "<eos> ends a paragraph" in said[0]
    assert {",", ".", "emma", "the", EOS, UNK} < set(corpus.vocabulary.words[:60])
