"""Gates on a terminal: a row for each word, a coloured cell for each unit."""

from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from glassgate.errors import GlassgateError
from glassgate.lens.blocks import Block, colours

__all__ = ["draw"]

HEIGHTS = "▁▂▃▄▅▆▇█"  # where there are no colours, the height of a bar tells the value


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
    >>> import numpy as np
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
    if not coloured:
        share = min(max((value + 1) / 2 if signed else value, 0.0), 1.0)
        return Text(HEIGHTS[min(int(share * len(HEIGHTS)), len(HEIGHTS) - 1)])
    red, green, blue = colours(value, signed)
    return Text(" ", Style(bgcolor=f"rgb({red},{green},{blue})"))
