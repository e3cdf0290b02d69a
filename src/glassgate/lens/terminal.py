"""Gates on a terminal: a row for each word, a coloured cell for each unit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.style import Style
from rich.text import Text

from glassgate.errors import GlassgateError

__all__ = ["Block", "draw"]

HEIGHTS = "▁▂▃▄▅▆▇█"  # where there are no colours, the height of a bar tells the value
# Dark to light in even steps of lightness, so that a print in grey still orders the values.
SEQUENTIAL = ((24, 16, 56), (62, 40, 120), (44, 106, 140), (60, 168, 120), (190, 210, 70), (252, 244, 170))
# Blue for below zero, red for above, and the more the stronger.
DIVERGING = ((33, 82, 160), (120, 165, 215), (236, 236, 236), (230, 150, 120), (170, 30, 45))


@dataclass(frozen=True)
class Block:
    """Values to draw side by side with others: one row for each word, one cell for each unit.

    Attributes
    ----------
    name
        Of the gate or state.
    values
        [T, units].
    signed
        Whether values lie in (-1, 1), as candidate and states do, and not in (0, 1).
    """

    name: str
    values: npt.NDArray[np.floating]
    signed: bool = False


def draw(console: Console, words: Sequence[str], blocks: Sequence[Block]) -> None:
    """Print the words from top to bottom and beside each the units of every block.

    Parameters
    ----------
    console
        Where to print. On a terminal with colours a cell is a colour; elsewhere a bar's height.
    words
        The T words.
    blocks
        What to show beside them.

    Raises
    ------
    GlassgateError
        When a block has not one row for each word.

    Examples
    --------
    >>> gate = np.array([[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]])
    >>> draw(Console(width=40), ["the", "gate"], [Block("forget", gate)])
          forget
    the   ▁▅█
    gate  █▁▁
    """
    for block in blocks:
        if block.values.ndim != 2 or len(block.values) != len(words):
            raise GlassgateError(
                f"{block.name}: expected a row for each of {len(words)} words, got {list(block.values.shape)}"
            )
    margin = max(map(len, words)) + 2
    widths = [max(block.values.shape[1], len(block.name)) + 2 for block in blocks]
    heading = " " * margin + "".join(f"{b.name:<{w}}" for b, w in zip(blocks, widths, strict=True))
    console.print(Text(heading.rstrip(), style="bold"), soft_wrap=True)
    coloured = console.is_terminal and console.color_system is not None
    for row, word in enumerate(words):
        line = Text(f"{word:<{margin}}")
        gap = 0  # before the next block; none stands after the last, whose cells may be coloured spaces
        for block, width in zip(blocks, widths, strict=True):
            line.append(" " * gap)
            for value in block.values[row]:
                line.append_text(_cell(float(value), block.signed, coloured))
            gap = width - block.values.shape[1]
        console.print(line, soft_wrap=True)


def _cell(value: float, signed: bool, coloured: bool) -> Text:
    share = min(max((value + 1) / 2 if signed else value, 0.0), 1.0)
    if not coloured:
        return Text(HEIGHTS[min(int(share * len(HEIGHTS)), len(HEIGHTS) - 1)])
    stops = DIVERGING if signed else SEQUENTIAL
    place = share * (len(stops) - 1)
    lower = min(int(place), len(stops) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - lower)) for a, b in zip(stops[lower], stops[lower + 1], strict=True)
    )
    return Text(" ", Style(bgcolor=f"rgb({red},{green},{blue})"))
