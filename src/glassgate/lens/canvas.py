"""Figures for print: one style, and files that are there whole or not at all. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassgate.errors import GlassgateError
from glassgate.folder.files import replacing
from glassgate.lens.blocks import DIVERGING, SEQUENTIAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "INK", "colormap", "new_figure", "save", "word_axis"]

FORMATS = ("png", "svg", "pdf")
INK = ("#2c6a8c", "#aa1e2d", "#3ca878", "#8a6d1f", "#5b3f8c", "#777777")  # lines, bars and points
DPI = 300
LARGEST = 50.0  # inches; beyond, a picture has more pixels than programs open


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, that no window will show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, LARGEST), min(height, LARGEST)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def colormap(signed: bool) -> "Colormap":
    """Return the colours that the terminal has as well, for values in (-1, 1) or in (0, 1)."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [tuple(part / 255 for part in stop) for stop in (DIVERGING if signed else SEQUENTIAL)]
    return LinearSegmentedColormap.from_list("glassgate", stops)


def word_axis(axes: "Axes", words: Any) -> None:
    """Write the words under the columns of a heat map, from top to bottom."""
    axes.set_xticks(range(len(words)), [escape(word) for word in words], rotation=90, fontsize=8)
    axes.tick_params(length=0)


def escape(word: str) -> str:
    """Return a word so that matplotlib reads no mathematics into its dollar signs."""
    return word.replace("$", r"\$")


def save(figure: "Figure", path: Path | str, dots: int = DPI) -> None:
    """Write a figure as PNG, SVG or PDF, as the file's name ends.

    Parameters
    ----------
    figure
        From a function of `glassgate.lens.figures`, or any of matplotlib.
    path
        The file to write or replace.
    dots
        Of a PNG, on an inch.

    Raises
    ------
    GlassgateError
        The name ends otherwise, or the file cannot be written.

    Examples
    --------
    >>> save(new_figure(1, 1), "picture.jpeg")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: picture.jpeg: must end in .png, .svg or .pdf
    """
    from matplotlib import rc_context

    path = Path(path)
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise GlassgateError(f"{path}: must end in .png, .svg or .pdf")
    # The same figure gives the same bytes: no date, and names that do not depend on chance.
    dates: dict[str, dict[str, Any]] = {
        "png": {"Software": "glassgate"},
        "svg": {"Date": None, "Creator": "glassgate"},
        "pdf": {"CreationDate": None, "Creator": "glassgate"},
    }
    with replacing(path) as temporary, rc_context({"svg.hashsalt": "glassgate", "pdf.fonttype": 42}):
        figure.savefig(temporary, format=form, dpi=dots, metadata=dates[form])
