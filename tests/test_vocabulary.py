"""The vocabulary: which words, in which order, and that it comes back from disk as it was."""

import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgate.errors import GlassgateError
from glassgate.folder import vocabulary as module
from glassgate.folder.vocabulary import EOS, UNK, Tokens, Vocabulary

PROSE = (
    "“It is a truth universally acknowledged—that a still-born ‘hope’ doesn’t die,” said Mr. Bennet; "
    "but she didn't... \"well--almost\": _never_ (in 1,000 years!) … 3.5 % of the o'clock-mothers-in-law?"
)
# White space as Unicode has it (the property White_Space). Python's own split takes four control
# characters, U+001C to U+001F, for white space as well.
WHITE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SPACED = st.lists(st.sampled_from(["gate", "Gate", "e\u0301", "é", UNK, EOS, "a" + UNK, "x", "\u3000", "\n"]))


def split(text: str, lowercase: bool = False) -> list[str]:
    """Cut a text at white space in plain Python."""
    text = unicodedata.normalize("NFC", text)
    return [word for word in WHITE.split(text.lower() if lowercase else text) if word]


def build(*texts: str, tokens: Tokens = "spaces", **options: Any) -> Vocabulary:
    return Vocabulary.build(texts, tokens=tokens, **options)


# Which words


def test_the_more_frequent_come_first_then_the_spelling_counts() -> None:
    vocabulary = build("b b b c c a a é Z z", "c ä b")
    assert vocabulary.words == [UNK, EOS, "b", "c", "a", "Z", "z", "ä", "é"]
    assert (vocabulary.unk, vocabulary.eos, len(vocabulary)) == (0, 1, 9)


def test_it_is_what_plain_python_counts() -> None:
    random.seed(1)
    lines = [" ".join(f"w{int(random.expovariate(0.02))}" for _ in range(50)) for _ in range(400)]
    counts = Counter(word for line in lines for word in line.split())
    for minimum in (1, 2, 5):
        kept = sorted((w for w in counts if counts[w] >= minimum), key=lambda word: (-counts[word], word))
        assert build(*lines, minimum_count=minimum).words == [UNK, EOS, *kept]


def test_the_same_text_gives_the_same_vocabulary_however_it_comes() -> None:
    words = [f"w{n % 97}" for n in range(5000)]  # many ties
    whole = build(" ".join(words))
    random.seed(2)
    random.shuffle(words)
    assert build(*words).tokenizer.to_str() == whole.tokenizer.to_str()


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_special_words(closed: bool, eos: bool) -> None:
    special = [UNK] * (not closed) + [EOS] * eos
    vocabulary = build("b a b", closed=closed, eos=eos)
    assert vocabulary.words == [*special, "b", "a"]
    assert vocabulary.unk == (None if closed else 0)
    assert vocabulary.eos == (special.index(EOS) if eos else None)


def test_special_words_in_the_text_itself() -> None:
    text = f"the {UNK} gate {EOS} {UNK} opens"
    vocabulary = build(text)
    assert vocabulary.words == [UNK, EOS, "gate", "opens", "the"]
    assert vocabulary.encode([text]) == [[4, 0, 2, 1, 0, 3]]
    # Where the text spells it out, it is a word like any other.
    assert build(text, eos=False).words == [UNK, EOS, "gate", "opens", "the"]
    assert build(text, closed=True).words == [EOS, UNK, "gate", "opens", "the"]
    # With capitals it is another word, unless case is dropped.
    assert build("<UNK> a").encode(["<UNK>"]) == [[2]]
    assert build("<UNK> a", lowercase=True).encode(["<UNK> <Unk> A"]) == [[0, 0, 2]]


