"""``glassgate count``: which trainable weights there are, matrix by matrix."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from glassgate.cli.common import needs
from glassgate.errors import GlassgateError

if TYPE_CHECKING:
    from rich.console import Console

    from glassgate.parameters import Count, Matrix

__all__ = ["command", "show"]

GAP = 2  # blanks between two columns of a table


class Column(NamedTuple):
    """A column of a table; those with the smallest ``spare`` go first where room is short, 0 stays."""

    title: str
    number: bool = False
    spare: int = 0


MATRICES = (
    Column("  matrix"),
    Column("role", spare=1),
    Column("gate", spare=2),
    Column("shape", spare=3),
    Column("weights", number=True),
)
SUMS = (
    Column(""),
    Column("weights", number=True),
    Column("fp32 bytes", number=True, spare=3),
    Column("bf16 bytes", number=True, spare=2),
    Column("int8 bytes", number=True, spare=1),
)
TITLES = {"output": "output", "embedding": "embedding, outside of the count"}


def command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A model folder; instead of the sizes.")
    ] = None,
    cell: Annotated[Literal["lstm", "gru"] | None, typer.Option(help="The kind of cell.  [lstm]")] = None,
    input: Annotated[  # noqa: A002  # as the option is called
        int | None, typer.Option(help="Width of x, the word embedding.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Nodes: width of h and C.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers, one above the other.  [1]")] = None,
    directions: Annotated[int | None, typer.Option(help="1, or 2 for bidirectional.  [1]")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Words: counts output and embedding too.  [none]")
    ] = None,
    bias: Annotated[
        bool | None, typer.Option("--bias/--no-bias", help="Biases of gates and output.  [bias]")
    ] = None,
    bias_form: Annotated[
        Literal["single", "double"] | None,
        typer.Option(help="One per gate, as in the notes, or two, as in torch.  [single]"),
    ] = None,
    tied: Annotated[bool, typer.Option("--tied", help="The output weights are the embedding.")] = False,
    projection: Annotated[int | None, typer.Option(help="LSTM: width to which h is projected.")] = None,
    peepholes: Annotated[bool, typer.Option("--peepholes", help="LSTM: gates see the cell state.")] = False,
    reset: Annotated[
        Literal["before", "after"] | None,
        typer.Option(
            help="GRU: reset before the product, as in the notes, or after it, as in torch.  [before]"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the trainable weights, matrix by matrix.

    The network is told by its sizes, or by a model folder. The total is cell and output; the
    embedding stands outside of it.
    """
    from json import dumps

    from glassgate.parameters import Network, count

    if bias is False and bias_form:
        raise GlassgateError(f"--no-bias: excludes --bias-form {bias_form}")
    given: dict[str, Any] = {
        "cell": cell,
        "input": input,
        "hidden": hidden,
        "layers": layers,
        "directions": directions,
        "vocabulary": vocabulary,
        "bias": "none" if bias is False else bias_form or (bias and "single"),
        "tied": tied or None,
        "projection": projection,
        "peepholes": peepholes or None,
        "reset": reset,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if folder is not None:
        if given:
            raise GlassgateError(f"--{next(iter(given))}: {folder} tells its own; give a folder or sizes")
        from glassgate.folder.counting import count_folder

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

    needs("rich")
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 80  # else rich would take the width of the terminal that the pipe was started from
    show(counted, console)


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
    width = console.width if console.is_terminal else 10_000  # a pipe gets all columns

    def line(text: str = "", style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, markup=False)

    line(fill(counted.network.describe(), console.width), "bold")
    line()
    widths = _fit(MATRICES, [_cells(matrix) for matrix in counted.matrices], width)
    line(_line(MATRICES, widths, [column.title for column in MATRICES]), "dim")
    for (part, layer, direction), group in groupby(counted.matrices, _place):
        title = TITLES.get(part, f"layer {layer}")
        if layer is not None and counted.network.directions > 1:
            title += f", {direction}"
        matrices = list(group)
        subtotal = f"{sum(matrix.count for matrix in matrices):,}"
        line(title + subtotal.rjust(max(_total(widths) - len(title), len(subtotal) + GAP)), "bold")
        for matrix in matrices:
            line(_line(MATRICES, widths, _cells(matrix)))

    line()
    reasons = [(reason.of, f"{reason.formula} = {reason.count:,}") for reason in counted.reasoning]
    indent = max(len(of) for of, _ in reasons) + GAP
    beside = all(indent + len(formula) <= console.width for _, formula in reasons)
    for of, formula in reasons:
        broken = fill(formula, console.width, initial_indent="  ", subsequent_indent="    ")
        line(f"{of:<{indent}}{formula}" if beside else f"{of}\n{broken}")

    line()
    sums = _sums(counted)
    widths = _fit(SUMS, sums, width)
    line(_line(SUMS, widths, [column.title for column in SUMS]), "dim")
    for row in sums:
        line(_line(SUMS, widths, row), "bold" if row is sums[-1] else "")


def _cells(matrix: "Matrix") -> tuple[str, ...]:
    shape = " x ".join(f"{size:,}" for size in matrix.shape)
    return (f"  {matrix.name}", matrix.role, matrix.gate or "", shape, f"{matrix.count:,}")


def _place(matrix: "Matrix") -> tuple[str, int | None, str | None]:
    return matrix.part, matrix.layer, matrix.direction


def _sums(counted: "Count") -> list[tuple[str, ...]]:
    """Lay out the last table: each part, and the total, with its bytes."""
    from glassgate.parameters import FORMATS

    parts = [("cell", counted.cell)]
    if counted.network.vocabulary:
        outside = "embedding, is V" if counted.network.tied else "embedding, outside"
        parts += [("output", counted.output), (outside, counted.embedding)]
        parts += [("with the embedding", counted.with_embedding)]
    parts += [("total", counted.total)]
    return [
        (name, f"{number:,}", *(f"{size * number:,}" for size in FORMATS.values())) for name, number in parts
    ]


def _fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Find the width of each column; 0 for those that are left out until the others fit."""
    widths = [
        max(len(column.title), *(len(row[place]) for row in rows)) for place, column in enumerate(columns)
    ]
    for place in sorted(range(len(columns)), key=lambda place: columns[place].spare):
        if columns[place].spare and _total(widths) > width:
            widths[place] = 0
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(width + GAP for width in widths if width) - GAP


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    cells = zip(columns, widths, row, strict=True)
    return (" " * GAP).join(
        cell.rjust(width) if column.number else cell.ljust(width) for column, width, cell in cells if width
    )
