"""Standard figures of a model: its training, words and predictions, and what they rest on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.lens.canvas import INK, colormap, escape, new_figure, word_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glassgate.runtime import Model, Traced

__all__ = [
    "attribution_bars",
    "embedding_neighbours",
    "neighbours",
    "patching_map",
    "prediction_table",
    "training_curve",
]


PAGE = 7.5  # inches of text across, after which a table goes on below


def attribution_bars(words: Sequence[str], scores: npt.ArrayLike, title: str = "") -> "Figure":
    """Draw what each word of a text did for a prediction: a bar to the right speaks for it.

    Parameters
    ----------
    words
        The T words.
    scores : array [T]
        As the functions of `glassgate.lens.attribute` and `glassgate.lens.contextual` give them.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GlassgateError
        There is not one score for each word.

    Examples
    --------
    >>> figure = attribution_bars(["the", "gate"], [-0.5, 2.0])
    >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
    [-0.5, 2.0]
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(words),) or not len(words):
        raise GlassgateError(
            f"attribution_bars: one score for each of {len(words)} words expected, got {list(scores.shape)}"
        )
    figure = new_figure(4.5, 0.2 * len(words) + 0.8)
    axes = figure.add_subplot()
    places = np.arange(len(words))
    axes.barh(places, scores, color=[INK[1] if score > 0 else INK[0] for score in scores], height=0.75)
    axes.set_yticks(places, [escape(word) for word in words], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel("against it    |    for it", fontsize=8)
    if title:
        axes.set_title(escape(title), fontsize=10, loc="left")
    return figure


def patching_map(words: Sequence[str], effects: Mapping[str, Mapping[str, npt.ArrayLike]]) -> "Figure":
    """Draw causal tracing: for each layer and step what patching each gate there does.

    Parameters
    ----------
    words
        The T words of the text that is patched.
    effects
        By layer and gate the effect at each step [T]: as `glassgate.lens.patching.Patching.effects`.

    Returns
    -------
    matplotlib.figure.Figure
        A heat map for each layer, with one scale for all, zero in the middle.

    Examples
    --------
    >>> figure = patching_map(["a", "gate"], {"l0": {"cell": [0.0, 0.5], "hidden": [0.0, 1.0]}})
    >>> figure.axes[0].images[0].get_array().tolist()
    [[0.0, 0.5], [0.0, 1.0]]
    """
    rows = {
        layer: np.array([np.asarray(e, np.float64) for e in gates.values()])
        for layer, gates in effects.items()
    }
    largest = max(float(np.abs(values).max()) for values in rows.values()) or 1.0
    count = sum(map(len, rows.values()))
    longest = max(map(len, words))
    figure = new_figure(max(4.0, 0.27 * len(words) + 1.8), 0.27 * count + 0.07 * longest + 0.5)
    panels = figure.subplots(
        len(rows), 1, sharex=True, squeeze=False, height_ratios=[len(values) for values in rows.values()]
    )[:, 0]
    for axes, (layer, values) in zip(panels, rows.items(), strict=True):
        image = axes.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            cmap=colormap(signed=True),
            vmin=-largest,
            vmax=largest,
        )
        axes.set_yticks(range(len(values)), list(effects[layer]), fontsize=8)
        axes.set_ylabel(layer, fontsize=9)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    word_axis(panels[-1], words)
    bar = figure.colorbar(image, ax=list(panels), pad=0.02, fraction=0.05)
    bar.set_label("effect in nats", fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    return figure


def training_curve(folder: Path | str) -> "Figure":
    """Draw the course of a training from the metrics.jsonl of its model folder.

    Parameters
    ----------
    folder
        As ``glassgate train`` writes it.

    Returns
    -------
    matplotlib.figure.Figure
        Perplexity in training and in validation, and the learning rate, over the steps.

    Raises
    ------
    GlassgateError
        The file is missing or damaged.

    Examples
    --------
    >>> training_curve("no-such-folder")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder/metrics.jsonl: cannot be read: No such file or directory
    """
    from json import loads

    from glassgate.language.picture import loss_figure

    path = Path(folder) / "metrics.jsonl"
    try:
        rows = [loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not rows or not all(isinstance(row, dict) and "step" in row for row in rows):
            raise ValueError("rows with a step expected")
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise GlassgateError(f"{path}: is damaged: {error}") from error
    return loss_figure(rows, Path(folder).resolve().name)


def neighbours(model: "Model", word: str, k: int = 5) -> list[tuple[str, float]]:
    """Return the words whose embeddings point most nearly the same way.

    Parameters
    ----------
    model
        From `glassgate.load`.
    word
        One word that the model knows.
    k
        How many.

    Returns
    -------
    list of (str, float)
        Words and cosines, the nearest first; neither the word itself nor ``<unk>``.

    Raises
    ------
    GlassgateError
        The word is unknown or not one word.

    Examples
    --------
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.folder.vocabulary import Vocabulary
    >>> from glassgate.runtime import Model
    >>> vocabulary = Vocabulary.build(["a gate gate opens"], tokens="spaces", closed=True, eos=False)
    >>> config = ModelConfig(cell="gru", vocabulary=3, embedding=2, hidden=2)
    >>> weights = {name: np.zeros(shape) for name, shape in config.tensors().items()}
    >>> weights["embedding.weight"] = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> [(word, round(cosine, 3)) for word, cosine in neighbours(Model(config, vocabulary, weights), "gate")]
    [('opens', 0.707), ('a', 0.0)]
    """
    found = model.numbers(word)
    if len(found) != 1:
        raise GlassgateError(f"neighbours: one word expected, got {word!r}")
    table = model.network.embedding
    own = table.rows(np.array(found))[0]
    products, lengths = np.empty(len(table)), np.empty(len(table))
    for start in range(0, len(table), 4096):  # the embedding is mapped, and need not fit in memory
        block = slice(start, min(start + 4096, len(table)))
        rows = table.rows(np.arange(block.start, block.stop))
        products[block], lengths[block] = rows @ own, np.linalg.norm(rows, axis=1)
    cosines = products / np.maximum(lengths * lengths[found[0]], np.finfo(np.float32).tiny)
    hidden = {found[0], model.vocabulary.unk}
    order = [n for n in np.argsort(-cosines, kind="stable")[: k + 2].tolist() if n not in hidden][:k]
    return [(model.vocabulary.words[n], float(cosines[n])) for n in order]


def embedding_neighbours(model: "Model", words: Sequence[str], k: int = 5) -> "Figure":
    """Draw the nearest neighbours of words in the embedding: a panel for each, a bar for each neighbour.

    Parameters
    ----------
    model
        From `glassgate.load`.
    words
        Words that the model knows.
    k
        How many neighbours of each.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GlassgateError
        A word is unknown, or there is none.
    """
    if not words:
        raise GlassgateError("embedding_neighbours: at least one word expected, got none")
    found = [neighbours(model, word, k) for word in words]
    columns = min(4, len(words))
    lines = -(-len(words) // columns)
    figure = new_figure(1.9 * columns + 0.2, lines * (0.19 * k + 0.5))
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False).flat
    for axes in panels[len(words) :]:
        axes.axis("off")
    for axes, word, near in zip(panels, words, found, strict=False):
        names = [escape(name) for name, _ in near]
        bars = axes.barh(range(len(near)), [cosine for _, cosine in near], color=INK[0], height=0.75)
        axes.bar_label(bars, [f" {cosine:.2f}" for _, cosine in near], fontsize=7)
        axes.set_yticks(range(len(near)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(escape(word), fontsize=9, loc="left", weight="bold")
        axes.set_xlim(min(0.0, *(cosine for _, cosine in near)), 1.25)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def prediction_table(traced: "Traced", k: int = 5) -> "Figure":
    """Draw what a model expected after each word of a text: a column for each word, the likeliest on top.

    Parameters
    ----------
    traced
        From `glassgate.runtime.Model.trace`.
    k
        How many predictions for each.

    Returns
    -------
    matplotlib.figure.Figure
        A cell's colour is the word's probability; what came next is framed. What does not fit in the width
        of a page goes on below.

    Raises
    ------
    GlassgateError
        ``k`` is below 1.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    best = [traced.best(k, step) for step in range(len(traced.words))]
    k = max(map(len, best))
    longest = max(len(word) for column in best for word, _ in column)
    cell = 0.075 * max(longest, *map(len, traced.words)) + 0.12  # inches
    across = min(len(best), max(4, int(PAGE / cell)))
    bands = -(-len(best) // across)
    # From white on: words stand in the cells, and are to be read in print.
    shades = LinearSegmentedColormap.from_list("glassgate-ink", ["white", INK[0]])
    figure = new_figure(max(3.0, cell * across + 0.6), bands * (0.24 * k + 0.4) + 0.3)
    panels = figure.subplots(bands, 1, squeeze=False)[:, 0]
    for band, axes in enumerate(panels):
        steps = range(band * across, min((band + 1) * across, len(best)))
        shares = np.full((k, across), np.nan)
        for column, step in enumerate(steps):
            following = traced.words[step + 1] if step + 1 < len(best) else None
            for rank, (word, probability) in enumerate(best[step]):
                shares[rank, column] = probability
                ink = "white" if probability > 0.6 else "black"
                axes.text(column, rank, escape(word), ha="center", va="center", fontsize=7, color=ink)
                if word == following:
                    corner = (column - 0.46, rank - 0.42)
                    axes.add_patch(Rectangle(corner, 0.92, 0.84, fill=False, edgecolor=INK[1], linewidth=1.6))
        image = axes.imshow(shares, aspect="auto", cmap=shades, vmin=0.0, vmax=1.0)
        names = [escape(traced.words[step]) for step in steps]
        axes.set_xticks(range(len(names)), names, fontsize=8, weight="bold")
        axes.xaxis.tick_top()
        axes.set_yticks(range(k), [str(rank + 1) for rank in range(k)], fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=list(panels), pad=0.01, fraction=0.03)
    bar.set_label("probability", fontsize=7)
    bar.ax.tick_params(labelsize=6, length=0)
    bar.outline.set_visible(False)
    return figure
