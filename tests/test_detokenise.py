"""Tokens as people write them, and what a long work shows."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from glassgate.folder.vocabulary import EOS, Vocabulary
from glassgate.language import progress
from glassgate.language.picture import draw_loss
from glassgate.language.progress import ProgressDisplay, clock
from glassgate.runtime.detokenise import Detokeniser


def write(tokens: list[str]) -> str:
    return "".join(map(Detokeniser(), tokens))


# Detokenising


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("the gate opens .", "the gate opens."),
        ("well , yes ; no : perhaps ! so ?", "well, yes; no: perhaps! so?"),
        ("( the gate ) [ see { it } ]", "(the gate) [see {it}]"),
        ("it cost $ 5 or £ 4 , 3.5 % more", "it cost $5 or £4, 3.5% more"),
        ("he said , \" open it \" and went .", 'he said, "open it" and went.'),
        ("a ' quoted ' word and \" ' nested ' \" ones", "a 'quoted' word and \"'nested'\" ones"),
        ("“ open ” and ‘ shut ’", "“open” and ‘shut’"),
        ("he did n't and she 's gone , they 'll see", "he didn't and she's gone, they'll see"),
        ("it ’s late", "it’s late"),
        ("guest @-@ starring in 1 @,@ 000 of 2 @.@ 5", "guest-starring in 1,000 of 2.5"),
        ("well -- almost ... done", "well--almost... done"),
        ("one <eos> two <eos> <eos> three", "one\ntwo\n\nthree"),
        ("\" open <eos> \" shut \"", '"open\n"shut"'),  # a quotation ends with its line
        (", first", ", first"),
        ("", ""),
    ],
)  # fmt: skip
def test_as_people_write(tokens: str, text: str) -> None:
    assert write(tokens.split()) == text


PROSE = [
    "Sir Walter Elliot, of Kellynch Hall, was a man who didn't open the still-born gate.",
    'She said, "open it (at once)!" and he did; the "gate" was shut...',
    "“I can’t,” he said: ‘never’?",
    "It opens--and shuts--at eight.",
]


@pytest.mark.parametrize("line", PROSE)
def test_cutting_and_writing_again_is_the_same_text(line: str) -> None:
    assert write(Vocabulary.build(["x"], tokens="words").cut(line)) == line


@given(st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4) | st.just(EOS)))
def test_nothing_but_space_is_added(tokens: list[str]) -> None:
    # Token by token: each is written whole, in order, after at most one space.
    detokeniser = Detokeniser()
    for token in tokens:
        piece = detokeniser(token)
        plain = {"@-@": "-", "@,@": ",", "@.@": ".", EOS: "\n"}.get(token, token)
        assert piece in (plain, f" {plain}")


@given(st.lists(st.sampled_from(["gate", ",", '"', "'", "(", "@-@", "--", EOS, "'s"])))
def test_each_line_begins_anew(tokens: list[str]) -> None:
    assert write([*tokens, EOS, *tokens]) == write([*tokens, EOS]) + write(tokens)


# Progress


def shown(terminal: bool) -> tuple[ProgressDisplay, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=terminal, color_system=None)
    return ProgressDisplay(console, "training"), out


def test_plain_lines_come_ten_seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    display, out = shown(terminal=False)
    with display:
        for tick in range(100):
            now = 100.0 + tick / 4
            display.update(tick / 100, f"at {now:g}")
    assert out.getvalue().splitlines() == [
        "training   0 %  at 100",
        "training  40 %  at 110",
        "training  80 %  at 120",
    ]


def test_a_terminal_has_a_bar_that_ends_at_the_whole() -> None:
    display, out = shown(terminal=True)
    with display:
        display.update(0.5, "perplexity 99.1")
        display.say("epoch 1")
        display.update(1.0, "perplexity 50.0")
    text = out.getvalue()
    assert "epoch 1" in text
    assert "100%" in text[text.rindex("training") :]
    assert "perplexity 50.0" in text[text.rindex("training") :]


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("line", ["a [bold]path[/bold].txt", "[/not] a tag", "long " * 50, ":gate: 12 %"])
def test_a_line_is_shown_as_it_is(terminal: bool, line: str) -> None:
    display, out = shown(terminal)
    with display:
        display.say(line)
        display.update(0.5, line)
    assert line.rstrip() in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (754, "12 min 34 s"),
        (3599.6, "1 h 00 min"),
        (3660, "1 h 01 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


# The picture


def pixels(picture: bytes) -> tuple[int, int, set[bytes]]:
    """Return width, height and the distinct rows of a PNG, as they are stored."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    at, data = 8, b""
    while at < len(picture):
        (size,) = struct.unpack(">I", picture[at : at + 4])
        if picture[at + 4 : at + 8] == b"IDAT":
            data += picture[at + 8 : at + 8 + size]
        at += 12 + size
    raw = zlib.decompress(data)
    stride = len(raw) // height
    return width, height, {raw[n * stride : (n + 1) * stride] for n in range(height)}


TRAINED = [{"step": s, "perplexity": 1000 / s, "learning_rate": 1e-3} for s in range(1, 50)]
CHECKED = [{"step": s, "valid_perplexity": 900 / s} for s in (20, 40)]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        TRAINED[:1],
        CHECKED,
        [*TRAINED, *CHECKED],
        [{"step": 1, "perplexity": 1e300, "learning_rate": 1e-3}],
        [{"step": 1, "perplexity": float("inf"), "learning_rate": 0.0}, {"step": 2, "valid_perplexity": 1.0}],
    ],
    ids=["none", "one", "validation", "whole", "huge", "infinite"],
)
def test_any_course_can_be_drawn(rows: list[dict[str, Any]]) -> None:
    width, height, distinct = pixels(draw_loss(rows, "LSTM 1 x 20, 900 tokens"))
    assert (width, height) == (8 * 144, 648)
    assert len(distinct) > 10


def test_the_picture_shows_what_was_measured_and_is_the_same_each_time() -> None:
    whole = draw_loss([*TRAINED, *CHECKED], "a training")
    assert whole == draw_loss([*TRAINED, *CHECKED], "a training")
    for other in (draw_loss(TRAINED, "a training"), draw_loss([*TRAINED[:25], *CHECKED], "a training")):
        assert pixels(other)[2] != pixels(whole)[2]
