"""loss.png: the course of a training."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_loss", "loss_figure"]


def draw_loss(rows: Sequence[dict[str, Any]], title: str) -> bytes:
    """Draw perplexity and learning rate over the steps, as a PNG.

    Parameters
    ----------
    rows, title
        As for `loss_figure`.

    Examples
    --------
    >>> rows = [{"step": s, "perplexity": 100 / s, "learning_rate": 1e-3} for s in (1, 2)]
    >>> draw_loss(rows, "a training")[1:4]
    b'PNG'
    """
    picture = io.BytesIO()
    loss_figure(rows, title).savefig(picture, format="png", metadata={"Software": "glassgate"})
    return picture.getvalue()


def loss_figure(rows: Sequence[dict[str, Any]], title: str) -> "Figure":
    """Draw perplexity and learning rate over the steps.

    Parameters
    ----------
    rows
        The rows of metrics.jsonl.
    title
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Its first axes hold the perplexities, its second the learning rate.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(8, 4.5), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    trained = [row for row in rows if "perplexity" in row]
    checked = [row for row in rows if "valid_perplexity" in row]
    axes.plot(
        [row["step"] for row in trained],
        [row["perplexity"] for row in trained],
        color="#7a9cc6",
        label="training",
    )
    if checked:
        values = [row["valid_perplexity"] for row in checked]
        axes.plot(
            [row["step"] for row in checked], values, "o-", color="#c0392b", markersize=4, label="validation"
        )
        best = min(range(len(values)), key=values.__getitem__)
        axes.annotate(
            f"{values[best]:.1f}",
            (checked[best]["step"], values[best]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            color="#c0392b",
        )
    axes.set_yscale("log")
    for axis in (axes.yaxis,):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if str(value)[0] in "235" else "")
        )
    axes.set_xlabel("step")
    axes.set_ylabel("perplexity")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    rate = axes.twinx()
    rate.plot(
        [row["step"] for row in trained],
        [row["learning_rate"] for row in trained],
        color="#999999",
        linewidth=1,
        linestyle=":",
    )
    rate.set_ylabel("learning rate (dotted)", color="#777777")
    rate.set_ylim(bottom=0)
    rate.spines[["top"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    return figure