def test_a_special_word_inside_another_is_no_special_word() -> None:
    text = f"a{UNK} {UNK}{UNK} ({EOS}"
    vocabulary = build(text)
    assert vocabulary.words[2:] == sorted(text.split())
    assert vocabulary.encode([text]) == [[vocabulary.words.index(word) for word in text.split()]]
    # In running text it is one wherever it stands, as a mark is.
    assert build("x", tokens="words").cut(f"a{UNK},{EOS}b") == ["a", UNK, ",", EOS, "b"]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "the text: holds no word in its training part: expected a longer text"),
        ([" \n", ""], {}, "the text: holds no word in its training part: expected a longer text"),
        ([f"{UNK} {EOS}"], {}, "the text: holds no word in its training part: expected a longer text"),
        (
            ["a b c"],
            {"minimum_count": 2},
            "the text: holds no word that occurs 2 times or more in its training part: "
            "expected a longer text",
        ),
    ],
)
def test_no_word_is_an_error(texts: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(GlassgateError) as raised:
        build(*texts, **options)
    assert str(raised.value) == message


def test_a_closed_vocabulary_refuses_an_unknown_word() -> None:
    vocabulary = build("the gate opens", closed=True)
    assert vocabulary.encode(["gate the", "opens"]) == [[1, 3], [2]]
    with pytest.raises(GlassgateError, match=r"^the text: the word 'door' is not in the closed vocabulary$"):
        vocabulary.encode(["the gate", "the door opens"])


# How a text is cut


def test_english_prose() -> None:
    def cut(text: str) -> str:
        return " ".join(vocabulary.cut(text))

    vocabulary = build("x", tokens="words")
    assert cut(PROSE) == (
        "“ It is a truth universally acknowledged — that a still-born ‘ hope ’ doesn’t die , ” said Mr . "
        'Bennet ; but she didn\'t ... " well -- almost " : _ never _ ( in 1 , 000 years ! ) … 3 . 5 % of the '
        "o'clock-mothers-in-law ?"
    )
    assert (
        cut("'tis the boys' dogs'-- rock 'n' roll ....") == "' tis the boys ' dogs ' -- rock ' n ' roll ...."
    )
    assert cut("naïve cafés, Ελλάδα и 日本語 a_b") == "naïve cafés , Ελλάδα и 日本語 a _ b"
    assert cut("x²") == "x ²"  # no letter and no decimal digit


@given(TEXT)
def test_cutting_running_text_loses_white_space_alone(text: str) -> None:
    vocabulary = build("x", tokens="words")
    kept = "".join(vocabulary.cut(text))
    assert kept == "".join(split(text))
    assert vocabulary.cut(" ".join(vocabulary.cut(text))) == vocabulary.cut(text)


@given(TEXT)
def test_cutting_at_spaces_is_plain_splitting(text: str) -> None:
    assert build("x").cut(text) == split(text)


def test_composed_and_decomposed_letters_are_one() -> None:
    vocabulary = build("e\u0301te\u0301 \u00e9t\u00e9", lowercase=False)
    assert vocabulary.words[2:] == ["\u00e9t\u00e9"]
    assert vocabulary.encode(["\u00e9te\u0301"]) == [[2]]
    assert vocabulary.normalise("e\u0301") == "\u00e9"


def test_case() -> None:
    dropped, kept = build("The the THE gate", lowercase=True), build("The the THE gate")
    assert (dropped.lowercase, kept.lowercase) == (True, False)
    assert dropped.words[2:] == ["the", "gate"]
    assert dropped.encode(["tHe GATE"]) == [[2, 3]]
    assert kept.words[2:] == ["THE", "The", "gate", "the"]
    assert kept.encode(["tHe GATE"]) == [[0, 0]]


@given(
    st.lists(SPACED.map(" ".join) | TEXT, min_size=1), st.lists(SPACED.map(" ".join) | TEXT), st.booleans()
)
def test_encoding_is_looking_up(built: list[str], encoded: list[str], lowercase: bool) -> None:
    vocabulary = build("x", *built, lowercase=lowercase)
    numbers = {word: number for number, word in enumerate(vocabulary.words)}
    expected = [[numbers.get(word, 0) for word in vocabulary.cut(text)] for text in encoded]
    assert vocabulary.encode(encoded) == expected
    if not lowercase:  # where it is the library that knows the lower case of every script
        assert expected == [[numbers.get(word, 0) for word in split(text)] for text in encoded]
        assert all(word in numbers for text in built for word in split(text))


@given(st.lists(TEXT), st.lists(TEXT), st.booleans())
def test_encoding_running_text_is_looking_up(built: list[str], encoded: list[str], lowercase: bool) -> None:
    vocabulary = build("x", *built, tokens="words", lowercase=lowercase)
    numbers = {word: number for number, word in enumerate(vocabulary.words)}
    expected = [[numbers.get(word, 0) for word in vocabulary.cut(text)] for text in encoded]
    assert vocabulary.encode(encoded) == expected


def test_what_no_file_can_hold_is_refused() -> None:
    # A command line in another encoding reaches Python with lone surrogates.
    for vocabulary in (build("a"), build("a", closed=True), build("a", tokens="words")):
        for ask in (vocabulary.cut, vocabulary.normalise, lambda text, v=vocabulary: v.encode(["a", text])):
            with pytest.raises(GlassgateError, match=r"^the text: is not UTF-8 at character 3$"):
                ask("caf\udce9")


# On disk


@pytest.mark.parametrize("tokens", ["spaces", "words"])
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_it_comes_back_as_it_was(
    tmp_path: Path, tokens: Tokens, lowercase: bool, closed: bool, eos: bool
) -> None:
    first = build(PROSE, f'"\\ \x1b \u202e {UNK}', tokens=tokens, lowercase=lowercase, closed=closed, eos=eos)
    first.save(tmp_path / "tokenizer.json")
    second = Vocabulary.load(tmp_path / "tokenizer.json")
    second.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert second.words == first.words
    assert (second.unk, second.eos, second.lowercase) == (first.unk, first.eos, lowercase)
    assert second.cut(PROSE) == first.cut(PROSE)
    assert second.encode([PROSE, "It"]) == first.encode([PROSE, "It"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    build("the gate opens").save(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def refusal(path: Path) -> str:
    with pytest.raises(GlassgateError) as raised:
        Vocabulary.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


FOREIGN = "is a tokenizer of another program: its steps are not those of glassgate"
GAP = "the words are not numbered from 0 without a gap"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": None}, FOREIGN),
        ({"normalizer": {"type": "Lowercase"}}, FOREIGN),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}, FOREIGN),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, FOREIGN),  # it panics
        ({"pre_tokenizer": None}, FOREIGN),
        ({"pre_tokenizer": {"type": "Whitespace"}}, FOREIGN),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "(a+)+$"},
                    "behavior": "Removed",
                    "invert": True,
                }
            },
            FOREIGN,
        ),
        (
            {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
            FOREIGN,
        ),
        ({"padding": {"strategy": {"Fixed": 9}}}, FOREIGN),
        ({"post_processor": {"type": "ByteLevel"}}, FOREIGN),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, FOREIGN),
        ({"version": "2.0"}, FOREIGN),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "is not a word-level tokenizer"),
        ({"model": {}}, "is not a word-level tokenizer"),
        ({"model": None}, "is not a word-level tokenizer"),
        ({"model": []}, "is not a word-level tokenizer"),
        ({"vocab": {"a": 0, "b": 2}}, GAP),
        ({"vocab": {"a": 0, "b": 0}}, GAP),
        ({"vocab": {"a": 1, "b": 2}}, GAP),
        ({"vocab": {"a": 0, "b": -1}}, GAP),
        ({"vocab": {"a": 0, "b": 1.0}}, GAP),
        ({"vocab": {"a": 0, "b": True}}, GAP),
        ({"vocab": {"a": 0, "b": "1"}}, GAP),
        ({"vocab": {"a": 0, "b": 10**30}}, GAP),
        ({"vocab": ["a", "b"]}, f"is damaged: expected a table of words and {UNK} for all others"),
        ({"vocab": None}, f"is damaged: expected a table of words and {UNK} for all others"),
        ({"unk_token": "[UNK]"}, f"is damaged: expected a table of words and {UNK} for all others"),
        ({"vocab": {"\ud800": 0}}, "'utf-8' codec can't encode character '\\ud800' in position 0"),
    ],
)
def test_a_foreign_tokenizer_is_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    table = json.loads(path.read_text())
    for key, value in changes.items():
        (table if key in table else table["model"])[key] = value
    path.write_text(json.dumps(table))
    assert refusal(path).startswith(message)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"\x80\x04]\x94.", b"[" * 100_000, b'{"a":' * 9999],
)
def test_a_damaged_tokenizer_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert re.match("is damaged or no tokenizer: |is not a word-level tokenizer", refusal(path))


