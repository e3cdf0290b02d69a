"""``glassgate count``: which trainable weights there are, matrix by matrix."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from glassgate.errors import GlassgateError

if TYPE_CHECKING:
    from rich.console import Console

    from glassgate.parameters import Count, Matrix

__all__ = ["command", "show"]

GAP = 2  # columns between two columns of a table


def command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A model folder; instead of the sizes.")
    ] = None,
    cell: Annotated[Literal["lstm", "gru"] | None, typer.Option(help="The kind of cell [lstm].")] = None,
    input_: Annotated[int | None, typer.Option("--input", help="Width of x, the word embedding.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Nodes: width of h and C.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers, one above the other [1].")] = None,
    directions: Annotated[int | None, typer.Option(help="1, or 2 for bidirectional [1].")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Words: counts output and embedding too [none].")
    ] = None,
    bias: Annotated[
        Literal["none", "single", "double"] | None,
        typer.Option(help="single: one per gate, as in the notes; double: two, as in torch [single]."),
    ] = None,
    no_bias: Annotated[bool, typer.Option("--no-bias", help="The same as --bias none.")] = False,
    tied: Annotated[bool, typer.Option("--tied", help="The output weights are the embedding.")] = False,
    projection: Annotated[int | None, typer.Option(help="LSTM: width to which h is projected.")] = None,
    peepholes: Annotated[bool, typer.Option("--peepholes", help="LSTM: gates see the cell state.")] = False,
    reset: Annotated[
        Literal["before", "after"] | None,
        typer.Option(
            help="GRU: reset before the product, as in the notes, or after it, as in torch [before]."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the trainable weights, matrix by matrix.

    The network is told by its sizes, or by a model folder. The total is cell and output; the
    embedding stands outside of it.
    """
    from json import dumps

    from glassgate.parameters import Network, count, count_folder

    if no_bias and bias not in (None, "none"):
        raise GlassgateError(f"--no-bias: excludes --bias {bias}")
    given: dict[str, Any] = {
        "cell": cell,
        "input": input_,
        "hidden": hidden,
        "layers": layers,
        "directions": directions,
        "vocabulary": vocabulary,
        "bias": "none" if no_bias else bias,
        "tied": tied or None,
        "projection": projection,
        "peepholes": peepholes or None,
        "reset": reset,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if folder is not None:
        if given:
            raise GlassgateError(f"--{next(iter(given))}: {folder} tells its own; give a folder or sizes")
        counted = count_folder(folder)
    else:
        for name in ("input", "hidden"):
            if name not in given:
                raise GlassgateError(f"--{name}: is missing; give --input and --hidden, or a model folder")
        try:
            network = Network(**{"cell": "lstm", **given})
        except GlassgateError as error:  # its messages begin with the field, which is the option's name
            raise GlassgateError(f"--{error}") from error
        counted = count(network)
    if json:
        typer.echo(dumps(counted.as_dict()))
        return

    from rich.console import Console

    show(counted, Console(highlight=False))


def show(counted: "Count", console: "Console") -> None:
    """Print a count: every matrix, the arithmetic, the bytes, and last the total.

    Parameters
    ----------
    counted
        From `glassgate.parameters.count`.
    console
        Where to. On a terminal too narrow for a table its less telling columns are left out; in a
        pipe all are there.
    """
    from glassgate.parameters import FORMATS

    width = console.width if console.is_terminal else 10_000
    console.print(counted.network.describe(), style="bold", soft_wrap=not console.is_terminal)

    cells = [_matrix_cells(matrix) for matrix in counted.matrices]
    groups = [(title, list(group)) for title, group in groupby(counted.matrices, _title)]
    titles = [(title, f"{sum(matrix.count for matrix in group):,}") for title, group in groups]
    ...
