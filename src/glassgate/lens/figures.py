"""Standard figures of what was recorded and measured. Each takes arrays and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.lens.blocks import Block, colours
from glassgate.lens.canvas import INK, colormap, escape, new_figure, word_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cell_colouring", "forget_experiment", "gates_over_words", "memory_lengths", "saturation_scatter"]

LINE = 80  # characters in a line of a coloured text
LONGEST = 3_000  # words that one picture holds


def gates_over_words(words: Sequence[str], blocks: Sequence[Block], title: str = "") -> "Figure":
    """Draw gates and states as heat maps: a column for each word, a row for each unit.

    Parameters
    ----------
    words
        The T words.
    blocks
        One heat map for each, from `glassgate.lens.blocks.blocks`.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        The heat maps stand one below the other, with the words under the last.

    Raises
    ------
    GlassgateError
        A block has not one row for each word, or there is none.

    Examples
    --------
    >>> figure = gates_over_words(["a", "gate"], [Block("forget", np.array([[0.1, 0.9], [0.5, 0.5]]))])
    >>> figure.axes[0].images[0].get_array()[:, 0].tolist()  # the first word: the units from top to bottom
    [0.1, 0.9]
    """
    _check(words, blocks)
    widest = max(block.values.shape[1] for block in blocks)
    height = min(max(0.9, 0.09 * widest), 4.0)
    width = max(3.5, 0.19 * len(words) + 1.4)
    longest = max(map(len, words))
    figure = new_figure(width, (height + 0.12) * len(blocks) + 0.07 * longest + 0.5)
    panels = figure.subplots(len(blocks), 1, sharex=True, squeeze=False)[:, 0]
    for axes, block in zip(panels, blocks, strict=True):
        low = -1.0 if block.signed else 0.0
        image = axes.imshow(
            block.values.T,
            aspect="auto",
            interpolation="nearest",
            cmap=colormap(block.signed),
            vmin=low,
            vmax=1.0,
        )
        axes.set_ylabel(f"{block.name}\nunit", fontsize=8)
        ticks = _few(block.values.shape[1])
        axes.set_yticks(ticks, [str(tick if block.units is None else block.units[tick]) for tick in ticks])
        axes.tick_params(labelsize=6, length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03, ticks=[low, (low + 1) / 2, 1])
        bar.ax.tick_params(labelsize=6, length=0)
        bar.outline.set_visible(False)
    word_axis(panels[-1], words)
    if title:
        figure.suptitle(escape(title), fontsize=10)
    return figure


def cell_colouring(
    words: Sequence[str], values: npt.ArrayLike, title: str = "", signed: bool = True
) -> "Figure":
    """Print a text with each word on the colour of one unit's value there, after Karpathy et al. 2015.

    Parameters
    ----------
    words
        The T words; ``<eos>`` ends a line.
    values : array [T]
        In (-1, 1), as tanh of a cell state, or in (0, 1).
    title
        Above the text.
    signed
        Whether values may be below zero.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GlassgateError
        There is not one value for each word, or there are more than 3,000 words.

    References
    ----------
    Karpathy, Johnson and Fei-Fei, Visualizing and understanding recurrent networks, 2015.

    Examples
    --------
    >>> figure = cell_colouring(["a", "gate"], [0.0, 1.0])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['a', 'gate']
    """
    values = np.asarray(values, np.float64)
    if values.shape != (len(words),) or not 0 < len(words) <= LONGEST:
        raise GlassgateError(
            f"cell_colouring: one value for each of 1 to {LONGEST} words expected, got {len(words)} words "
            f"and values of shape {list(values.shape)}"
        )
    places, row, column = [], 0, 0
    for word in words:
        if column and column + len(word) > LINE:
            row, column = row + 1, 0
        places.append((row, column))
        column += len(word) + 1
        if word == "<eos>":
            row, column = row + 1, 0
    rows = places[-1][0] + 1
    figure = new_figure(7.2, 0.2 * rows + (0.8 if title else 0.55))
    axes = figure.add_subplot()
    from matplotlib.patches import Rectangle

    for word, value, (line, start), colour in zip(
        words, values, places, colours(values, signed), strict=True
    ):
        shade = tuple(colour / 255)
        # As wide as the word and the space after it, so that a phrase is one band.
        axes.add_patch(Rectangle((start - 0.5, line - 0.5), len(word) + 1, 1, color=shade, linewidth=0))
        ink = "black" if np.dot(colour, (0.2126, 0.7152, 0.0722)) > 110 else "white"
        axes.text(
            start + len(word) / 2,
            line,
            escape(word),
            family="monospace",
            fontsize=8,
            color=ink,
            ha="center",
            va="center",
            gid=f"{value:.6g}",
        )
    axes.set_xlim(-0.5, LINE + 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.axis("off")
    from matplotlib.cm import ScalarMappable

    scale = ScalarMappable(cmap=colormap(signed))
    scale.set_clim(-1 if signed else 0, 1)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", pad=0.02, aspect=60, fraction=0.05)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(escape(title), fontsize=10)
    return figure


def saturation_scatter(
    saturation: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], title: str = ""
) -> "Figure":
    """Draw how often each unit's gates are shut and open: a point for each unit.

    Parameters
    ----------
    saturation
        For each gate the shares of steps at which each unit is below 0.1 and above 0.9, each [H]: as
        `glassgate.lens.measure.LayerMeasures.saturation`.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each gate; a point on the diagonal is saturated at every step.

    References
    ----------
    Karpathy, Johnson and Fei-Fei, 2015, figure 3.

    Examples
    --------
    >>> figure = saturation_scatter({"forget": ([0.0, 0.5], [0.9, 0.1])})
    >>> figure.axes[0].collections[0].get_offsets().tolist()  # right-saturated, left-saturated
    [[0.9, 0.0], [0.1, 0.5]]
    """
    figure = new_figure(2.5 * len(saturation) + 0.3, 2.9)
    panels = figure.subplots(1, len(saturation), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (gate, (low, high)), ink in zip(panels, saturation.items(), INK, strict=False):
        axes.plot([0, 1], [1, 0], color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.scatter(high, low, s=14, color=ink, alpha=0.6, linewidths=0, clip_on=False)
        axes.set_title(f"{gate} gate", fontsize=10)
        axes.set_aspect("equal")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _plain(axes)
    panels[0].set_ylabel("share of steps below 0.1", fontsize=8)
    figure.supxlabel("share of steps above 0.9", fontsize=8)
    if title:
        figure.suptitle(escape(title), fontsize=10)
    return figure


def memory_lengths(lengths: Mapping[str, npt.ArrayLike], title: str = "") -> "Figure":
    """Draw how many steps the units remember: a histogram over units with a logarithmic axis.

    Parameters
    ----------
    lengths
        For each layer the units' memory in steps [H]: as `glassgate.lens.measure.LayerMeasures.memory`.
        Those above 10,000, infinite ones too, stand in the last bar.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = memory_lengths({"l0": [1.0, 1.2, 30.0]})
    >>> sum(int(bar.get_height()) for bar in figure.axes[0].patches)
    3
    """
    edges = np.logspace(-1, 4, 26)
    figure = new_figure(5.0, 1.7 * len(lengths) + 0.7)
    panels = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (layer, steps), ink in zip(panels, lengths.items(), INK * len(lengths), strict=False):
        values = np.clip(np.asarray(steps, np.float64), edges[0], edges[-1])
        axes.hist(values, edges, color=ink, edgecolor="white", linewidth=0.5)
        middle = float(np.median(values))
        axes.axvline(middle, color="black", linewidth=0.8, linestyle="--")
        axes.set_title(f"{layer}: median {middle:.3g}", fontsize=8, loc="right")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(f"units of {layer}", fontsize=8)
        _plain(axes)
    panels[-1].set_xscale("log")
    _plain_numbers(panels[-1])
    panels[-1].set_xlim(edges[0], edges[-1])
    panels[-1].set_xlabel("memory: steps until 1/e of the cell is left", fontsize=8)
    if title:
        figure.suptitle(escape(title), fontsize=10)
    return figure


def forget_experiment(perplexities: Mapping[str, float], title: str = "") -> "Figure":
    """Draw what edits of a gate do to perplexity: a bar for each edit.

    Parameters
    ----------
    perplexities
        By the name of each edit; the first, without an edit, is what the others are held against.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GlassgateError
        A perplexity is no finite number of at least 1.

    Examples
    --------
    >>> figure = forget_experiment({"as trained": 20.0, "forget = 1/2": 60.0})
    >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
    [20.0, 60.0]
    """
    wrong = [value for value in perplexities.values() if not (np.isfinite(value) and value >= 1)]
    if wrong or not perplexities:
        raise GlassgateError(f"forget_experiment: perplexities of at least 1 expected, got {wrong or 'none'}")
    names, values = list(perplexities), list(perplexities.values())
    figure = new_figure(5.5, 0.34 * len(names) + 0.9)
    axes = figure.add_subplot()
    shades = [INK[5], *[INK[0]] * (len(names) - 1)]
    bars = axes.barh([escape(name) for name in names], values, color=shades, height=0.7)
    factors = [
        f" {v:,.1f}" + (f"  ({v / values[0]:.2f} x)" if place else "") for place, v in enumerate(values)
    ]
    axes.bar_label(bars, factors, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain_numbers(axes)
    axes.set_xlim(1, max(values) ** 1.35 * 1.5)
    axes.axvline(values[0], color=INK[5], linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlabel("perplexity", fontsize=8)
    _plain(axes)
    axes.tick_params(axis="y", labelsize=9, length=0)
    if title:
        axes.set_title(escape(title), fontsize=10, loc="left")
    return figure


def _check(words: Sequence[str], blocks: Sequence[Block]) -> None:
    if not words or not blocks:
        raise GlassgateError(
            f"gates_over_words: words and blocks expected, got {len(words)} and {len(blocks)}"
        )
    for block in blocks:
        if block.values.ndim != 2 or len(block.values) != len(words):
            raise GlassgateError(
                f"{block.name}: expected a row for each of {len(words)} words, got {list(block.values.shape)}"
            )


def _few(count: int) -> list[int]:
    """Return the first and the last unit and some round ones between."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, count) if count <= 10 * s or s >= count)
    return list(range(0, count, step))


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)


def _plain_numbers(axes: Any) -> None:
    """Write 100, not 10 to the power of 2, on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