def test_every_cut_and_every_flip_is_refused_or_whole(path: Path) -> None:
    content = path.read_bytes()
    for size in range(0, len(content) - 2, 5):
        path.write_bytes(content[:size])
        refusal(path)
    for place in range(0, len(content), 3):
        for bit in (0, 5, 7):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                loaded = Vocabulary.load(path)
            except GlassgateError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017  # either way is right
            else:
                assert len(loaded) == 5, "a letter of a word may change, and what is no part of the words"


def test_a_tokenizer_that_marks_its_special_words_is_the_same(path: Path) -> None:
    first = Vocabulary.load(path)
    first.tokenizer.add_special_tokens([UNK, EOS])
    first.save(path)
    second = Vocabulary.load(path)
    assert second.words == first.words
    assert second.encode([f"a{UNK} {UNK} gate"]) == [[0, 0, 2]]


def test_too_large_a_tokenizer_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_FILE", path.stat().st_size)
    Vocabulary.load(path)
    largest = f"{path.stat().st_size:,}"
    with path.open("ab") as file:
        file.write(b" ")
    assert refusal(path).startswith(f"is too large for a tokenizer: expected at most {largest} bytes, got ")
    with path.open("ab") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    message = f"is too large for a tokenizer: expected at most {largest} bytes, got 1,099,511,627,776"
    assert refusal(path) == message


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing") == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "cannot be read: Is a directory"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(tmp_path / "loop") == "cannot be read: Too many levels of symbolic links"


def test_a_vocabulary_of_unk_alone_is_refused(path: Path) -> None:
    """It could say nothing: <unk> is never shown. <eos> alone is a word that may come."""
    table = json.loads(path.read_text())
    table["model"]["vocab"] = {UNK: 0}
    path.write_text(json.dumps(table))
    assert refusal(path) == f"knows no word: expected one at least beside {UNK}, which is never shown"
    table["model"]["vocab"] = {UNK: 0, EOS: 1}
    path.write_text(json.dumps(table))
    assert Vocabulary.load(path).words == [UNK, EOS]
