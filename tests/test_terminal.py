"""Gates on a terminal: every value at its place, in its colour or height."""

import io

import numpy as np
import pytest
from rich.console import Console

from glassgate import GlassgateError
from glassgate.lens.blocks import DIVERGING, SEQUENTIAL, Block
from glassgate.lens.terminal import HEIGHTS, draw


def drawn(console_kind: str, *blocks: Block, words: list[str]) -> list[str]:
    out = io.StringIO()
    coloured = console_kind == "colour"
    console = Console(
        file=out, width=100, force_terminal=coloured, color_system="truecolor" if coloured else None
    )
    draw(console, words, blocks)
    return out.getvalue().splitlines()


def test_heights_tell_the_value_where_there_are_no_colours() -> None:
    values = np.array([[i / 8 + 0.01 for i in range(8)]])
    assert drawn("plain", Block("f", values), words=["w"])[1] == "w  " + HEIGHTS


def test_signed_values_have_zero_in_the_middle() -> None:
    values = np.array([[-1.0, -0.001, 0.001, 1.0]])
    line = drawn("plain", Block("g", values, signed=True), words=["w"])[1]
    assert line == "w  " + HEIGHTS[0] + HEIGHTS[3] + HEIGHTS[4] + HEIGHTS[7]


def test_values_out_of_range_are_drawn_as_the_nearest() -> None:
    """A cell state is not bounded by 1."""
    line = drawn("plain", Block("C", np.array([[-7.0, 7.0]]), signed=True), words=["w"])[1]
    assert line == "w  " + HEIGHTS[0] + HEIGHTS[-1]


@pytest.mark.parametrize(
    ("value", "signed", "colour"),
    [
        (0.0, False, SEQUENTIAL[0]),
        (1.0, False, SEQUENTIAL[-1]),
        (0.4, False, SEQUENTIAL[2]),
        (-1.0, True, DIVERGING[0]),
        (0.0, True, DIVERGING[2]),
        (1.0, True, DIVERGING[-1]),
    ],
)
def test_colours_at_their_stops(value: float, signed: bool, colour: tuple[int, int, int]) -> None:
    line = drawn("colour", Block("x", np.array([[value]]), signed=signed), words=["w"])[1]
    assert "48;2;{};{};{}m ".format(*colour) in line


def test_sequential_colours_rise_in_lightness() -> None:
    """A print in grey still orders the values (luma of Rec. 709)."""
    luma = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in SEQUENTIAL]
    assert luma == sorted(luma)


def test_blocks_stand_side_by_side_under_their_names() -> None:
    lines = drawn(
        "plain",
        Block("forget", np.zeros((2, 3))),
        Block("in", np.ones((2, 4))),
        words=["a", "gate"],
    )
    assert lines == ["      forget  in", "a     ▁▁▁     ████", "gate  ▁▁▁     ████"]


def test_a_block_of_another_length_is_refused() -> None:
    with pytest.raises(GlassgateError, match=r"^f: expected a row for each of 2 words, got \[3, 1\]$"):
        drawn("plain", Block("f", np.zeros((3, 1))), words=["a", "b"])
